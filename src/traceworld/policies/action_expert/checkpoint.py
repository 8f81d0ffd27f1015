"""Checkpoint folders of policies: `config.json`, `model.safetensors` (what was trained), and perhaps `mu0/`.

config.json, format 1:
    format        1
    kind          "policy"
    config        `PolicyConfig`, read back strictly
    scales        `ActionScales`: means, spreads, names and bounds of states and actions
    mu0           the frozen μ0: `stored` (in `mu0/`, a checkpoint folder of its own), else `source`: its name or folder;
                  `fingerprint` of its weights either way
    stored_dtype  of the stored floats
    training      provenance: whatever the trainer says (JSON)

While it is trained, a policy names its μ0; when it is shipped, it contains it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from traceworld.errors import CheckpointError, ConfigError
from traceworld.models.backbones import fingerprint
from traceworld.models.checkpoint import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    load_checkpoint,
    save_checkpoint,
    storable,
    write_folder,
)
from traceworld.models.mu0.model import Mu0Model
from traceworld.models.mu0.predictor import Mu0Predictor
from traceworld.models.predictor import load_predictor
from traceworld.policies.action_expert.config import PolicyConfig
from traceworld.policies.action_expert.model import PolicyModel
from traceworld.policies.action_expert.normalisation import ActionScales

FORMAT = 1
KIND = PolicyModel.kind
MU0_FOLDER = "mu0"


def save_policy(
    folder: str | Path,
    model: PolicyModel,
    extra: Mapping[str, Any] | None = None,
    *,
    source: str | None = None,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
) -> Path:
    """Write a policy, whole or not at all; an older folder of that name is replaced.

    Args:
        extra: JSON-able provenance of the training.
        source: name or folder of its μ0, if it is only to be named; None: the folder contains it.
        dtype: how floats are stored, those of a contained μ0 as well.

    Raises:
        CheckpointError: a weight is not finite, or a parameter of μ0 could be trained.
    """
    model.check_frozen()
    mu0 = model.frozen.mu0
    stored = {name: storable(name, tensor, getattr(torch, dtype)) for name, tensor in model.own_state().items()}
    mark = fingerprint(mu0.state_dict().values())
    record = policy_record(model.config, model.scales, source, mark, extra, dtype)
    beside = {}
    if source is None:
        beside = {MU0_FOLDER: lambda path: save_checkpoint(path, mu0, mu0.normalisation, dtype=dtype)}
    return write_folder(folder, stored, record, beside)


def policy_record(
    config: PolicyConfig,
    scales: ActionScales,
    source: str | None,
    mark: str | None,
    extra: Mapping[str, Any] | None,
    dtype: str,
) -> dict[str, Any]:
    """config.json of a policy whose μ0 is named (`source`) or contained (None). `mark`: its fingerprint, if it is known."""
    return {
        "format": FORMAT,
        "kind": KIND,
        "config": config.to_dict(),
        "scales": scales.to_dict(),
        "mu0": {"stored": source is None, "source": source, "fingerprint": mark},
        "stored_dtype": dtype,
        "training": dict(extra or {}),
    }


@dataclasses.dataclass(frozen=True)
class PolicyCheckpoint:
    """A loaded policy: the model (in eval mode) and the training provenance."""

    model: PolicyModel
    extra: Mapping[str, Any]


def load_policy_checkpoint(folder: str | Path, device: str = "cpu", mu0: Mu0Model | None = None) -> PolicyCheckpoint:
    """Read a policy's folder.

    Args:
        mu0: the μ0 that it names, if it is there already; else it is loaded by its name.

    Raises:
        CheckpointError: missing, damaged, newer, its tensors do not fit its config, or its μ0 is another one.
        ConfigError, MissingWeightsError: its μ0 is not on this machine.
    """
    folder = Path(folder)
    record = read_policy_record(folder)
    try:
        config, scales = PolicyConfig.from_dict(record["config"]), ActionScales.from_dict(record["scales"])
    except ConfigError as error:
        raise CheckpointError(str(error), where=str(folder / CONFIG_FILE)) from error
    if mu0 is None:
        stored = record["mu0"]["stored"]
        mu0 = load_checkpoint(folder / MU0_FOLDER).model if stored else load_mu0(record["mu0"]["source"])
    wanted = record["mu0"]["fingerprint"]
    if not record["mu0"]["stored"] and wanted is not None and fingerprint(mu0.state_dict().values()) != wanted:
        raise CheckpointError(
            "this is not the μ0 that the policy was trained on",
            where=str(record["mu0"]["source"]),
            mend="use the version of it that was there when the policy was trained",
        )
    model = PolicyModel(config, mu0, scales)
    fill_policy(folder, model)
    return PolicyCheckpoint(model.to(device).eval(), record["training"])


def load_mu0(name_or_path: str) -> Mu0Model:
    """The model behind a name of `load_predictor` or a checkpoint folder.

    Raises:
        ConfigError: it is no μ0. What `load_predictor` raises.
    """
    predictor = load_predictor(name_or_path)
    if not isinstance(predictor, Mu0Predictor):
        raise ConfigError(f"'{name_or_path}' is no μ0", where="mu0", mend="the action expert reads the insides of a μ0")
    return predictor.model


def fill_policy(folder: Path, model: PolicyModel) -> ActionScales:
    """Fill `model` with the weights and scales of a folder.

    Raises:
        CheckpointError: it has another config, or names or shapes of tensors differ.
        ConfigError: its config cannot be read.
    """
    record = read_policy_record(folder)
    if PolicyConfig.from_dict(record["config"]) != model.config:  # read: an older file says less
        raise CheckpointError("is of another configuration than the model", where=str(folder / CONFIG_FILE))
    path = folder / WEIGHTS_FILE
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot be read: {error}", where=str(path), mend="fetch it again") from error
    own = model.own_state()
    wrong = sorted(set(own) ^ set(weights)) + [n for n in own if n in weights and own[n].shape != weights[n].shape]
    if wrong:
        raise CheckpointError(f"tensors do not fit: {', '.join(wrong[:5])}", where=str(path))
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(weights[name])
    scales = ActionScales.from_dict(record["scales"])
    model.set_scales(scales)
    return scales


def read_policy_record(folder: Path) -> dict[str, Any]:
    """config.json of a policy. Raises CheckpointError if it is none that this version can read."""
    path = folder / CONFIG_FILE
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"cannot be read: {error}", where=str(path), mend="give the folder of a policy"
        ) from error
    if not isinstance(record, dict) or record.get("kind") != KIND:
        raise CheckpointError("does not describe a policy", where=str(path), mend="give the folder of a policy")
    if record.get("format") != FORMAT:
        raise CheckpointError(
            f"has format {record.get('format')}, this version reads {FORMAT}",
            where=str(path),
            mend="pip install -U traceworld",
        )
    if missing := {"config", "scales", "mu0", "training"} - set(record):
        raise CheckpointError(f"missing fields {sorted(missing)}", where=str(path))
    return record
