"""Camera poses: exact on a known scene, held when they cannot be trusted."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scenes import BACK_M, K, card_scene
from scenes import texture as picture

from traceworld.perception.interfaces import Frame, GeometryBackend
from traceworld.perception.odometry import EmbeddedGeometry, OdometryConfig, RGBDOdometry, far_frames


def walk(count: int = 12) -> list[Frame]:
    """A wall with a step in it, seen from a camera that shifts sideways; exact by cutting windows out of a wide picture."""
    wide = picture(7, 240, 520)
    near = picture(8, 240, 900)
    frames = []
    for t in range(count):
        shift = 0.02 * t
        far_px, near_px = 250 * shift / 1.5, 250 * shift / 1.0
        rows = np.float32([[1, 0, far_px], [0, 1, 0]])
        image = cv2.warpAffine(wide, rows, (320, 240), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        front = cv2.warpAffine(
            near, np.float32([[1, 0, near_px], [0, 1, 0]]), (320, 240), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )
        image[120:] = front[120:]
        depth = np.full((240, 320), BACK_M, np.float32)
        depth[120:] = 1.0
        frames.append(Frame(t, t / 10, image, depth))
    return frames


def test_a_sideways_walk_is_measured():
    geometry = EmbeddedGeometry().reconstruct(walk(), K)
    true = np.repeat(np.eye(4)[None], 12, 0)
    true[:, 0, 3] = -0.02 * np.arange(12)
    np.testing.assert_allclose(geometry.cam_from_world[:, :3, 3], true[:, :3, 3], atol=0.004)
    np.testing.assert_allclose(geometry.cam_from_world[:, :3, :3], true[:, :3, :3], atol=0.004)
    assert geometry.metric
    assert set(geometry.status) == {""}


def test_the_gate_keeps_a_still_camera_still_while_a_card_moves():
    frames, _ = card_scene(10, (5.0, 1.0), (40, 60, 120, 120))
    geometry = EmbeddedGeometry().reconstruct(frames, K)
    np.testing.assert_array_equal(geometry.cam_from_world, np.repeat(np.eye(4)[None], 10, 0))
    assert set(geometry.status) == {"static"}
    assert isinstance(EmbeddedGeometry(), GeometryBackend)


def test_without_depth_nothing_is_claimed():
    frames = [Frame(f.index, f.time_s, f.image) for f in walk(4)]
    geometry = EmbeddedGeometry().reconstruct(frames, K)
    assert not geometry.metric
    assert np.isfinite(geometry.depth_m).all()
    np.testing.assert_array_equal(geometry.cam_from_world, np.repeat(np.eye(4)[None], 4, 0))


def test_given_poses_win():
    frames = [Frame(f.index, f.time_s, f.image, f.depth_m, np.diag([1.0, -1, -1, 1])) for f in walk(3)]
    geometry = EmbeddedGeometry().reconstruct(frames, K)
    np.testing.assert_array_equal(geometry.cam_from_world[2], np.diag([1.0, -1, -1, 1]))


def test_one_frame():
    assert EmbeddedGeometry().reconstruct(walk(1), K).cam_from_world.shape == (1, 4, 4)


def started() -> tuple[RGBDOdometry, list[np.ndarray], np.ndarray]:
    frames = walk(3)
    grays = [cv2.cvtColor(f.image, cv2.COLOR_RGB2GRAY) for f in frames]
    odometry = RGBDOdometry(K)
    odometry.start(grays[0], frames[0].depth_m, np.eye(4))
    return odometry, grays, frames[0].depth_m


def test_a_blind_frame_holds_the_pose_and_says_so():
    odometry, grays, depth = started()
    pose = odometry.step(np.zeros_like(grays[0]), depth)
    np.testing.assert_array_equal(pose, np.eye(4))
    assert odometry.status == "too few points"
    odometry.step(grays[1], depth)  # still blind: the keyframe is the black frame
    odometry.step(grays[2], depth)
    assert odometry.status == ""


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (
            lambda *a: (True, np.full((3, 1), np.nan), np.zeros((3, 1)), np.arange(len(a[0]))[:, None]),
            "pose not finite",
        ),
        (lambda *a: (True, np.zeros((3, 1)), np.full((3, 1), 1e9), np.arange(len(a[0]))[:, None]), "impossible jump"),
        (lambda *a: (False, None, None, None), "too few inliers"),
        (lambda *a: (True, np.zeros((3, 1)), np.zeros((3, 1)), np.arange(5)[:, None]), "too few inliers"),
    ],
)
def test_a_diverged_solver_is_not_believed(monkeypatch, fault, status):
    odometry, grays, depth = started()
    monkeypatch.setattr(cv2, "solvePnPRansac", fault)
    monkeypatch.setattr(cv2, "solvePnPRefineLM", lambda w, x, K, d, r, t: (r, t))
    np.testing.assert_array_equal(odometry.step(grays[1], depth), np.eye(4))
    assert odometry.status == status


def test_a_solver_that_raises_is_survived(monkeypatch):
    def fault(*arguments):
        raise cv2.error("injected")

    odometry, grays, depth = started()
    monkeypatch.setattr(cv2, "solvePnPRansac", fault)
    np.testing.assert_array_equal(odometry.step(grays[1], depth), np.eye(4))
    assert odometry.status.startswith("PnP failed")


def test_masked_pixels_take_no_part():
    frames = walk(2)
    gray = cv2.cvtColor(frames[0].image, cv2.COLOR_RGB2GRAY)
    odometry = RGBDOdometry(K, OdometryConfig())
    odometry.start(gray, frames[0].depth_m, np.eye(4), ignore=np.ones(gray.shape, bool))
    odometry.step(gray, frames[0].depth_m)
    assert odometry.status == "too few points"


def test_far_frames_stay_inside():
    for count in (1, 2, 3, 5, 64):
        assert all(1 < i < count for i in far_frames(count))
