"""The switches in which the released policy differs from ours, in one table (dossier §5.1, §6.16, §6.38).

Taking features before the final norm, resizing the gripper's picture once, and averaging features over the grid are what
`compat="official"` itself does. The released policy draws new noise for the traces at every call, unseeded; here it follows from
the seed and the place, as everywhere.
"""

from __future__ import annotations

from typing import Any

from traceworld.errors import ConfigError
from traceworld.policies.action_expert.config import FlowHeadConfig, GripperConfig, PolicyConfig, QueryConfig

QUERY = QueryConfig(kind="uniform_grid", grid=(20, 20), pool=2, noise_cell=1e-3)
GRIPPER = GripperConfig(source="dino", grid=(8, 8))
HEAD = FlowHeadConfig(prefix_sees_time=True, tau="beta", euler_steps=10)

_SWITCHES: dict[str, Any] = {
    "query.kind": "uniform_grid",
    "gripper.source": "dino",
    "head.kind": "flow",
    "head.prefix_sees_time": True,
    "proprioception": "linear",
    "normalise": "none",
    "depth": False,
}
"""Dotted field → value. Without these a config cannot say `compat="official"`."""


def official_config(state_dim: int, action_dim: int, *, chunk: int = 16, use_trace: bool = True) -> PolicyConfig:
    """The released policy's config; `use_trace=False` is its "w/o Trace"."""
    return PolicyConfig(
        state_dim,
        action_dim,
        size="400m-official",
        chunk=chunk,
        trace="expert" if use_trace else "none",
        mixer_heads=16,
        proprioception="linear",
        normalise="none",
        query=QUERY,
        gripper=GRIPPER,
        head=HEAD,
        compat="official",
    )


def check_official(config: PolicyConfig) -> None:
    """
    Raises:
        ConfigError: a switch stands otherwise than in the released code (all named).
    """
    wrong = []
    for path, value in _SWITCHES.items():
        found: Any = config
        for name in path.split("."):
            found = getattr(found, name, None)
        if found != value:
            wrong.append(f"{path} is {found!r}, not {value!r}")
    if config.trace == "self":
        wrong.append("trace is 'self', which the released code does not know")
    if wrong:
        raise ConfigError("; ".join(wrong), where="compat", mend="use official.switches.official_config")
