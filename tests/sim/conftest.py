"""One small episode of one task, played, filmed and recorded once for all tests of this folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@dataclass(frozen=True)
class Episode:
    world: Any
    rollout: Any
    stage: Any
    renderer: Any
    states: np.ndarray


@pytest.fixture(scope="session")
def drawer():
    """`drawer-open-v3`, seed 3, every eighth state, on a loaded stage with a small renderer."""
    pytest.importorskip("metaworld")
    from traceworld.sim.rendering import SceneRenderer
    from traceworld.sim.worlds import World

    world = World("drawer-open-v3")
    rollout = world.rollout(3)
    stage = world.stage()
    stage.load(rollout)
    with SceneRenderer(stage.model, 320, 240) as renderer:
        yield Episode(world, rollout, stage, renderer, rollout.qpos[::8])


@pytest.fixture(scope="session")
def film(drawer):
    """The episode filmed by `corner` at 320×240."""
    from traceworld.sim.cameras import film_cameras
    from traceworld.sim.film import shoot

    cameras = film_cameras(drawer.stage, "corner", drawer.states, 320, 240)
    return shoot(drawer.stage, drawer.renderer, cameras, drawer.states)


SMALL = {"size": (128, 96), "frame_stride": 12}


@pytest.fixture
def small() -> dict[str, Any]:
    """The settings of `recordings`."""
    return dict(SMALL)


@pytest.fixture(scope="session")
def recordings(tmp_path_factory, drawer) -> dict[str, Path]:
    """Three small recordings of one episode: still, moving with poses, moving without."""
    from traceworld.sim.record import record_episode

    out = tmp_path_factory.mktemp("recordings")
    kinds = {
        "still": {},
        "posed": {"moving_camera": True, "write_poses": True},
        "unposed": {"moving_camera": True},
    }
    return {
        name: record_episode("drawer-open", 3, out / name, world=drawer.world, **SMALL, **options)
        for name, options in kinds.items()
    }


@pytest.fixture(scope="session")
def cast_ray():
    return _cast_ray


def _cast_ray(stage, camera, xy_px) -> tuple[int, float]:
    """MuJoCo's own ray caster, which knows nothing of OpenGL: (geom or −1, metres along the camera axis)."""
    import mujoco

    ray = np.array([(xy_px[0] - camera.K[0, 2]) / camera.K[0, 0], (xy_px[1] - camera.K[1, 2]) / camera.K[1, 1], 1.0])
    rotation = camera.cam_from_world[:3, :3]
    origin, direction = -rotation.T @ camera.cam_from_world[:3, 3], rotation.T @ ray
    geom = np.array([-1], np.int32)
    shown = np.array([1, 1, 1, 0, 0, 0], np.uint8)  # the geom groups that are drawn
    length = mujoco.mj_ray(stage.model, stage.data, origin, direction, shown, 1, -1, geom)
    return int(geom[0]), float(length)  # in units of the ray, whose z is 1
