"""Rigid motions and parts of traces whose answers are known exactly."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from traceworld.errors import InvalidInputError
from traceworld.geometry.cameras import transform
from traceworld.policies.follower.motion import fit_motion, rigid_parts, travelled

STEPS = np.linspace(0, 1, 12)


def turning(
    points: np.ndarray, angle_rad: float, shift: np.ndarray, centre: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Paths [T,N,3] of points that turn about z through `centre` and move by `shift`, and the motion behind them."""
    poses = np.tile(np.eye(4), (len(STEPS), 1, 1))
    poses[:, :3, :3] = Rotation.from_rotvec(STEPS[:, None] * angle_rad * np.array([0, 0, 1.0])).as_matrix()
    poses[:, :3, 3] = centre - poses[:, :3, :3] @ centre + STEPS[:, None] * shift
    return transform(poses, np.repeat(points[None], len(STEPS), 0)), poses


@pytest.fixture
def body() -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.05, 0.05, (9, 3)) + np.array([0.3, 0.1, 0.2])


def test_an_exact_motion_is_found_exactly_with_its_turn(body):
    path, poses = turning(body, 0.8, np.array([0.1, -0.2, 0.05]), np.array([0.3, 0.0, 0.2]))
    found = fit_motion(path)
    assert found.turns
    assert found.inlier.all()
    assert np.allclose(found.world_from_start, poses, atol=1e-7)
    assert found.residual_m.max() < 1e-7
    assert np.array_equal(found.world_from_start[0], np.eye(4))


def test_points_that_leave_the_body_are_voted_down(body):
    path, _poses = turning(body, 0.5, np.array([0.2, 0.0, 0.0]), np.array([0.3, 0.1, 0.2]))
    stray = path.copy()
    stray[:, 2] = path[0, 2]  # these two stand still
    stray[:, 5] = path[0, 5]
    found = fit_motion(stray)
    assert found.inlier.tolist() == [n not in (2, 5) for n in range(9)]
    assert np.abs(transform(found.world_from_start, path[0][None].repeat(12, 0)) - path).max() < 0.004


def test_a_pure_translation_is_not_given_a_turn_by_noise(body):
    shift = np.array([0.2, 0.1, 0.0])
    exact = body + STEPS[:, None, None] * shift
    noisy = exact + np.random.default_rng(1).normal(0, 0.004, exact.shape)
    found = fit_motion(noisy)
    assert not found.turns
    assert np.array_equal(found.world_from_start[:, :3, :3], np.tile(np.eye(3), (12, 1, 1)))
    assert np.abs(found.world_from_start[-1, :3, 3] - shift).max() < 0.006


@pytest.mark.parametrize("count", [1, 2, 5])
def test_points_that_cannot_tell_a_turn_give_a_translation(count):
    line = np.linspace(0, 0.1, count)[:, None] * np.array([1.0, 0, 0])
    path = line + STEPS[:, None, None] * np.array([0.0, 0.3, 0.0])
    found = fit_motion(path)
    assert not found.turns
    assert np.allclose(found.world_from_start[:, :3, 3], STEPS[:, None] * [0.0, 0.3, 0.0])


@pytest.mark.parametrize("path", [np.zeros((4, 0, 3)), np.full((4, 3, 3), np.nan)])
def test_nothing_to_fit_is_an_error(path):
    with pytest.raises(InvalidInputError, match="fit_motion"):
        fit_motion(path)


def test_parts_are_found_by_how_they_move(body):
    turned, _ = turning(body, 0.7, np.zeros(3), np.array([0.3, -0.1, 0.2]))  # a door: its hinge is off it
    carried = (body[:5] + [0.12, 0, 0]) + STEPS[:, None, None] * np.array([0.0, 0.25, 0.1])
    still = np.repeat((body[:3] - [0.12, 0, 0])[None], len(STEPS), 0)
    label = rigid_parts(np.concatenate([carried, turned, still], axis=1))
    assert label.tolist() == [1] * 5 + [0] * 9 + [2] * 3  # the largest part comes first


def test_travel_is_the_greatest_distance_from_the_start():
    there_and_back = np.sin(np.pi * STEPS)[:, None, None] * np.array([[[0.0, 0.3, 0.4]]])
    assert travelled(there_and_back) == pytest.approx([0.5], rel=0.02)
