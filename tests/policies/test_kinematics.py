"""Inverse kinematics against MuJoCo's own forward kinematics."""

import numpy as np
import pytest
from arms import ARM, ELBOW, JOINTS
from scipy.spatial.transform import Rotation

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.policies.follower.gripper import METAWORLD_GRIPPER
from traceworld.policies.follower.joints import JointEffector
from traceworld.policies.kinematics import ArmKinematics
from traceworld.traces.robot import ActionSpec

mujoco = pytest.importorskip("mujoco")


@pytest.fixture(scope="module")
def model():
    return mujoco.MjModel.from_xml_string(ARM)


@pytest.fixture
def arm(model):
    return ArmKinematics(model, "tool", JOINTS)


def by_mujoco(model, joints) -> np.ndarray:
    """Pose of the site by a full MuJoCo forward pass, independent of `ArmKinematics`."""
    data = mujoco.MjData(model)
    for name, value in zip(JOINTS, joints, strict=True):
        data.joint(name).qpos = value
    mujoco.mj_forward(model, data)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = data.site("tool").xmat.reshape(3, 3), data.site("tool").xpos
    return pose


def random_joints(arm, rng) -> np.ndarray:
    return rng.uniform(0.9 * arm.low, 0.9 * arm.high)


def test_forward_is_mujocos(model, arm):
    rng = np.random.default_rng(0)
    for _ in range(5):
        joints = random_joints(arm, rng)
        assert np.allclose(arm.forward(joints), by_mujoco(model, joints), atol=1e-12)


def test_the_jacobian_is_the_derivative(arm):
    joints, small = np.array(ELBOW), 1e-6
    J, at = arm.jacobian(joints), arm.forward(joints)
    for k in range(6):
        moved = arm.forward(joints + small * np.eye(6)[k])
        assert np.allclose((moved[:3, 3] - at[:3, 3]) / small, J[:3, k], atol=1e-5)
        turn = Rotation.from_matrix(moved[:3, :3] @ at[:3, :3].T).as_rotvec() / small
        assert np.allclose(turn, J[3:, k], atol=1e-5)


def test_random_reachable_poses_are_reached_and_no_limit_is_broken(model, arm):
    rng, reached = np.random.default_rng(1), 0
    for trial in range(25):
        target = by_mujoco(model, random_joints(arm, rng))
        found = arm.solve(target, np.array(ELBOW), restarts=16, seed=trial)
        assert (found.joints >= arm.low).all()
        assert (found.joints <= arm.high).all()
        pose = by_mujoco(model, found.joints)
        off = np.linalg.norm(pose[:3, 3] - target[:3, 3])
        turned = Rotation.from_matrix(pose[:3, :3] @ target[:3, :3].T).magnitude()
        assert found.position_error_m == pytest.approx(off, abs=1e-9)
        assert found.rotation_error_rad == pytest.approx(turned, abs=1e-9)
        assert found.reached == (off <= 1e-4 and turned <= 1e-3)
        reached += found.reached
    assert reached >= 24


def test_out_of_reach_the_nearest_pose_within_the_limits_is_given(arm):
    target = np.eye(4)
    target[:3, 3] = [5.0, 0.0, 0.4]
    found = arm.solve(target, np.array(ELBOW), orientation=False)
    assert not found.reached
    assert (found.joints >= arm.low).all()
    assert (found.joints <= arm.high).all()
    shoulder, length = np.array([0, 0, 0.32]), 0.35 + 0.3 + 0.08 + 0.08 + 0.08
    nearest = np.linalg.norm(target[:3, 3] - shoulder) - length
    assert found.position_error_m == pytest.approx(nearest, abs=0.02)


def test_limits_hold_when_the_target_lies_behind_one(model):
    tight = ArmKinematics(model, "tool", JOINTS)
    tight.low, tight.high = np.full(6, -0.2), np.full(6, 0.2)
    target = by_mujoco(model, ELBOW)
    found = tight.solve(target, np.zeros(6), restarts=2)
    assert not found.reached
    assert np.abs(found.joints).max() <= 0.2
    assert np.isclose(np.abs(found.joints), 0.2).any()  # it went as far as it may


def test_only_the_place_when_the_turn_does_not_matter(model, arm):
    target = by_mujoco(model, ELBOW)
    target[:3, :3] = np.eye(3)
    found = arm.solve(target, np.zeros(6) + 0.3, orientation=False)
    assert found.reached
    assert found.rotation_error_rad == 0
    assert np.linalg.norm(by_mujoco(model, found.joints)[:3, 3] - target[:3, 3]) <= 1e-4


def test_touching_the_wall_is_seen_and_may_be_allowed(model, arm):
    clear, touching = np.array(ELBOW), np.array([0, 1.2, 0.35, 0, 0, 0])
    assert arm.collisions(clear) == ()
    pairs = arm.collisions(touching)
    assert pairs
    assert all("wall" in pair for pair in pairs)
    assert ArmKinematics(model, "tool", JOINTS, allowed_contacts=pairs).collisions(touching) == ()


def test_a_body_is_a_frame_too(model):
    hand = ArmKinematics(model, "hand", JOINTS).forward(np.array(ELBOW))
    tool = by_mujoco(model, ELBOW)
    assert np.allclose(hand[:3, 3] + hand[:3, :3] @ [0, 0, 0.08], tool[:3, 3])


@pytest.mark.parametrize(
    ("frame", "joints", "message"), [("nose", JOINTS, "nose"), ("tool", ("j9",), "j9"), ("tool", (), "no joints")]
)
def test_unknown_names_are_refused(model, frame, joints, message):
    with pytest.raises(ConfigError, match=message):
        ArmKinematics(model, frame, joints)


def test_a_start_of_another_length_is_refused(arm):
    with pytest.raises(InvalidInputError, match="6 joints"):
        arm.solve(np.eye(4), np.zeros(5))


def effector(arm, **options) -> JointEffector:
    low, high = (*arm.low.tolist(), 0.0), (*arm.high.tolist(), 1.0)
    spec = ActionSpec((*JOINTS, "grip"), low, high, 50.0, (*JOINTS, "opening"))
    return JointEffector(spec, arm, METAWORLD_GRIPPER, **options)


def straight(model, direction, length_m, count) -> np.ndarray:
    poses = np.repeat(by_mujoco(model, ELBOW)[None], count + 1, 0)
    poses[:, :3, 3] += np.linspace(0, length_m, count + 1)[:, None] * np.array(direction, float)
    return poses


def test_a_path_of_the_tool_becomes_joint_positions_that_keep_place_and_turn(model, arm):
    poses = straight(model, (0, -0.6, 0.8), 0.08, 16)
    state = np.array([*ELBOW, 1.0], np.float32)
    closing = np.arange(16) >= 8
    actions = effector(arm).actions(state, poses, closing)
    assert actions.shape == (16, 7)
    for action, pose in zip(actions, poses[1:], strict=True):
        there = by_mujoco(model, action[:6])
        assert np.linalg.norm(there[:3, 3] - pose[:3, 3]) < 2.5e-3
        assert Rotation.from_matrix(there[:3, :3] @ pose[:3, :3].T).magnitude() < 0.03
    assert actions[:, 6].tolist() == [1.0] * 8 + [0.0] * 8


def test_joints_are_never_faster_than_they_may(model, arm):
    actions = effector(arm, max_joint_speed=0.5).actions(
        np.array([*ELBOW, 1.0], np.float32), straight(model, (0, 0, 1), 0.2, 4), np.zeros(4, bool)
    )
    moves = np.diff(np.concatenate([np.array(ELBOW)[None], actions[:, :6]]), axis=0)
    assert np.abs(moves).max() <= 0.5 / 50 + 1e-6


def test_it_stops_before_what_it_cannot_reach_or_would_run_into(model, arm):
    state = np.array([*ELBOW, 1.0], np.float32)
    poses = straight(model, (1, 0, 0), 0.5, 60)  # into the wall and beyond
    robot = effector(arm, max_joint_speed=50.0, orientation=False)
    actions = robot.actions(state, poses, np.zeros(60, bool))
    assert all(arm.collisions(action[:6].astype(float)) == () for action in actions)
    assert np.array_equal(actions[-1], actions[-2])
    assert not np.array_equal(actions[0], actions[-1])


def test_settled_actions_lead_to_where_the_last_one_sends_the_joints(arm):
    state = np.array([*ELBOW, 1.0], np.float32)
    sent = np.linspace(0, 1, 14, dtype=np.float32).reshape(2, 7)
    there = effector(arm).after(state, sent)
    assert np.array_equal(there[:6], sent[1, :6])
    assert there[6] == 1.0
    assert np.array_equal(effector(arm).after(state, sent[:0]), state)


def test_the_tool_is_where_forward_kinematics_puts_it(model, arm):
    tool = effector(arm).tool(np.array([*ELBOW, 0.4], np.float32))
    assert np.allclose(tool.world_from_tool, by_mujoco(model, ELBOW), atol=1e-6)
    assert tool.opening == pytest.approx(0.4)


def test_a_spec_of_another_robot_is_refused(arm):
    with pytest.raises(ConfigError, match="6 joints"):
        JointEffector(ActionSpec(("a",), (0.0,), (1.0,), 10.0, ("s",)), arm, METAWORLD_GRIPPER)
