import numpy as np
import pytest

from traceworld.errors import ConfigError

pytest.importorskip("metaworld")

from traceworld.sim.worlds import World


def test_same_seed_same_states_whatever_was_played_before(drawer):
    other = World("drawer-open-v3")
    other.rollout(8, action_noise=0.5, max_steps=30)
    again = other.rollout(3)
    assert np.array_equal(again.qpos, drawer.rollout.qpos)
    assert again.success_step == drawer.rollout.success_step
    for name, value in drawer.rollout.placement.items():
        assert np.array_equal(again.placement[name], value), name


@pytest.mark.parametrize("task", ["push-v3", "disassemble-v3", "soccer-v3"])
def test_reused_world_equals_fresh_world(task):
    used = World(task)
    used.rollout(1, max_steps=40)
    assert np.array_equal(used.rollout(2, max_steps=40).qpos, World(task).rollout(2, max_steps=40).qpos)


def test_other_seed_places_things_elsewhere(drawer):
    other = drawer.world.rollout(4, max_steps=5)
    assert not np.array_equal(other.placement["body_pos"], drawer.rollout.placement["body_pos"])


def test_expert_succeeds_and_goes_on_for_the_hold(drawer):
    rollout = drawer.world.rollout(3, hold_steps=7)
    assert rollout.success_step is not None
    assert rollout.num_states == rollout.success_step + 7 + 1
    assert rollout.instruction == "open the drawer"


def test_noise_is_seeded_and_bends_the_path(drawer):
    first = drawer.world.rollout(3, action_noise=0.2, max_steps=40)
    again = drawer.world.rollout(3, action_noise=0.2, max_steps=40)
    clean = drawer.rollout.qpos[:41]
    assert np.array_equal(first.qpos, again.qpos)
    assert np.array_equal(first.qpos[0], clean[0])
    assert np.abs(first.qpos - clean).max() > 0.01


def test_given_up_after_max_steps(drawer):
    rollout = drawer.world.rollout(3, max_steps=10)
    assert rollout.success_step is None
    assert rollout.num_states == 11
    with pytest.raises(ConfigError):
        drawer.world.rollout(3, max_steps=501)


def test_stage_restores_every_body_pose(drawer):
    import mujoco

    env = drawer.world._env
    drawer.world.rollout(3, max_steps=60)
    drawer.stage.put(env.data.qpos)
    poses = drawer.stage.body_poses()
    mujoco.mj_kinematics(env.model, env.data)
    seen = env.model.body_mocapid < 0  # the handle that pulls the gripper is no part of the picture
    assert np.allclose(poses[seen, :3, 3], env.data.xpos[seen], atol=1e-12)
    assert np.allclose(poses[seen, :3, :3].reshape(-1, 9), env.data.xmat[seen], atol=1e-12)
    drawer.stage.put(drawer.states[0])


def test_parts_are_bodies_without_joint_between_them(drawer):
    stage = drawer.stage
    part = dict(zip(stage.body_names(), stage.body_part, strict=True))
    assert part["world"] == part["tablelink"] == part["drawercase_link"] == -1
    assert part["rightclaw"] == part["rightpad"] != part["leftclaw"] == part["leftpad"]
    assert part["hand"] == part["right_l6"]
    assert part["drawer_link"] >= 0
    moved = np.abs(_poses(stage, drawer.states[-1]) - _poses(stage, drawer.states[0])).max((1, 2)) > 1e-9
    assert not moved[stage.body_part == -1].any()


def _poses(stage, qpos):
    stage.put(qpos)
    return stage.body_poses()


def test_goal_marker_is_shown_where_the_task_says(drawer):
    stage, (name, place) = drawer.stage, next(iter(drawer.rollout.goals.items()))
    stage.put(drawer.states[0])
    assert np.allclose(stage.data.site(name).xpos, place, atol=1e-9)
    shown = {stage.model.site(i).name for i in range(stage.model.nsite) if stage.model.site(i).rgba[3] > 0}
    assert shown == {"goal"}


def test_unused_goals_are_hidden():
    world = World("faucet-open-v3")
    stage = world.stage()
    stage.load(world.rollout(0, max_steps=1))
    assert stage.model.site("goal_open").rgba[3] == 1
    assert stage.model.site("goal_close").rgba[3] == 0
