import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from traceworld.sim.puppets import Grip, OtherArm, Person, elbow_between, pose_along

POINTING_DOWN = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
CHAINS = {
    Person: (("upper_arm", "upper_m"), ("forearm", "fore_m"), "palm"),
    OtherArm: (("upper_link", "upper_m"), ("forearm_link", "fore_m"), "tool"),
}


def _hand(xyz, tilt=(0.0, 0.0, 0.0)):
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec(tilt).as_matrix() @ POINTING_DOWN
    pose[:3, 3] = xyz
    return pose


def _grips(count=40):
    """Where Meta-World's gripper goes: measured over two episodes of each of the 50 tasks, and a little tilted."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        xyz = rng.uniform([-0.45, 0.4, 0.04], [0.45, 0.9, 0.4])
        left, right = rng.uniform(0.015, 0.05), rng.uniform(0.005, 0.05)
        yield Grip(_hand(xyz, rng.uniform(-0.15, 0.15, 3)), left, -right)


def _end(pose, length):
    return pose[:3, 3] + length * pose[:3, 0]


@pytest.mark.parametrize("seed", range(5))
def test_elbow_has_the_lengths_and_the_side_asked_for(seed):
    rng = np.random.default_rng(seed)
    start, toward = rng.normal(size=3), rng.normal(size=3)
    way = rng.normal(size=3)
    end = start + way / np.linalg.norm(way) * 0.7
    elbow = elbow_between(start, end, 0.5, 0.4, toward)
    assert np.linalg.norm(elbow - start) == pytest.approx(0.5)
    assert np.linalg.norm(end - elbow) == pytest.approx(0.4)
    foot = start + way * (way @ (elbow - start)) / (way @ way)
    assert (elbow - foot) @ toward > 0
    assert abs(np.cross(elbow - foot, way) @ toward) < 0.5 * np.linalg.norm(toward) * np.linalg.norm(way)


def test_arm_is_straight_when_the_end_is_out_of_reach():
    elbow = elbow_between(np.zeros(3), np.array([3.0, 0, 0]), 0.5, 0.4, np.array([0.0, 0, 1]))
    assert np.allclose(elbow, [0.5, 0, 0])


def test_pose_along_is_a_rotation_with_x_at_the_end():
    pose = pose_along(np.array([1.0, 2, 3]), np.array([1.0, 4, 3]), np.array([0.3, 1.0, 1.0]))
    assert np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3))
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)
    assert np.allclose(pose[:3, 0], [0, 1, 0])
    assert pose[:3, 2] @ [0.3, 1.0, 1.0] > 0


@pytest.mark.parametrize("kind", [Person, OtherArm])
def test_every_moving_part_is_posed_by_a_rigid_motion(kind):
    puppet = kind()
    for grip in _grips():
        poses = puppet.pose(grip)
        assert set(poses) == {part.name for part in puppet.parts if not part.fixed}
        for pose in poses.values():
            assert np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
            assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)


@pytest.mark.parametrize("kind", [Person, OtherArm])
def test_links_meet_from_the_shoulder_to_the_recorded_gripper(kind):
    (upper, upper_m), (fore, fore_m), hand = CHAINS[kind]
    puppet = kind()
    for grip in _grips():
        poses = puppet.pose(grip)
        if kind is Person:
            shoulder = (poses["torso"] @ [puppet.shoulder_x, 0, puppet.back_m, 1])[:3]
        else:
            shoulder = np.array(puppet.base)
        assert np.allclose(poses[upper][:3, 3], shoulder, atol=1e-12)
        assert np.allclose(_end(poses[upper], getattr(puppet, upper_m)), poses[fore][:3, 3], atol=1e-12)
        wrist = (grip.world_from_hand @ [puppet.wrist_x, 0, 0, 1])[:3]
        assert np.allclose(_end(poses[fore], getattr(puppet, fore_m)), wrist, atol=1e-9)
        assert np.array_equal(poses[hand], grip.world_from_hand)


def test_other_arm_turns_only_about_its_joints():
    """Each link against the one before it: the only motion between them is a turn about the joint's axis."""
    arm, up = OtherArm(), np.array([0.0, 0, 1])
    for grip in _grips():
        pose = arm.pose(grip)
        axis = pose["turret"][:3, 1]  # shoulder and elbow turn about the turret's level axis
        assert np.allclose(pose["turret"][:3, 2], up)
        assert abs(pose["upper_link"][:3, 2] @ axis) == pytest.approx(1)
        assert abs(pose["forearm_link"][:3, 2] @ axis) == pytest.approx(1)
        assert np.allclose(pose["wrist_roll"][:3, 0], pose["forearm_link"][:3, 0])
        assert pose["tool"][:3, 0] @ pose["wrist_roll"][:3, 2] == pytest.approx(0, abs=1e-9)  # bends about its z
        assert pose["tool"][:3, 0] @ pose["wrist_roll"][:3, 1] > 0.1  # and never near straight, where a roll would jump
        assert np.allclose(_end(pose["tool"], arm.wrist_x), pose["wrist_roll"][:3, 3], atol=1e-9)
        elbow, ends = pose["forearm_link"][2, 3], (arm.base[2], pose["wrist_roll"][2, 3])
        assert elbow > np.mean(ends)  # elbow up


@pytest.mark.parametrize("kind", [Person, OtherArm])
def test_small_steps_of_the_gripper_are_small_steps_of_every_part(kind):
    puppet = kind()
    turn = np.linspace(0, 2 * np.pi, 200)
    before = None
    for a in turn:
        xyz = [0.35 * np.cos(a), 0.65 + 0.2 * np.sin(a), 0.2 + 0.12 * np.sin(2 * a)]
        grip = Grip(_hand(xyz, (0.1 * np.sin(a), 0.1 * np.cos(a), 0.0)), 0.03 + 0.015 * np.sin(a), -0.03)
        poses = puppet.pose(grip)
        if before is not None:  # the gripper goes at most 16 mm a step
            assert max(np.abs(poses[name][:3, 3] - before[name][:3, 3]).max() for name in poses) < 0.06
            assert max(np.abs(poses[name][:3, :3] - before[name][:3, :3]).max() for name in poses) < 0.16
        before = poses


def test_finger_tips_are_at_the_pads():
    person = Person()
    for grip in _grips():
        poses = person.pose(grip)
        for digit in person.digits:
            tip_in_hand = np.linalg.inv(grip.world_from_hand) @ poses[digit.name] @ [*digit.joints()[1], 1]
            pad = grip.left_m if digit.name == "thumb" else grip.right_m
            inside = tip_in_hand[1] - digit.side * digit.radius
            assert inside == pytest.approx(pad, abs=1e-9)
            assert 0.005 < tip_in_hand[0] < 0.06  # about as low as the pads, which end at 0.045


def test_fingers_open_and_close():
    def gap(left, right):
        poses = person.pose(Grip(_hand([0, 0.6, 0.2]), left, right))
        thumb, index = (poses[name] @ [*digits[name].joints()[1], 1] for name in ("thumb", "index"))
        return np.linalg.norm(thumb - index)

    person = Person()
    digits = {digit.name: digit for digit in person.digits}
    assert gap(0.045, -0.045) > gap(0.015, -0.015) + 0.05


def test_person_leans_only_as_far_as_needed():
    person = Person()
    near = np.array([0.1, 0.42, 0.35])
    assert person.lean(near) == person.upright_rad
    angles = [person.lean(np.array([0.1, y, 0.35])) for y in np.linspace(0.5, 0.95, 10)]
    assert np.all(np.diff(angles) >= 0)
    assert angles[-1] > angles[0] + 0.2
    grip = Grip(_hand([-0.3, 0.9, 0.2]), 0.03, -0.03)
    poses = person.pose(grip)
    shoulder = (poses["torso"] @ [person.shoulder_x, 0, person.back_m, 1])[:3]
    wrist = (grip.world_from_hand @ [person.wrist_x, 0, 0, 1])[:3]
    assert np.linalg.norm(wrist - shoulder) == pytest.approx(0.96 * (person.upper_m + person.fore_m))


def test_jaws_face_each_other_where_the_pads_are():
    arm, hand = OtherArm(), _hand([0.1, 0.6, 0.2])
    poses = arm.pose(Grip(hand, 0.03, -0.02))
    parts = {part.name: part.shapes[0] for part in arm.parts if part.name.endswith("jaw")}
    for name, side, pad in (("left_jaw", 1, 0.03), ("right_jaw", -1, -0.02)):
        middle = (np.linalg.inv(hand) @ poses[name] @ [*parts[name].start, 1])[1]
        inner_face = middle - side * parts[name].size[1]
        assert inner_face == pytest.approx(pad - side * 0.003)  # a pad is 6 mm thick
