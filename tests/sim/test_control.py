"""Meta-World as a `ControlEnv`: seeds, exact snapshots, what is seen, what counts as done."""

import numpy as np
import pytest

pytest.importorskip("metaworld")

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.sim import control, control_state
from traceworld.sim.control import FIRST_TEST_SEED, PUBLISHED_CAMERA, WRIST, MetaworldEnv, training_seed
from traceworld.sim.control_policies import clipped_expert_action
from traceworld.sim.worlds import World


@pytest.fixture(scope="module")
def env():
    with MetaworldEnv(
        "drawer-open", cameras=("corner2", PUBLISHED_CAMERA, WRIST), image_size=(64, 48), with_depth=True
    ) as env:
        yield env


def _drive(env, actions):
    return np.array([(env.step(action), env.world.qpos())[1] for action in actions])


def _actions(number, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (number, 4)).astype(np.float32)


def test_the_expert_plays_what_a_world_plays(env, drawer):
    env.reset(3)
    script, states = env.expert(), [env.world.qpos()]
    outcome = None
    while outcome is None or not outcome.finished:
        outcome = env.step(clipped_expert_action(env, script))
        states.append(env.world.qpos())
    assert np.array_equal(states, drawer.rollout.qpos[: len(states)])
    assert len(states) - 1 == drawer.rollout.success_step
    assert outcome.success


def test_restoring_gives_the_same_future_to_the_last_bit(env):
    env.reset(11)
    _drive(env, _actions(25))
    kept = env.snapshot()
    first, view = _drive(env, _actions(40, 1)), env.expert_view()
    env.reset(99)  # another placement
    _drive(env, _actions(30, 2))
    env.restore(kept)
    assert np.array_equal(_drive(env, _actions(40, 1)), first)
    assert np.array_equal(env.expert_view(), view)
    env.restore(kept)  # a snapshot may be used again
    assert np.array_equal(_drive(env, _actions(5, 1)), first[:5])


@pytest.mark.parametrize("task", ["bin-picking-v3", "push-v3", "hammer-v3"])
def test_states_are_exact_where_contacts_and_rewards_have_memory(task):
    world, other = World(task), World(task)
    obs = world.reset(5)
    script = world.expert()
    for _ in range(45):  # until something is touched
        obs, _ = world.step(np.clip(script.get_action(obs), -1, 1).astype(np.float32))
    kept = control_state.take(world.simulation())
    futures = []
    for place in (world, other, world):
        if place is other:
            other.reset(8)
        control_state.put_back(place.simulation(), kept)
        futures.append([(*place.step(action), place.qpos()) for action in _actions(30)])
    for later in futures[1:]:
        for (obs, done, qpos), (obs2, done2, qpos2) in zip(futures[0], later, strict=True):
            assert np.array_equal(obs, obs2)
            assert np.array_equal(qpos, qpos2)
            assert done == done2


def test_a_state_left_without_the_solvers_memory_would_be_noticed(env):
    """The fault that a snapshot of positions and velocities alone would have."""
    env.reset(11)
    _drive(env, _actions(25))
    kept, data = env.snapshot(), env.world.simulation().data
    first = _drive(env, _actions(40, 1))
    env.restore(kept)
    data.qacc_warmstart[:] = 0
    assert not np.array_equal(_drive(env, _actions(40, 1)), first)


def test_views_into_the_physics_stay_views(env):
    simulation = env.world.simulation()
    env.reset(1)
    kept = env.snapshot()
    env.restore(kept)
    assert control_state._is_live(simulation.init_left_pad)
    env.step(np.array([0.0, 0.0, 0.0, 1.0]))
    assert np.array_equal(simulation.init_left_pad, simulation.get_body_com("leftpad"))
    assert not control_state._is_live(np.arange(6.0).reshape(2, 3)[0])


def test_a_snapshot_of_another_task_is_refused(env):
    with MetaworldEnv("reach") as other:
        other.reset(0)
        with pytest.raises(InvalidInputError, match="SawyerReach"):
            env.restore(other.snapshot())


def test_success_is_latched_and_steps_run_out():
    with MetaworldEnv("reach", max_steps=90) as env:
        env.reset(4)
        script, outcome = env.expert(), None
        while outcome is None or not outcome.finished:
            outcome = env.step(clipped_expert_action(env, script))
        assert outcome.success
        for _ in range(10):  # away from the goal: it has been done all the same
            outcome = env.step(np.array([-1.0, -1.0, 1.0, 0.0]))
        assert outcome.success
        while env._steps < 90:
            env.step(env.stay(None))
        with pytest.raises(InvalidInputError, match="over after 90 steps"):
            env.step(env.stay(None))
        env.reset(4)
        assert not env.step(env.stay(None)).success


def test_actions_are_clipped_and_checked(env):
    env.reset(2)
    kept = env.snapshot()
    far = _drive(env, [np.array([50.0, -50.0, 0.0, 9.0])])
    env.restore(kept)
    assert np.array_equal(_drive(env, [np.array([1.0, -1.0, 0.0, 1.0])]), far)
    with pytest.raises(InvalidInputError, match="not finite"):
        env.step(np.array([np.nan, 0, 0, 0]))


def test_staying_keeps_the_hand_where_it_is_and_the_grip_as_it_was(env):
    env.reset(2)
    before = env.expert_view()[:3]
    for _ in range(10):
        env.step(env.stay(None))
    assert np.abs(env.expert_view()[:3] - before).max() < 0.01
    assert env.stay(np.array([0.3, 0.1, 0, 0.7], np.float32)).tolist() == pytest.approx([0, 0, 0, 0.7])


def test_nothing_is_seen_before_an_episode_begins():
    with MetaworldEnv("reach") as env:
        for call in (env.observe, env.snapshot, lambda: env.step(np.zeros(4))):
            with pytest.raises(InvalidInputError, match="reset"):
                call()


@pytest.mark.render
def test_what_is_seen(env, cast_ray):
    env.reset(7)
    _drive(env, _actions(6))
    seen, simulation = env.observe(), env.world.simulation()
    hand = simulation.data.body("hand").xpos
    assert np.allclose(seen.state[:3], hand, atol=1e-6)
    assert 0 <= seen.state[3] <= 1
    assert seen.state.shape == (4,)  # neither goal nor object
    assert seen.step == 6
    assert seen.scene_camera == "corner2"
    assert seen.instruction == "open the drawer"
    assert {name: image.shape for name, image in seen.images.items()} == dict.fromkeys(env.cameras, (48, 64, 3))
    env._stage.put(env.world.qpos())
    for name in env.cameras:
        geom, z = cast_ray(env._stage, seen.cameras[name], (32, 30))
        assert geom < 0 or abs(seen.depth_m[name][30, 32] - z) < 1e-3, name


@pytest.mark.render
def test_the_picture_follows_the_physics_and_the_seed(env):
    env.reset(7)
    first = env.observe()
    assert np.array_equal(env.observe().images["corner2"], first.images["corner2"])
    _drive(env, _actions(20))
    later = env.observe()
    assert not np.array_equal(later.images["corner2"], first.images["corner2"])
    assert not np.array_equal(later.cameras[WRIST].cam_from_world, first.cameras[WRIST].cam_from_world)
    assert np.array_equal(later.cameras["corner2"].cam_from_world, first.cameras["corner2"].cam_from_world)
    env.reset(8)
    assert not np.array_equal(env.observe().images["corner2"], first.images["corner2"])
    env.reset(7)
    assert np.array_equal(env.observe().images["corner2"], first.images["corner2"])


@pytest.mark.render
def test_restoring_shows_the_scene_of_the_snapshot(env):
    env.reset(7)
    kept, shown = env.snapshot(), env.observe().images["corner2"]
    env.reset(8)
    env.observe()
    env.restore(kept)
    assert np.array_equal(env.observe().images["corner2"], shown)


@pytest.mark.render
def test_of_the_markers_only_the_goal_is_shown(env):
    env.reset(7)
    env.observe()
    model = env._stage.model
    assert {model.site(i).name for i in range(model.nsite) if model.site(i).rgba[3] > 0} == {"goal"}
    assert np.allclose(env._stage.data.site("goal").xpos, env.world.simulation()._target_pos, atol=1e-9)


@pytest.mark.render
def test_the_published_camera_looks_as_corner2_does_from_lerobots_place(env):
    env.reset(0)
    pose = env.observe().cameras[PUBLISHED_CAMERA].cam_from_world
    assert np.allclose(-pose[:3, :3].T @ pose[:3, 3], (0.75, 0.075, 0.7))
    data, model = env.world.simulation().data, env.world.simulation().model
    axis = data.camera("corner2").xmat.reshape(3, 3)[:, 2]
    assert np.allclose(pose[2, :3], -axis)  # OpenGL cameras look along −z
    assert model.camera("corner2").fovy[0] == model.camera(PUBLISHED_CAMERA).fovy[0] == 60


def test_steps_render_nothing():
    with MetaworldEnv("reach") as env:
        env.reset(0)
        env.step(env.stay(None))
        assert env._renderer is None


def test_test_seeds_are_never_training_seeds():
    last = training_seed((1 << 20) - 1, (1 << 20) - 1)
    assert last < FIRST_TEST_SEED <= control.test_seed(0, 0)
    assert training_seed(0, 0) == 0
    seeds = {
        make(run, episode) for make in (training_seed, control.test_seed) for run in (0, 1, 7) for episode in range(50)
    }
    assert len(seeds) == 2 * 3 * 50
    assert np.iinfo(np.int32).max < FIRST_TEST_SEED  # what a corpus draws
    for run, episode in ((-1, 0), (0, 1 << 20)):
        with pytest.raises(ConfigError):
            control.test_seed(run, episode)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "drawer-opn"}, "did you mean 'drawer-open-v3'"),
        ({"cameras": ()}, "cameras"),
        ({"cameras": ("corner", "corner")}, "each once"),
        ({"cameras": ("behind",)}, "no camera 'behind'"),
        ({"image_size": (8, 48)}, "image_size"),
        ({"max_steps": 501}, "max_steps"),
        ({"robot": "hexapod"}, "sawyer, gantry"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        MetaworldEnv(**({"task": "reach"} | options))


def test_other_words_may_be_given():
    with MetaworldEnv("reach", instruction="Reach it") as env:
        assert env.instruction == "Reach it"
    with pytest.raises(InvalidInputError, match="negative"):
        env.reset(-1)
