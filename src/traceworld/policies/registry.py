"""How policies are found by name: those that ship, checkpoint folders, trace followers, third parties' plug-ins."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from traceworld.errors import CheckpointError, ConfigError, MissingWeightsError
from traceworld.policies.policy import Policy

ENTRY_POINT_GROUP = "traceworld.policies"
WEIGHTS = Path(__file__).parent / "weights"

_SHIPPED = ("act-nano",)
FOLLOW = "follow"


def policy_names() -> list[str]:
    """All names that `load_policy` knows on this machine (checkpoint folders and addresses aside)."""
    return sorted({*_SHIPPED, *(entry.name for entry in entry_points(group=ENTRY_POINT_GROUP))})


def load_policy(name_or_path: str | Path, device: str = "cpu") -> Policy:
    """A policy by name (`act-nano`, a plug-in's) or from a checkpoint folder; `follow:PREDICTOR` follows any predictor's traces.

    Third parties register a class or function under the entry-point group `traceworld.policies`; it is called without
    arguments, or for `NAME:TEXT` with the text.

    Raises:
        ConfigError: no such name or folder; lists the nearest names. A plug-in that fails.
        MissingWeightsError: a shipped policy whose weights are not in this installation.
        CheckpointError: the folder is not a readable policy.
    """
    name = str(name_or_path)
    if name in _SHIPPED:
        folder = WEIGHTS / name
        if not (folder / "config.json").exists():
            raise MissingWeightsError(
                f"the weights of '{name}' are not in this installation",
                where=str(folder),
                mend="reinstall traceworld, or train them with recipes/act_nano.py",
            )
        return _from_checkpoint(folder, name, device)
    kind, colon, rest = name.partition(":")
    if colon and kind == FOLLOW:
        from traceworld.policies.follower.address import load_follower

        return load_follower(rest, device)
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name in (name, kind):
            return _from_plugin(entry, [] if entry.name == name else [rest])
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return _from_checkpoint(path, path.resolve().name, device)
    if path.is_file():
        raise CheckpointError("is a file", where=str(path), mend="give the policy's folder")
    near = difflib.get_close_matches(name, policy_names(), n=3, cutoff=0.4)
    raise ConfigError(
        f"no policy or checkpoint folder is called '{name}'",
        where="policy",
        mend=f"did you mean {' or '.join(near)}?"
        if near
        else f"known: {', '.join(policy_names())}, {FOLLOW}:PREDICTOR",
    )


def _from_checkpoint(folder: Path, name: str, device: str) -> Policy:
    from traceworld.policies.action_expert.checkpoint import load_policy_checkpoint
    from traceworld.policies.action_expert.policy import ActionExpertPolicy

    return ActionExpertPolicy(load_policy_checkpoint(folder, device).model, name)


def _from_plugin(entry: EntryPoint, arguments: list[str]) -> Policy:
    """A third party's policy; whatever it raises while it is made names the plug-in."""
    where = f"{ENTRY_POINT_GROUP}: {entry.name} = {entry.value}"
    try:
        make: Callable[..., object] = entry.load()
        made = make(*arguments)
    except Exception as error:
        raise ConfigError(f"the plug-in fails: {error!r}", where=where, mend="update or remove its package") from error
    if not isinstance(made, Policy):
        raise ConfigError("is no policy", where=where, mend="give it a `name`, `reset(seed)` and `act(observation)`")
    return made
