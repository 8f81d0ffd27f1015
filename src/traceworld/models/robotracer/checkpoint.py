"""RoboTracer's checkpoint folders: as `models.checkpoint` writes them, with `processor/` beside (tokenizer, image processor and
config of the base), so that a checkpoint of a trained base needs nothing else.

config.json, beside `format`, `kind`, `config`, `stored_dtype` and `training`:
    normalisation    null: the model speaks thousandths of the picture and metres
    frozen           per published part that was not trained and is not stored: where it is from, revision, fingerprint
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from traceworld.errors import CheckpointError, ConfigError
from traceworld.extras import require
from traceworld.models.backbones import fingerprint
from traceworld.models.checkpoint import CONFIG_FILE, FORMAT, load_weights, storable, write_folder
from traceworld.models.pretrained import cached_revision
from traceworld.models.robotracer.config import RoboTracerConfig
from traceworld.models.robotracer.model import RoboTracer, build_robotracer, load_base
from traceworld.models.robotracer.processor import RoboTracerProcessor

PROCESSOR_FOLDER = "processor"
_BASE, _ENCODER = "vlm", "spatial_encoder"
_ADAPTER = re.compile(r"\.(base_layer|lora_\w+)\.")


@dataclass(frozen=True, eq=False)
class LoadedRoboTracer:
    """A RoboTracer in eval mode, its processor, and the provenance of its training."""

    model: RoboTracer
    processor: RoboTracerProcessor
    training: Mapping[str, Any]


def save_robotracer(
    folder: str | Path,
    model: RoboTracer,
    processor: RoboTracerProcessor,
    training: Mapping[str, Any] | None = None,
    *,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
) -> Path:
    """Write a checkpoint folder, whole or not at all; an older folder of that name is replaced.

    It holds what was trained: the base only if it was (`RoboTracer.base_changed`) or is published nowhere, MapAnything never.

    Args:
        training: JSON-able provenance.
        dtype: how floats are stored; float16 halves the file.

    Raises:
        CheckpointError: a weight is not finite in the stored dtype, or the base still carries adapters.
    """
    if adapted := next((name for name in model.vlm.state_dict() if _ADAPTER.search(name)), None):
        raise CheckpointError(
            "is an adapter's", where=f"vlm.{adapted}", mend="merge the adapters into the base first (merge_and_unload)"
        )
    frozen = _frozen_parts(model)
    weights = {name: tensor for name, tensor in model.state_dict().items() if not _within(name, frozen)}
    stored = {name: storable(name, tensor, getattr(torch, dtype)) for name, tensor in weights.items()}
    record = {
        "format": FORMAT,
        "kind": model.kind,
        "config": model.config.to_dict(),
        "normalisation": None,
        "stored_dtype": dtype,
        "frozen": frozen,
        "training": dict(training or {}),
    }
    inner: Any = model.vlm
    return write_folder(
        folder, stored, record, {PROCESSOR_FOLDER: lambda path: processor.save(path, base_config=inner.config)}
    )


def load_robotracer(
    folder: str | Path,
    device: str = "cpu",
    base: str | Path | None = None,
    base_dtype: Literal["float32", "bfloat16"] = "float32",
) -> LoadedRoboTracer:
    """Read a checkpoint folder.

    Args:
        base: a folder with the published base, if the checkpoint only names it; None: the hub's local cache.
        base_dtype: in which a base that the checkpoint holds is kept in memory (a published one: as it is published).

    Raises:
        CheckpointError: missing, truncated, newer, of another kind, its tensors do not fit its config (named), or a published
            part is not the one that it was trained on.
        MissingWeightsError, MissingExtraError: a part that it names is not on this machine.
    """
    folder = Path(folder)
    record = _read(folder)
    try:
        config = RoboTracerConfig.from_dict(record["config"])
    except ConfigError as error:
        raise CheckpointError(str(error), where=str(folder / CONFIG_FILE)) from error
    processor = RoboTracerProcessor.from_base(config, folder / PROCESSOR_FOLDER)
    frozen = record["frozen"]
    if _BASE in frozen:
        vlm = _published_base(config, base)
    else:
        vlm = require("transformers").AutoModelForImageTextToText.from_config(
            processor.base_config, dtype=getattr(torch, base_dtype)
        )
    model = build_robotracer(config, processor, vlm)
    model.base_trained = _BASE not in frozen
    load_weights(folder, _Stored(model, frozen))
    for part, entry in frozen.items():
        if fingerprint(model.get_submodule(part).state_dict().values()) != entry["fingerprint"]:
            raise CheckpointError(
                "these are not the weights that the checkpoint was trained on",
                where=f"{part} from {entry['place']}",
                mend=f"get {entry['place']} at the revision of the training ({entry['revision'] or 'not recorded'})",
            )
    return LoadedRoboTracer(model.eval().to(device), processor, record["training"])


def is_robotracer(folder: Path) -> bool:
    """Whether a checkpoint folder says that it holds a RoboTracer (nothing else of it is read)."""
    try:
        record = json.loads((folder / CONFIG_FILE).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record.get("kind") == RoboTracer.kind


class _Stored(nn.Module):
    """The part of a model that a checkpoint holds, for `load_weights`."""

    def __init__(self, model: RoboTracer, frozen: Mapping[str, Any]):
        super().__init__()
        self.held = {name: tensor for name, tensor in model.state_dict().items() if not _within(name, frozen)}

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Tensor]:  # type: ignore[override]
        return self.held


def _frozen_parts(model: RoboTracer) -> dict[str, dict[str, Any]]:
    config = model.config
    places: dict[str, tuple[str, str | None]] = {}
    if config.base and not model.base_changed:
        places[_BASE] = (config.base, config.base_revision)
    if model.spatial_encoder is not None and model.spatial_encoder.frozen:
        spatial: Any = config.spatial
        places[_ENCODER] = (spatial.hub_id, spatial.revision)
    return {
        part: {
            "place": place,
            "revision": revision or cached_revision(place, revision),
            "fingerprint": fingerprint(model.get_submodule(part).state_dict().values()),
        }
        for part, (place, revision) in places.items()
    }


def _published_base(config: RoboTracerConfig, base: str | Path | None) -> nn.Module:
    if base is None:
        return load_base(config)
    return load_base(dataclasses.replace(config, base=str(base), base_revision=None))


def _within(name: str, parts: Mapping[str, Any]) -> bool:
    return any(name.startswith(f"{part}.") for part in parts)


def _read(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError("is not a checkpoint folder: no config.json", where=str(folder)) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot be read: {error}", where=str(path), mend="fetch it again") from error
    if not isinstance(record, dict) or record.get("kind") != RoboTracer.kind:
        raise CheckpointError("does not describe a RoboTracer", where=str(path))
    if not isinstance(record.get("format"), int) or record["format"] > FORMAT:
        raise CheckpointError(
            f"has format {record.get('format')}, this version reads up to {FORMAT}",
            where=str(path),
            mend="pip install -U traceworld",
        )
    if missing := {"config", "frozen", "training"} - set(record):
        raise CheckpointError(f"missing fields {sorted(missing)}", where=str(path))
    return record
