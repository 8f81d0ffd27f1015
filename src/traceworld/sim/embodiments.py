"""Who plays a motion. The physics is always that of Meta-World's own arm; what is shown of it is a choice.

sawyer        Meta-World's arm, as it is.
bare-gripper  only its gripper: no arm, no base.
hand-like     a person whose hand takes the gripper's part.
other-arm     a six-joint arm of another build, colour and place that brings its own gripper to the same poses.

Nothing but the look changes: the objects move as they were moved, and every trace stays exact, on whatever is shown.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from traceworld.errors import ConfigError
from traceworld.sim.puppets import OtherArm, Person, Puppet

SAWYER = "sawyer"
"""Meta-World's own arm, the default."""

PUPPETS: Mapping[str, Puppet] = {"hand-like": Person(), "other-arm": OtherArm()}
"""Embodiments that are not made of Meta-World's geoms."""

EMBODIMENTS: tuple[str, ...] = (SAWYER, "bare-gripper", *PUPPETS)

SHOWN_BODIES: Mapping[str, tuple[str, ...]] = {
    "bare-gripper": ("right_hand", "hand", "rightclaw", "rightpad", "leftclaw", "leftpad"),
    **dict.fromkeys(PUPPETS, ()),
}
"""What is left to see of Meta-World's arm: its bodies by name. (All of it as `sawyer`.)"""


def check_embodiment(name: str) -> str:
    """`name` itself.

    Raises:
        ConfigError: no such embodiment; the message gives the nearest name.
    """
    if name in EMBODIMENTS:
        return name
    near = difflib.get_close_matches(name, EMBODIMENTS, n=1, cutoff=0.0)[0]
    raise ConfigError(f"there is no embodiment '{name}'", where="embodiment", mend=f"did you mean '{near}'?")


def embodiment_of(meta: Mapping[str, Any]) -> str:
    """Who plays in a clip (its `provenance`) or a recording (`clip.json`'s or `truth.json`'s `simulated`). Data that says
    nothing about it shows Meta-World's own arm."""
    return str(meta.get("embodiment", SAWYER))


def embodiment_for(embodiments: Sequence[str], episode: int, seed: Sequence[int]) -> str:
    """Who plays episode `episode`: every run of as many episodes as there are names has each name once, in an order drawn
    from `seed` (a name given twice plays twice as often)."""
    turn, place = divmod(episode, len(embodiments))
    return embodiments[np.random.default_rng([*seed, turn, 0xE3B]).permutation(len(embodiments))[place]]
