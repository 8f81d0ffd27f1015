"""The released checkpoint as ours: `traceworld convert mu0 FOLDER --stats normalizer_stats.json --out M`."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from traceworld.errors import CheckpointError, MissingWeightsError
from traceworld.models.backbones import Backbone, backbone_record, fingerprint
from traceworld.models.checkpoint import FORMAT, TOKENIZER_FOLDER, WEIGHTS_FILE, storable, write_folder
from traceworld.models.mu0.model import Mu0Model
from traceworld.models.mu0.official.config_file import ReleasedConfig, read_config
from traceworld.models.mu0.official.key_map import KeyPlan, grouped, plan_keys, rows_used
from traceworld.models.mu0.official.stats_file import read_stats
from traceworld.models.mu0.prefix_smolvlm import load_tokenizer
from traceworld.models.normalisation import Normalisation

_SCALE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class ConversionReport:
    """What was made of a released checkpoint. JSON-able (`to_dict`).

    Attributes:
        out: our checkpoint folder.
        size: the size it is, or `custom`.
        released_parameters: numbers in the file. trained_parameters: those among them that the release trained.
        stored_tensors, stored_parameters: what our checkpoint holds. dtypes: how many tensors of each.
        dead: released tensors that nothing reads; left out.
        backbones: per published part: hub id, revision, fingerprint of the file's tensors, and whether we stored them.
        tokenizer: where it will come from: `stored`, or the hub id to fetch.
        ignored_fields: of config.json, which prediction does not depend on.
        s_delta, depth_log_range: of the stats file.
    """

    out: str
    size: str
    released_parameters: int
    trained_parameters: int
    stored_tensors: int
    stored_parameters: int
    dtypes: dict[str, int]
    dead: tuple[str, ...]
    backbones: dict[str, Any]
    tokenizer: str
    ignored_fields: tuple[str, ...]
    s_delta: tuple[float, ...]
    depth_log_range: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def convert_official(
    folder: str | Path, stats: str | Path, out: str | Path, *, keep_backbone: bool = False
) -> ConversionReport:
    """Convert a released checkpoint (`config.json`, `model.safetensors`) into a checkpoint folder of ours.

    Ours holds the trained tensors in their own dtype, and names the published backbones with a fingerprint of the tensors
    that the file has of them. Nothing is downloaded.

    Args:
        stats: the release's `normalizer_stats.json`.
        keep_backbone: store the file's backbone tensors too; then loading downloads nothing. (The tokenizer is stored as well if
            the folder or the hub cache has it; the report says.)

    Raises:
        CheckpointError: a file is missing or damaged, a config field is unknown or cannot be reproduced, the stats are of
            another model, or tensors are unknown, missing or of another shape (all listed). Nothing is written then.
        MissingWeightsError: the config names a backbone that is not published with the release and is not cached.
    """
    folder = Path(folder)
    released = read_config(folder / "config.json")
    normalisation = read_stats(stats, released.config.history, released.config.horizon)
    _compare_scales(released, normalisation, folder)
    with torch.device("meta"):
        model = Mu0Model(released.config, normalisation)
    with _opened(folder / WEIGHTS_FILE) as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        backbones = model.backbones()
        plan = plan_keys(shapes, ours, tuple(f"{b.path}." for b in backbones))
        _refuse(plan, backbones, keep_backbone, folder / WEIGHTS_FILE, ours)
        stored, records = _read(file, plan, ours, backbones, keep_backbone)
    frozen = sum(math.prod(shapes[key]) for name, key in plan.sources.items() if _within(name, backbones))
    record = {
        "format": FORMAT,
        "kind": Mu0Model.kind,
        "config": released.config.to_dict(),
        "normalisation": normalisation.to_dict(),
        "stored_dtype": "mixed",
        "training": {"converted_from": "released mu0", "dead": list(plan.dead)},
        "backbones": records,
    }
    tokenizer = _tokenizer(folder, released) if keep_backbone else None
    out = write_folder(out, stored, record, {} if tokenizer is None else {TOKENIZER_FOLDER: tokenizer.save_pretrained})
    total = sum(map(math.prod, shapes.values()))
    return ConversionReport(
        out=str(out),
        size=released.config.size,
        released_parameters=total,
        trained_parameters=total - frozen,
        stored_tensors=len(stored),
        stored_parameters=sum(tensor.numel() for tensor in stored.values()),
        dtypes=dict(Counter(str(tensor.dtype).removeprefix("torch.") for tensor in stored.values())),
        dead=plan.dead,
        backbones=records,
        tokenizer=_vlm_id(released) if tokenizer is None else "stored",
        ignored_fields=released.ignored,
        s_delta=normalisation.s_delta["arc"],
        depth_log_range=(normalisation.depth_log_min, normalisation.depth_log_max),
    )


def _compare_scales(released: ReleasedConfig, normalisation: Normalisation, folder: Path) -> None:
    """config.json may repeat s_Δ; two different ones mean that the stats are of another run."""
    if released.delta_scale is None:
        return
    for own, given in zip(released.delta_scale, normalisation.s_delta["arc"], strict=True):
        if not math.isclose(own, given, rel_tol=_SCALE_TOLERANCE):
            raise CheckpointError(
                f"delta_scale is {released.delta_scale}, the stats say {normalisation.s_delta['arc']}",
                where=str(folder / "config.json"),
                mend="give the stats file of this checkpoint",
            )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError as error:
        raise CheckpointError("there are no weights here", where=str(path)) from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"is truncated or damaged: {error}", where=str(path), mend="fetch it again") from error


def _refuse(
    plan: KeyPlan, backbones: tuple[Backbone, ...], keep: bool, path: Path, ours: dict[str, tuple[int, ...]]
) -> None:
    faults = []
    missing = list(plan.missing)
    for backbone in backbones:  # all of it or nothing
        names = [name for name in ours if name.startswith(f"{backbone.path}.")]
        absent = [name for name in names if name not in plan.sources]
        if absent and (keep or len(absent) < len(names)):
            missing += absent
    if plan.unknown:
        faults.append(f"unknown {grouped(plan.unknown)}")
    if missing:
        faults.append(f"nothing for {grouped(missing)}")
    if plan.misshapen:
        faults.append(f"of another shape {grouped(plan.misshapen)}")
    if faults:
        raise CheckpointError(
            f"tensors do not fit the released model: {'; '.join(faults)}",
            where=str(path),
            mend="the weights are of another size or version than the config.json beside them",
        )


def _read(
    file: Any, plan: KeyPlan, ours: dict[str, tuple[int, ...]], backbones: tuple[Backbone, ...], keep: bool
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors to store, in their own dtype, and the records of the backbones."""
    stored: dict[str, Tensor] = {}
    for name, key in plan.sources.items():
        if keep or not _within(name, backbones):
            tensor = file.get_tensor(key)
            rows = rows_used(name, ours[name])
            stored[name] = storable(key, tensor if rows is None else tensor[rows], tensor.dtype)
    records = {}
    for backbone in backbones:
        keys = [key for name, key in plan.sources.items() if name.startswith(f"{backbone.path}.")]
        mark = fingerprint(file.get_tensor(key) for key in keys) if keys else None
        records[backbone.path] = backbone_record(backbone, mark, keep)
    return stored, records


def _within(name: str, backbones: tuple[Backbone, ...]) -> bool:
    return name.startswith(tuple(f"{backbone.path}." for backbone in backbones))


def _vlm_id(released: ReleasedConfig) -> str:
    return str(getattr(released.config.prefix, "hub_id", None))


def _tokenizer(folder: Path, released: ReleasedConfig) -> Any:
    """The tokenizer that lies beside the weights or in the hub cache; None if neither has it."""
    place = str(folder) if (folder / "tokenizer.json").exists() else _vlm_id(released)
    try:
        return load_tokenizer(place, None)
    except MissingWeightsError:
        return None
