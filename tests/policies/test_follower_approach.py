"""The way to a part that no trace of a gripper shows."""

import numpy as np
import pytest

from traceworld.errors import InvalidInputError
from traceworld.policies.follower.approach import fits, way_to_part
from traceworld.policies.follower.gripper import METAWORLD_GRIPPER, ToolState

START = np.array([0.0, 0.6, 0.2])
T = 10


def block(size, centre=(0.1, 0.7, 0.02)) -> np.ndarray:
    corner = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    return np.array(centre) + corner * size


def tool() -> ToolState:
    pose = np.eye(4)
    pose[:3, 3] = START
    return ToolState(pose, 1.0)


def going(direction, length=0.1) -> np.ndarray:
    poses = np.tile(np.eye(4), (T, 1, 1))
    poses[:, :3, 3] = np.linspace(0, length, T)[:, None] * np.array(direction, float)
    return poses


def test_a_small_part_is_grasped_at_its_middle_from_above_and_then_carried():
    part = block(0.03)
    way = way_to_part(tool(), METAWORLD_GRIPPER, part, going((0, 0, 1)))
    place = way.poses[:, :3, 3]
    assert np.array_equal(place[0], START)
    grip = place[way.grip_step] + METAWORLD_GRIPPER.grasp_point
    assert grip == pytest.approx([0.1, 0.7, 0.02])
    before = place[way.grip_step - 1]  # straight above
    assert before[:2] == pytest.approx(place[way.grip_step][:2])
    assert before[2] > place[way.grip_step][2] + 0.05
    assert not way.closing[: way.grip_step].any()
    assert way.closing[way.grip_step :].all()
    carried = place[way.grip_step :] - place[way.grip_step]
    assert np.allclose(carried, going((0, 0, 1))[:, :3, 3])


def test_on_its_way_it_goes_on_and_does_not_begin_again():
    part, place = block(0.03), None
    for height in (0.2, 0.1):  # above the part: straight down from wherever it is
        pose = np.eye(4)
        pose[:3, 3] = [0.102, 0.705, height]
        place = way_to_part(ToolState(pose, 1.0), METAWORLD_GRIPPER, part, going((0, 0, 1))).poses[:4, 2, 3]
        assert (np.diff(place) <= 0).all()
        assert place[0] == height
    across = way_to_part(tool(), METAWORLD_GRIPPER, part, going((0, 0, 1))).poses[:3, 2, 3]
    assert across == pytest.approx([0.2] * 3)  # high enough already


def test_it_lets_go_when_told_to():
    way = way_to_part(tool(), METAWORLD_GRIPPER, block(0.03), going((0, 0, 1)), let_go=True)
    assert way.closing[-2]
    assert not way.closing[-1]


def test_a_wide_part_is_pushed_from_behind_with_closed_fingers():
    part = block(0.15)
    way = way_to_part(tool(), METAWORLD_GRIPPER, part, going((1, 0, 0)))
    assert way.grip_step is None
    assert way.closing.all()
    touch = way.poses[-T, :3, 3] + METAWORLD_GRIPPER.grasp_point
    assert touch[0] < part[:, 0].min()
    assert touch[1:] == pytest.approx([0.7, 0.02])
    assert way.poses[-1, 0, 3] - way.poses[-T, 0, 3] == pytest.approx(0.1)


def test_what_goes_down_is_pressed_from_on_top():
    way = way_to_part(tool(), METAWORLD_GRIPPER, block(0.15), going((0, 0, -1)))
    touch = way.poses[-T, :3, 3] + METAWORLD_GRIPPER.grasp_point
    assert touch[:2] == pytest.approx([0.1, 0.7])
    assert touch[2] > 0.095


def test_width_along_the_closing_axis_decides():
    axis = np.array([0, 1.0, 0])
    assert fits(block((0.3, 0.03, 0.3)), axis, METAWORLD_GRIPPER)
    assert not fits(block((0.03, 0.3, 0.03)), axis, METAWORLD_GRIPPER)


def test_a_part_needs_points():
    with pytest.raises(InvalidInputError, match="no points"):
        way_to_part(tool(), METAWORLD_GRIPPER, np.zeros((0, 3)), going((1, 0, 0)))
