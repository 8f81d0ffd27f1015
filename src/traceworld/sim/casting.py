"""Who plays an episode and how it looks, as recordings and corpora ask for it. What they ask for by default is Meta-World as
it is, on a plain stage, and leaves no mark on what is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Float64

from traceworld.sim.embodiments import SAWYER
from traceworld.sim.studio import Studio
from traceworld.sim.variety import Variety
from traceworld.sim.worlds import Rollout, Stage, World


def is_plain(embodiments: Sequence[str], variety: Variety | None) -> bool:
    """Whether this is Meta-World as it is."""
    return variety is None and set(embodiments) == {SAWYER}


def stage_for(world: World, embodiments: Sequence[str], variety: Variety | None) -> Stage:
    """A stage on which all of these can be shown."""
    return world.stage() if is_plain(embodiments, variety) else Studio.of(world)


def furnish(
    stage: Stage,
    rollout: Rollout,
    states: Float64[np.ndarray, "T nq"],
    embodiment: str,
    variety: Variety | None,
    seed: Sequence[int],
) -> tuple[int, ...]:
    """Load an episode onto a stage of `stage_for`, played by `embodiment`, in a look drawn from `seed`.

    Returns:
        Textures to give to a renderer that is already open (`SceneRenderer.upload_textures`).

    Raises:
        ConfigError: no such embodiment.
    """
    if not isinstance(stage, Studio):
        stage.load(rollout)
        return ()
    stage.embody(embodiment)
    stage.load(rollout)
    if variety is None:
        return ()
    return variety.dress(stage, np.random.default_rng([*seed, 0x100C]), states)


def settings_of(config: Any, *cast_fields: str) -> dict[str, Any]:
    """The fields of a config by name. Those about embodiment and variety are left out where they have their defaults: what
    is written of Meta-World as it is does not depend on there being other choices."""
    defaults = {name: type(config).__dataclass_fields__[name].default for name in cast_fields}
    return {
        name: value
        for name, value in asdict(config).items()
        if name not in defaults or getattr(config, name) != defaults[name]
    }
