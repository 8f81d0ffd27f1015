"""The oracle's future is the one that comes true, and asking for it changes nothing."""

import numpy as np
import pytest

pytest.importorskip("metaworld")

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.geometry.cameras import px_to_uv, uv_to_px, uvz_to_world
from traceworld.sim.control import MetaworldEnv
from traceworld.sim.oracle import ExactTraces
from traceworld.sim.rays import cast
from traceworld.sim.sketch import SketchedEnv
from traceworld.sim.worlds import STEP_S, expert_action
from traceworld.traces.types import Observation


@pytest.fixture(scope="module")
def sketched():
    env = SketchedEnv(MetaworldEnv("drawer-open", max_steps=120))
    env.reset(4)
    for _ in range(30):  # the gripper is under way
        env.step(expert_action(env.env.expert(), env.env.expert_view()))
    yield env
    env.close()


def asked(env: SketchedEnv, count: int = 40, **options) -> tuple[Observation, np.ndarray]:
    """About points spread over what is seen, and the body of each."""
    seen = env.observe()
    depth = seen.depth_m["corner2"]
    y, x = np.nonzero(np.isfinite(depth))
    pick = np.random.default_rng(0).permutation(len(x))[:count]
    near = np.argsort(np.hypot(x - np.median(x), y - np.median(y)))[:count]
    pick = np.unique(np.concatenate([pick, near]))
    xy = np.stack([x, y], 1)[pick].astype(float)
    simulation = env.env._world.simulation()
    _, body = cast(simulation.model, simulation.data, env.camera, xy)
    observation = Observation(
        image=seen.images["corner2"],
        instruction=seen.instruction,
        keypoints_uv=px_to_uv(xy, *env.image_size),
        keypoints_z_m=depth[y, x][pick].astype(float),
        **options,
    )
    return observation, body


def carried_on(env: SketchedEnv, body: np.ndarray, first: np.ndarray, steps: int) -> np.ndarray:
    """[steps, N, 3] where points of bodies really are while the expert plays on (the environment is put back)."""
    data, start = env.env._world.simulation().data, env.snapshot()
    local = np.array([data.xmat[b].reshape(3, 3).T @ (p - data.xpos[b]) for b, p in zip(body, first, strict=True)])
    path = []
    for _ in range(steps):
        env.step(expert_action(env.env.expert(), env.env.expert_view()))
        path.append([data.xpos[b] + data.xmat[b].reshape(3, 3) @ p for b, p in zip(body, local, strict=True)])
    env.restore(start)
    return np.array(path)


def test_what_it_says_comes_true(sketched):
    observation, body = asked(sketched)
    camera = sketched.camera
    prediction = ExactTraces(sketched.env, camera).predict(observation, num_samples=2)
    assert prediction.uvz.shape == (2, len(body), 32, 3)
    assert prediction.valid.all()
    assert np.array_equal(prediction.uvz[0], prediction.uvz[1])
    uvz = np.concatenate([observation.keypoints_uv, observation.keypoints_z_m[:, None]], 1)
    now = uvz_to_world(uvz, camera.K, camera.cam_from_world, camera.width, camera.height)
    truth = carried_on(sketched, body, now, 64)[1::2]  # steps of 25 ms are two of the environment
    said = uvz_to_world(
        prediction.uvz[0].astype(float), camera.K, camera.cam_from_world, camera.width, camera.height
    ).transpose(1, 0, 2)
    assert np.abs(said - truth).max() < 1e-4
    assert np.linalg.norm(truth[-1] - now, axis=1).max() > 0.05  # and something moved


def test_asking_leaves_the_simulation_as_it_was(sketched):
    before = sketched.snapshot()
    view = sketched.env.expert_view()
    ExactTraces(sketched.env, sketched.camera, action_noise=0.5).predict(asked(sketched)[0], num_samples=3, seed=1)
    after = sketched.snapshot()
    assert np.array_equal(before.world.physics, after.world.physics)
    assert after.steps == before.steps
    assert np.array_equal(view, sketched.env.expert_view())

    def next_states():
        start, states = sketched.snapshot(), []
        for _ in range(10):
            sketched.step(np.array([0.3, 0.2, -0.4, 1.0]))
            states.append(sketched.env._world.qpos())
        sketched.restore(start)
        return np.array(states)

    undisturbed = next_states()
    ExactTraces(sketched.env, sketched.camera).predict(asked(sketched)[0])
    assert np.array_equal(undisturbed, next_states())


def test_noise_is_drawn_from_the_seed(sketched):
    observation, _ = asked(sketched)
    oracle = ExactTraces(sketched.env, sketched.camera, action_noise=0.5)
    first, again, other = (oracle.predict(observation, seed=seed).uvz for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_past_metaworlds_end_nothing_is_valid(sketched):
    simulation, start = sketched.env._world.simulation(), sketched.snapshot()
    simulation.curr_path_length = simulation.max_path_length - 11
    prediction = ExactTraces(sketched.env, sketched.camera).predict(asked(sketched)[0])
    sketched.restore(start)
    assert prediction.valid[0, 0].tolist() == [True] * 5 + [False] * 27
    assert np.array_equal(prediction.uvz[0, :, 4], prediction.uvz[0, :, 31])


def test_questions_it_cannot_answer_are_refused(sketched):
    oracle = ExactTraces(sketched.env, sketched.camera)
    observation, _ = asked(sketched)
    with pytest.raises(ConfigError, match="cannot step"):
        oracle.predict(asked(sketched, clock="arc", step=0.01)[0])
    with pytest.raises(ConfigError, match=str(STEP_S)):
        oracle.predict(asked(sketched, step=0.02)[0])
    with pytest.raises(InvalidInputError, match="no keypoints"):
        oracle.predict(Observation(image=observation.image, instruction="open it"))


def test_a_sketch_knows_depth_along_its_rays_and_nothing_else(sketched):
    seen = sketched.observe()
    depth = seen.depth_m["corner2"]
    assert depth.shape == (480, 640)
    assert 0.001 < np.isfinite(depth).mean() < 0.05
    assert np.array_equal(seen.state, sketched.env.expert_view()[:4].astype(np.float32))
    assert not seen.images["corner2"].any()
    assert seen.step == 30


def test_right_after_a_reset_things_are_where_they_were_placed():
    """Meta-World moves the drawer in its model; its own data follow with the first step."""
    env = SketchedEnv(MetaworldEnv("drawer-open"))
    env.reset(4)
    observation, _ = asked(env, count=200)
    env.step(np.zeros(4, np.float32))
    later = env.observe().depth_m["corner2"]
    px = uv_to_px(observation.keypoints_uv, *env.image_size).round().astype(int)
    now = later[px[:, 1], px[:, 0]]
    both = np.isfinite(now)
    assert np.mean(np.abs(now - observation.keypoints_z_m)[both] < 5e-3) > 0.95


@pytest.mark.render
def test_rays_see_what_a_renderer_sees(sketched):
    with MetaworldEnv("drawer-open", ("corner2",), (640, 480), with_depth=True) as rendered:
        rendered.reset(4)
        seen = rendered.observe()
    fresh = SketchedEnv(MetaworldEnv("drawer-open"))
    fresh.reset(4)
    sketch = fresh.observe()
    assert np.allclose(seen.cameras["corner2"].cam_from_world, sketch.cameras["corner2"].cam_from_world)
    cast_z, drawn_z = sketch.depth_m["corner2"], seen.depth_m["corner2"]
    both = np.isfinite(cast_z) & np.isfinite(drawn_z)
    assert both.sum() > 1000
    assert np.quantile(np.abs(cast_z - drawn_z)[both], 0.97) < 1e-3  # the rest are edges
