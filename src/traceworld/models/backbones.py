"""Pretrained parts of a model that its checkpoint names instead of holding: hub id, revision, and a fingerprint.

A checkpoint of 522M trained parameters would otherwise carry two thousand million public ones along. Loading fills them from
the hub's local cache or from a given folder, and the fingerprint says if those are the ones the model was trained on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from traceworld.errors import CheckpointError, MissingWeightsError
from traceworld.models.pretrained import load_pretrained

_SAMPLED = 64


@dataclass(frozen=True)
class Backbone:
    """One pretrained part.

    Attributes:
        path: where it is in the model ("prefix.vlm").
        class_name: of transformers.
        hub_id, revision: what its weights are; revision None: unknown (as yet, or a local folder).
    """

    path: str
    class_name: str
    hub_id: str
    revision: str | None


def named_backbones(model: Any) -> list[Backbone]:
    """The published parts of a model that stayed frozen, which a checkpoint need not hold. Most models have none."""
    declared: Iterable[Backbone] = getattr(model, "backbones", tuple)()
    return [b for b in declared if not any(p.requires_grad for p in model.get_submodule(b.path).parameters())]


def fingerprint(tensors: Iterable[Tensor]) -> str:
    """A hash of the shapes and of 64 values of each tensor, in bfloat16; the order and the names do not matter.

    The released weights are kept in bfloat16 here and float32 there; names differ between versions of transformers.
    """
    parts = []
    for tensor in tensors:
        flat = tensor.detach().reshape(-1)
        at = torch.linspace(0, len(flat) - 1, min(_SAMPLED, len(flat)), dtype=torch.float64).long()
        values = flat[at.to(flat.device)].to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes()
        parts.append(hashlib.sha256(repr(tuple(tensor.shape)).encode() + values).digest())
    return hashlib.sha256(b"".join(sorted(parts))).hexdigest()


def backbone_record(backbone: Backbone, mark: str | None, stored: bool) -> dict[str, Any]:
    """The entry of config.json. `stored`: the checkpoint holds its tensors all the same."""
    return {
        "class": backbone.class_name,
        "hub_id": backbone.hub_id,
        "revision": backbone.revision,
        "fingerprint": mark,
        "stored": stored,
    }


def left_out(record: Mapping[str, Any]) -> list[str]:
    """The paths of the backbones that a checkpoint does not hold."""
    return [path for path, entry in record.items() if not entry["stored"]]


def fill_backbones(model: nn.Module, record: Mapping[str, Any], source: str | Path | None = None) -> None:
    """Fill the parts that a checkpoint left out.

    Args:
        record: `backbones` of its config.json.
        source: a folder with a subfolder for each, called as the last part of the hub id (`hf download ID --local-dir`);
            None: the hub's local cache.

    Raises:
        MissingWeightsError: they are not there; says licence and command.
        CheckpointError: they are of other shapes or settings, or not those that the model was trained on.
    """
    for path in left_out(record):
        entry = record[path]
        module = model.get_submodule(path)
        place, revision = entry["hub_id"], entry["revision"]
        if source is not None:
            place, revision = str(Path(source) / Path(place).name), None
            if not Path(place).is_dir():
                raise MissingWeightsError(
                    f"the weights of {entry['hub_id']} are not here",
                    where=place,
                    mend=f"hf download {entry['hub_id']} --local-dir {place}",
                )
        load_pretrained(module, entry["class"], place, revision)
        if entry["fingerprint"] not in (None, fingerprint(module.state_dict().values())):
            raise CheckpointError(
                "these are not the weights that the checkpoint was trained on",
                where=f"{path} from {place}",
                mend=f"get {entry['hub_id']} at the revision of the training ({entry['revision'] or 'not recorded'})",
            )
