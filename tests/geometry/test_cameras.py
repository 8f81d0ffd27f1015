"""Cameras against OpenCV, against themselves (round trips), and under resize and crop."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from traceworld.errors import InvalidInputError
from traceworld.geometry import cameras

K = np.array([[500.0, 0, 320.3], [0, 520.0, 238.1], [0, 0, 1]])


def random_pose(rng) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = Rotation.random(random_state=int(rng.integers(2**31))).as_matrix()
    T[:3, 3] = rng.normal(size=3)
    return T


def points_in_front(rng, pose: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    cam = rng.uniform([-1, -1, 0.5], [1, 1, 4], (*shape, 3))
    return cameras.transform(np.linalg.inv(pose), cam)


@given(st.integers(0, 10_000))
def test_project_agrees_with_opencv_and_unproject_inverts(seed):
    rng = np.random.default_rng(seed)
    pose = random_pose(rng)
    world = points_in_front(rng, pose, (7,))
    ours = cameras.project(world, K, pose)
    theirs, _ = cv2.projectPoints(world, cv2.Rodrigues(pose[:3, :3])[0], pose[:3, 3], K, None)
    np.testing.assert_allclose(ours[:, :2], theirs[:, 0], atol=1e-6)
    np.testing.assert_allclose(ours[:, 2], (world @ pose[:3, :3].T + pose[:3, 3])[:, 2])
    np.testing.assert_allclose(cameras.unproject(ours[:, :2], ours[:, 2], K, pose), world, atol=1e-9)


def test_one_camera_per_frame_lines_up_with_frames_not_points():
    rng = np.random.default_rng(0)
    poses = np.stack([random_pose(rng) for _ in range(4)])
    Ks = np.stack([K * np.array([[s, 1, 1], [1, s, 1], [1, 1, 1]]) for s in (1, 1.1, 1.2, 1.3)])
    for N in (4, 6):  # 4 points as well as 4 frames must not be mistaken
        world = rng.normal(size=(4, N, 3))
        together = cameras.project(world, Ks, poses)
        for t in range(4):
            np.testing.assert_allclose(together[t], cameras.project(world[t], Ks[t], poses[t]))
    np.testing.assert_allclose(cameras.transform(poses[:, None], world[0])[3], cameras.transform(poses[3], world[0]))
    each = cameras.transform(poses, world[:, 0])  # one point per frame
    np.testing.assert_allclose(each[1], cameras.transform(poses[1], world[1, 0]))
    # The same points seen from every frame: numpy's own broadcasting with an explicit axis.
    np.testing.assert_allclose(
        cameras.project(world[0], Ks[:, None], poses[:, None])[2], cameras.project(world[0], Ks[2], poses[2])
    )


def test_behind_the_camera_and_nan_give_nan_without_spreading():
    world = np.array([[0, 0, 2.0], [0, 0, -2.0], [0, 0, 0.0], [np.nan, 0, 1.0]])
    out = cameras.project(world, K, np.eye(4))
    assert np.isfinite(out[0]).all()
    assert np.isnan(out[1:3, :2]).all()
    assert out[1, 2] == -2
    assert np.isnan(out[3, 0])
    assert cameras.project(np.zeros((0, 3)), K, np.eye(4)).shape == (0, 3)


def test_uv_edges_centres_and_dtype():
    corners = np.array([[-0.5, -0.5], [639.5, 479.5], [319.5, 239.5]], np.float32)
    uv = cameras.px_to_uv(corners, 640, 480)
    np.testing.assert_allclose(uv, [[-1, -1], [1, 1], [0, 0]], atol=1e-7)
    assert uv.dtype == np.float32
    np.testing.assert_allclose(cameras.uv_to_px(uv, 640, 480), corners, atol=1e-4)
    with pytest.raises(InvalidInputError):
        cameras.px_to_uv(corners, 0, 480)


def test_uvz_round_trip_and_uv_intrinsics():
    rng = np.random.default_rng(1)
    pose = random_pose(rng)
    world = points_in_front(rng, pose, (3, 5))
    uvz = cameras.world_to_uvz(world, K, pose, 640, 480)
    np.testing.assert_allclose(cameras.uvz_to_world(uvz, K, pose, 640, 480), world, atol=1e-9)
    fx, fy, u0, v0 = cameras.K_to_uv(K, 640, 480)
    cam = cameras.transform(pose, world)
    np.testing.assert_allclose(uvz[..., 0], fx * cam[..., 0] / cam[..., 2] + u0)
    np.testing.assert_allclose(uvz[..., 1], fy * cam[..., 1] / cam[..., 2] + v0)


def test_resize_keeps_uv_and_crop_shifts_pixels():
    rng = np.random.default_rng(2)
    world = rng.uniform([-1, -1, 1], [1, 1, 3], (20, 3))
    small = cameras.resize_K(K, (640, 480), (224, 224))
    np.testing.assert_allclose(
        cameras.world_to_uvz(world, small, np.eye(4), 224, 224), cameras.world_to_uvz(world, K, np.eye(4), 640, 480)
    )
    np.testing.assert_allclose(cameras.resize_K(small, (224, 224), (640, 480)), K)
    np.testing.assert_allclose(cameras.K_to_uv(small, 224, 224), cameras.K_to_uv(K, 640, 480))
    moved = cameras.project(world, cameras.crop_K(K, 30, -12), np.eye(4))
    np.testing.assert_allclose(moved[:, :2], cameras.project(world, K, np.eye(4))[:, :2] - [30, -12])


def test_resize_matches_where_opencv_puts_a_dot():
    image = np.zeros((40, 60), np.float32)
    image[10:14, 20:24] = 1  # centre at (21.5, 11.5)
    half = cv2.resize(image, (30, 20), interpolation=cv2.INTER_AREA)
    y, x = (np.indices(half.shape) * half).sum((1, 2)) / half.sum()
    k = np.array([[1.0, 0, 21.5], [0, 1.0, 11.5], [0, 0, 1]])
    np.testing.assert_allclose(cameras.resize_K(k, (60, 40), (30, 20))[:2, 2], [x, y])


def test_skew_is_undone_and_invert_rigid_inverts():
    rng = np.random.default_rng(3)
    skewed = K.copy()
    skewed[0, 1] = 4.0
    pose = random_pose(rng)
    world = points_in_front(rng, pose, (5,))
    seen = cameras.project(world, skewed, pose)
    np.testing.assert_allclose(cameras.unproject(seen[:, :2], seen[:, 2], skewed, pose), world, atol=1e-9)
    poses = np.stack([pose, random_pose(rng)])
    np.testing.assert_allclose(cameras.invert_rigid(poses) @ poses, np.stack([np.eye(4)] * 2), atol=1e-12)
