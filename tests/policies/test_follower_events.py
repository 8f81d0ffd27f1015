"""Grasps and releases of traces that were made with them."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from traceworld.errors import InvalidInputError
from traceworld.geometry.cameras import transform
from traceworld.policies.follower.events import (
    ContactEvents,
    closing_from_contact,
    closing_from_opening,
    contact_events,
    opening_trace,
)

T = 30


def moved(shift: np.ndarray) -> np.ndarray:
    poses = np.tile(np.eye(4), (T, 1, 1))
    poses[:, :3, 3] = shift
    return poses


def pick_and_place(grasp: int, release: int) -> tuple[np.ndarray, np.ndarray]:
    """The tool comes down 10 cm until `grasp`, carries the part up until `release`, and goes on without it."""
    step = np.arange(T)
    z = np.where(step <= grasp, -0.1 * step / grasp, -0.1 + 0.02 * (step - grasp))
    tool = moved(np.stack([0 * z, 0 * z, z], 1))
    carried = np.clip(step, grasp, release) - grasp
    points = np.array([[0.01, 0.0, -0.1], [-0.01, 0.0, -0.1], [0.0, 0.01, -0.11]])
    part = points + (0.02 * carried)[:, None, None] * np.array([0, 0, 1.0])
    return tool, part


def test_grasp_and_release_are_where_they_were_put():
    tool, part = pick_and_place(grasp=10, release=20)
    events = contact_events(tool, np.zeros(3), part)
    assert events.contact == 10
    assert not events.pushed
    assert events.release in (20, 21)  # a slip of 2 cm is seen one step after it begins
    closing = closing_from_contact(events, T, closed=False)
    assert np.flatnonzero(np.diff(closing.astype(int))).tolist() == [9, events.release]


def test_held_to_the_end_is_never_released():
    tool, part = pick_and_place(grasp=10, release=T)
    assert contact_events(tool, np.zeros(3), part) == ContactEvents(10, None, False)


def test_a_part_that_moves_far_from_the_gripper_is_not_its_doing():
    tool, part = pick_and_place(grasp=10, release=T)
    assert contact_events(tool, np.zeros(3), part + np.array([0.2, 0, 0])) == ContactEvents()


def test_a_part_that_stands_is_not_touched():
    tool, part = pick_and_place(grasp=10, release=10)
    assert contact_events(tool, np.zeros(3), part) == ContactEvents()


def test_a_part_that_leaves_a_gripper_that_stands_is_not_its_doing():
    rising = np.array([[0.01, 0, 0], [-0.01, 0, 0.01]]) + 0.006 * np.arange(T)[:, None, None] * np.array([0, 0, 1.0])
    assert contact_events(moved(np.zeros((T, 3))), np.zeros(3), rising) == ContactEvents()


def test_what_runs_ahead_is_pushed_and_needs_no_grip():
    forward = moved(np.stack([0.02 * np.arange(T), np.zeros(T), np.zeros(T)], 1))
    start = 0.03 + np.array([[0.0, 0, 0], [0.02, 0.01, 0], [0.02, -0.01, 0]]) * [1, 1, 0]
    part = start * [1, 1, 0] + np.maximum(np.arange(T) - 1, 0)[:, None, None] * np.array([0.02, 0, 0])
    events = contact_events(forward, np.zeros(3), part)
    assert events.contact is not None
    assert events.pushed
    assert not closing_from_contact(events, T, closed=False).any()


def test_the_tool_may_turn_while_it_holds():
    turn = np.tile(np.eye(4), (T, 1, 1))
    turn[:, :3, :3] = Rotation.from_rotvec(np.linspace(0, 1.2, T)[:, None] * np.array([0, 0, 1.0])).as_matrix()
    handle = np.array([[0.3, 0.0, 0.0], [0.31, 0.01, 0.0]])
    part = transform(turn, np.repeat(handle[None], T, 0))
    events = contact_events(turn, np.array([0.3, 0.0, 0.0]), part)
    assert events.contact == 0
    assert events.release is None


def test_a_part_needs_points():
    with pytest.raises(InvalidInputError, match="part_world"):
        contact_events(moved(np.zeros((T, 3))), np.zeros(3), np.zeros((T, 0, 3)))


def test_the_opening_is_read_from_either_finger_or_both_whatever_the_palm_does():
    opening = np.linspace(0.9, 0.3, T)
    palm = np.tile(np.eye(4), (T, 1, 1))
    palm[:, :3, :3] = Rotation.from_rotvec(np.linspace(0, 0.7, T)[:, None] * np.array([1.0, 0, 0])).as_matrix()
    palm[:, :3, 3] = np.linspace(0, 0.3, T)[:, None] * np.array([0.5, -1, 0.2])
    fingers = {}
    for side in (1, -1):
        local = side * 0.05 * opening[:, None, None] * np.array([0, 1.0, 0]) + np.array(
            [[0.01, 0, 0.02], [0, 0, -0.03]]
        )
        fingers[side] = transform(palm, local)
    axis, none = np.array([0, 1.0, 0]), np.zeros((T, 0, 3))
    for plus, minus in ((fingers[1], fingers[-1]), (fingers[1], none), (none, fingers[-1])):
        found = opening_trace(plus, minus, palm, axis, 0.9, 0.1)
        assert np.allclose(found, opening, atol=1e-9)
    assert opening_trace(none, none, palm, axis, 0.9, 0.1) is None


def test_fingers_that_close_and_open_change_the_command_where_they_begin():
    opening = np.concatenate([np.full(8, 1.0), np.linspace(1, 0.4, 8), np.full(6, 0.4), np.linspace(0.4, 1, 8)])
    closing = closing_from_opening(opening, closed=False)
    assert np.flatnonzero(np.diff(closing.astype(int))).tolist() == [8, 22]
    assert closing[9]
    assert not closing[-1]


def fall(begin, end, low=0.4, length=32):
    """Fingers that close evenly from step `begin` to step `end`."""
    return np.interp(np.arange(length), [begin, end], [1.0, low])


def test_fingers_predicted_slower_than_the_robots_are_told_in_time_to_arrive_with_them():
    slow = fall(4, 24)  # the robot's own take 0.6 · 8 ≈ 5 steps
    begun = int(np.flatnonzero(closing_from_opening(slow, False))[0])
    assert begun in (5, 6)  # by the trace alone: at once
    told = int(np.flatnonzero(closing_from_opening(slow, False, stroke_steps=8.0))[0])
    there = told - 1 + np.ceil(0.9 * 0.6 * 8)  # when the robot's fingers have gone nine tenths of the way
    arrived = int(np.argmax(slow <= 1 - 0.9 * 0.6))
    assert arrived - 3 <= there <= arrived
    assert told > begun + 8


def test_fingers_as_quick_as_the_robots_are_told_where_they_begin():
    quick = fall(10, 15)
    assert np.array_equal(closing_from_opening(quick, False, stroke_steps=8.0), closing_from_opening(quick, False))


def test_later_fingers_still_open_again_after_they_closed():
    opening = np.minimum(fall(2, 14, length=40), 1.0)
    opening[28:] = np.linspace(0.4, 1.0, 12)
    command = closing_from_opening(opening, False, stroke_steps=6.0)
    changes = np.flatnonzero(np.diff(command.astype(int)))
    assert len(changes) == 2
    assert 4 <= changes[0] < 14  # shut by the 14th step
    assert 27 <= changes[1] <= 36
    assert not command[-1]


def test_fingers_that_are_still_on_their_way_at_the_end_are_told_before_it():
    command = closing_from_opening(fall(8, 60), False, stroke_steps=8.0)
    assert command[-1]
    assert np.flatnonzero(np.diff(command.astype(int))).tolist() == [np.flatnonzero(command)[0] - 1]


def test_slow_drift_does_not_move_the_onset_to_its_beginning():
    opening = np.concatenate([1 - 0.001 * np.arange(20), np.linspace(0.95, 0.3, 10)])
    closing = closing_from_opening(opening, closed=False)
    assert np.flatnonzero(closing)[0] >= 20


@pytest.mark.parametrize("closed", [True, False])
def test_fingers_that_stand_or_tremble_change_nothing(closed):
    tremble = 0.5 + 0.04 * np.sin(np.arange(T))
    assert (closing_from_opening(tremble, closed) == closed).all()
    assert (closing_from_opening(np.full(T, 0.45), closed) == closed).all()
