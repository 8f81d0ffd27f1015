"""Published weights from the hub's local cache. Nothing is downloaded on the quiet: what is absent is an error that says
which licence it has and which command fetches it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from traceworld.errors import CheckpointError, MissingWeightsError
from traceworld.extras import require

_UNSEEN_IN_SHAPES = (
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "layer_norm_eps",
    "rope_parameters",
    "scale_factor",
)
"""What changes the numbers that a model gives and no tensor's shape."""

_LICENCE = {
    "HuggingFaceTB": "Apache-2.0",
    "facebook/dinov2": "Apache-2.0",
    "facebook/dinov3": "DINOv3 License, to be accepted on its model page first",
    "google/siglip": "Apache-2.0",
    "google-t5": "Apache-2.0",
}


def missing_weights(hub_id: str, revision: str | None) -> MissingWeightsError:
    """The error for weights that are not on this machine: licence and exact command."""
    licence = next((name for prefix, name in _LICENCE.items() if hub_id.startswith(prefix)), "see its model card")
    pin = f" --revision {revision}" if revision else ""
    return MissingWeightsError(
        f"the weights are not in the local hub cache (licence: {licence})",
        where=hub_id,
        mend=f"hf download {hub_id}{pin}",
    )


def load_pretrained(module: nn.Module, class_name: str, hub_id: str, revision: str | None) -> None:
    """Copy the cached weights of `hub_id` into `module`, an instance of transformers' `class_name` of the same shape.

    A module with fewer layers than the published model takes the first ones.

    Raises:
        MissingWeightsError: they are not cached.
        CheckpointError: a tensor is missing or has another shape than `module` wants, or the published config has another
            rotary base, norm epsilon, head count or activation; named with both values.
    """
    transformers = require("transformers")
    try:
        published = getattr(transformers, class_name).from_pretrained(
            hub_id, revision=revision, local_files_only=True, dtype="auto"
        )
    except OSError as error:
        raise missing_weights(hub_id, revision) from error
    for name, own, theirs in differences(module.config, published.config):
        raise CheckpointError(
            f"{name} is {own} here, {theirs} in the published config",
            where=hub_id,
            mend="set the model's config to the published value, or use the hub id and revision that it describes",
        )
    weights = published.state_dict()
    for name, target in module.state_dict().items():
        if name not in weights or weights[name].shape != target.shape:
            found = f"shape {tuple(weights[name].shape)}" if name in weights else "nothing"
            raise CheckpointError(
                f"tensor '{name}' should be {tuple(target.shape)}, the hub has {found}",
                where=hub_id,
                mend="use the hub id and revision that the config describes",
            )
    module.load_state_dict({name: weights[name] for name in module.state_dict()})
    config: Any = module.config
    config._commit_hash = cached_revision(hub_id, revision)


def cached_revision(hub_id: str, revision: str | None) -> str | None:
    """The commit that a revision (None: `main`) of a hub model is at in the local cache; None for a local folder."""
    if Path(hub_id).is_dir():
        return None
    hub = require("huggingface_hub")
    found = hub.try_to_load_from_cache(hub_id, "config.json", revision=revision or "main")
    return Path(found).parent.name if isinstance(found, str) else None


def differences(own: Any, published: Any, within: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Settings in which two transformers configs (and their vision and text parts) differ without another tensor shape.

    Yields:
        Dotted name, own value, published value. What only one of them knows does not count.
    """
    for name in _UNSEEN_IN_SHAPES:
        ours, theirs = getattr(own, name, None), getattr(published, name, None)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            for key in sorted(ours.keys() | theirs.keys()):
                if ours.get(key) != theirs.get(key):
                    yield f"{within}{name}.{key}", ours.get(key), theirs.get(key)
        elif ours is not None and theirs is not None and ours != theirs:
            yield f"{within}{name}", ours, theirs
    for part in ("vision_config", "text_config"):
        if hasattr(own, part) and hasattr(published, part):
            yield from differences(getattr(own, part), getattr(published, part), f"{within}{part}.")
