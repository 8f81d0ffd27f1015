"""How policies are found by name: those that ship, checkpoint folders, trace followers, third parties' plug-ins."""

from __future__ import annotations

import difflib
from pathlib import Path

from traceworld.errors import ConfigError
from traceworld.named import make_plugin, own_folder, plugin_names, shipped_folder
from traceworld.policies.policy import Policy

ENTRY_POINT_GROUP = "traceworld.policies"
WEIGHTS = Path(__file__).parent / "weights"

SHIPPED = ("act-nano", "act-nano-mt50")
FOLLOW, SPATIAL = "follow", "spatial"


def policy_names() -> list[str]:
    """All names that `load_policy` knows on this machine (checkpoint folders and addresses aside)."""
    return sorted({*SHIPPED, *plugin_names(ENTRY_POINT_GROUP)})


def load_policy(name_or_path: str | Path, device: str = "cpu") -> Policy:
    """A policy by name (`act-nano`, a plug-in's) or from a checkpoint folder; `follow:PREDICTOR` follows any predictor's traces,
    `spatial:PREDICTOR` carries out one spatial trace that a predictor says in words; `openpi:ws://HOST:PORT` asks a policy server.

    Third parties register a class or function under the entry-point group `traceworld.policies`; it is called without
    arguments, or for `NAME:TEXT` with the text.

    Raises:
        ConfigError: no such name or folder; lists the nearest names. A plug-in that fails.
        MissingWeightsError: a shipped policy whose weights are not in this installation.
        CheckpointError: the folder is not a readable policy.
    """
    name = str(name_or_path)
    if name in SHIPPED:
        return _from_checkpoint(shipped_folder(WEIGHTS, name, "recipes/act_nano.py"), name, device)
    kind, colon, rest = name.partition(":")
    if colon and kind == FOLLOW:
        from traceworld.policies.follower.address import load_follower

        return load_follower(rest, device)
    if colon and kind == SPATIAL:
        from traceworld.policies.follower.address import load_spatial

        return load_spatial(rest, device)
    needs = "a `name`, `reset(seed)` and `act(observation)`"
    if (found := make_plugin(ENTRY_POINT_GROUP, name, Policy, "policy", needs)) is not None:
        return found
    if (path := own_folder(name_or_path, "policy")) is not None:
        return _from_checkpoint(path, path.resolve().name, device)
    near = difflib.get_close_matches(name, policy_names(), n=3, cutoff=0.4)
    raise ConfigError(
        f"no policy or checkpoint folder is called '{name}'",
        where="policy",
        mend=f"did you mean {' or '.join(near)}?"
        if near
        else f"known: {', '.join(policy_names())}, {FOLLOW}:PREDICTOR, {SPATIAL}:PREDICTOR",
    )


def _from_checkpoint(folder: Path, name: str, device: str) -> Policy:
    from traceworld.policies.action_expert.checkpoint import load_policy_checkpoint
    from traceworld.policies.action_expert.policy import ActionExpertPolicy

    return ActionExpertPolicy(load_policy_checkpoint(folder, device).model, name)
