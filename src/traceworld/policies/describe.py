"""What a policy is: parameters per part, its μ0, what it is shown and what its actions mean (`traceworld info policy:NAME`)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from traceworld.errors import CheckpointError
from traceworld.models.describe import count_parameters
from traceworld.models.mu0.config import Mu0Config
from traceworld.models.mu0.sizes import mu0_config
from traceworld.policies.action_expert.checkpoint import read_policy_record
from traceworld.policies.action_expert.config import PolicyConfig
from traceworld.policies.action_expert.policy import ActionExpertPolicy
from traceworld.policies.action_expert.sizes import OFFICIAL, SIZES, count_policy, policy_config
from traceworld.policies.registry import load_policy

_ROBOCASA_DIMS, _METAWORLD_DIMS = (16, 12), (4, 4)
"""Numbers of state and action."""


def is_policy(folder: str | Path) -> bool:
    """Whether a checkpoint folder holds a policy."""
    try:
        read_policy_record(Path(folder))
    except CheckpointError:
        return False
    return True


def describe_policy(name: str) -> dict[str, Any]:
    """A size of the action expert (`nano`, `400m`, …), or any policy that `load_policy` knows (JSON-able).

    Sizes are counted without being made: the small ones for Meta-World on `mu0:nano`, the large ones for RoboCasa on the μ0 of
    their kind (`large`, or the released one).

    Raises:
        ConfigError, CheckpointError, MissingWeightsError: as `load_policy`.
    """
    if name in (*SIZES, OFFICIAL):
        small = name.startswith("nano")
        mu0 = "nano" if small else "large-official" if name == OFFICIAL else "large"
        config = policy_config(name, *(_METAWORLD_DIMS if small else _ROBOCASA_DIMS))
        return {"policy": name, "mu0": f"mu0:{mu0}", "parameters": _counted(config, mu0_config(mu0))}
    policy = load_policy(name)
    if not isinstance(policy, ActionExpertPolicy):
        return {"name": policy.name, "kind": "nothing is trained", "parameters": {"total": 0, "trained": 0}}
    frozen = policy.model.frozen.mu0
    return {
        "name": policy.name,
        "kind": "action expert" if policy.config.head.kind == "flow" else f"{policy.config.head.kind} baseline",
        "config": policy.config.to_dict(),
        "parameters": _counted(policy.config, frozen.config),
        "cameras": list(policy.cameras),
        "actions": asdict(policy.spec),
    }


def _counted(config: PolicyConfig, mu0: Mu0Config) -> dict[str, int]:
    """`head`, `injection` and `stems` are trained; they and `frozen_mu0` add up to `total`."""
    parts = count_policy(config, mu0)
    trained, frozen = parts.pop("total"), count_parameters("mu0", mu0)["total"]
    return {"total": trained + frozen, "trained": trained, **parts, "frozen_mu0": frozen}
