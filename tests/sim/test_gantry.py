"""The second robot: another body and other dynamics, the same task, gripper, actions and success."""

import numpy as np
import pytest

pytest.importorskip("metaworld")

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.sim.control import MetaworldEnv
from traceworld.sim.control import test_seed as seed_of
from traceworld.sim.control_policies import clipped_expert_action
from traceworld.sim.gantry import GANTRY, START, gantry_xml, on_robot


@pytest.fixture(scope="module")
def env():
    with MetaworldEnv("push", cameras=("corner4",), image_size=(64, 48), robot=GANTRY) as env:
        yield env


@pytest.fixture(scope="module")
def sawyer():
    with MetaworldEnv("push", cameras=("corner4",), image_size=(64, 48)) as env:
        yield env


def _solve(env, seed):
    env.reset(seed)
    script, outcome, path = env.expert(), None, []
    while outcome is None or not outcome.finished:
        outcome = env.step(clipped_expert_action(env, script))
        path.append(env.expert_view()[:3])
    return outcome.success, np.array(path)


def test_the_expert_solves_the_task_on_it_and_moves_otherwise(env, sawyer):
    for episode in range(2):
        done, path = _solve(env, seed_of(0, episode))
        assert done
        _, other = _solve(sawyer, seed_of(0, episode))
        shared = min(len(path), len(other))
        assert np.abs(path[:shared] - other[:shared]).max() > 1e-3  # other dynamics


@pytest.mark.slow
@pytest.mark.parametrize(
    "task", ["reach", "drawer-open", "drawer-close", "button-press-topdown", "door-open", "window-open", "pick-place"]
)
def test_the_expert_solves_other_tasks_on_it(task):
    with MetaworldEnv(task, robot=GANTRY) as env:
        assert _solve(env, seed_of(0, 0))[0]


def test_its_joints_are_as_many_and_at_the_same_places(env, sawyer):
    ours, theirs = env.world.simulation().model, sawyer.world.simulation().model
    assert (ours.nq, ours.nv, ours.nu) == (theirs.nq, theirs.nv, theirs.nu)
    names = [[model.joint(i).name for i in range(model.njnt)] for model in (ours, theirs)]
    assert names[0][7:] == names[1][7:]
    assert all(name.startswith("gantry/") for name in names[0][:7])
    bodies = {model.body(i).name for model in (ours,) for i in range(model.nbody)}
    assert "right_l3" not in bodies


def test_the_gripper_is_the_same(env, sawyer):
    models = [place.world.simulation().model for place in (env, sawyer)]
    for name in ("rightpad_geom", "leftpad_geom", "rail"):
        ours, theirs = (model.geom(name) for model in models)
        assert np.allclose(ours.size, theirs.size)
        assert np.allclose(ours.friction, theirs.friction)


def test_at_rest_the_hand_is_in_the_middle_with_its_fingers_down(env):
    import mujoco

    model = env.world.simulation().model
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    assert np.allclose(data.body("hand").xpos, START, atol=1e-9)
    assert np.allclose(data.body("hand").xquat, np.array([1, 0, 1, 0]) / np.sqrt(2), atol=1e-9)


def test_seeds_and_snapshots_hold_on_it_too(env, sawyer):
    actions = np.random.default_rng(0).uniform(-1, 1, (25, 4))
    env.reset(5)
    kept = env.snapshot()
    first = [(env.step(action), env.world.qpos())[1] for action in actions]
    env.reset(6)
    env.restore(kept)
    assert np.array_equal(first, [(env.step(action), env.world.qpos())[1] for action in actions])
    sawyer.reset(5)
    env.reset(5)
    goals = [place.world.scene().goals["goal"] for place in (env, sawyer)]
    assert np.allclose(*goals, atol=1e-4)  # the same episode, on another robot
    with pytest.raises(InvalidInputError, match="OnGantry"):
        sawyer.restore(kept)


@pytest.mark.render
def test_it_is_seen(env, sawyer):
    pictures = []
    for place in (env, sawyer):
        place.reset(5)
        pictures.append(place.observe().images["corner4"].astype(int))
    assert np.abs(pictures[0] - pictures[1]).mean() > 5


def test_a_file_without_an_arm_and_an_unknown_robot_are_refused(tmp_path):
    path = tmp_path / "empty.xml"
    path.write_text("<mujoco><worldbody><body name='thing'><geom size='1'/></body></worldbody></mujoco>")
    with pytest.raises(ConfigError, match="no arm"):
        gantry_xml(path)
    with pytest.raises(ConfigError, match="sawyer, gantry"):
        on_robot(object, "hexapod")
    assert on_robot(object, "sawyer") is object
