"""Dense flow, the static gate and what the camera does not explain."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scenes import BACK_M, K, card_scene
from scenes import texture as picture

from traceworld.geometry.cameras import project, unproject
from traceworld.perception.motion import (
    DenseFlow,
    FlowField,
    camera_flow,
    depth_change,
    homography_flow,
    residual_motion,
    static_share,
    textured,
)


def shifted(gray: np.ndarray, dx: float, dy: float) -> np.ndarray:
    return cv2.warpAffine(gray, np.float32([[1, 0, dx], [0, 1, dy]]), gray.shape[::-1], borderMode=cv2.BORDER_REFLECT)


def gray_picture() -> np.ndarray:
    return cv2.cvtColor(picture(3), cv2.COLOR_RGB2GRAY)


def test_a_shift_is_measured_in_full_image_pixels():
    flow, a = DenseFlow(), gray_picture()
    field = flow.between(flow.small(a), flow.small(shifted(a, 5, -3)), 320, 240)
    at = field.at(np.array([[100.0, 100.0], [160.5, 60.25], [220.0, 180.0]]))
    np.testing.assert_allclose(at, np.tile([5.0, -3.0], (3, 1)), atol=0.5)


def test_flow_is_read_where_it_is_between_cells():
    h, w = 24, 32
    x = (np.arange(w) + 0.5) * 10 - 0.5
    vectors = np.zeros((h, w, 2), np.float32)
    vectors[..., 0] = 0.1 * x[None]
    field = FlowField(vectors, 320, 240)
    xy = np.array([[50.0, 100.0], [123.4, 20.0]])
    np.testing.assert_allclose(field.at(xy)[:, 0], 0.1 * xy[:, 0], atol=0.03)
    assert field.at(np.zeros((0, 2))).shape == (0, 2)


@pytest.mark.parametrize("shape", [(1, 1), (5, 40), (11, 11)])
def test_tiny_images_have_flow(shape):
    flow = DenseFlow()
    gray = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    field = flow.between(flow.small(gray), flow.small(gray), shape[1], shape[0])
    assert np.isfinite(field.vectors).all()
    assert field.vectors.shape[:2] == flow.small(gray).shape


def test_static_gate():
    flow, a = DenseFlow(), gray_picture()
    small = flow.small(a)
    mask = textured(small)
    assert static_share(flow.between(small, small, 320, 240), mask) > 0.95
    assert static_share(flow.between(small, flow.small(shifted(a, 3, 0)), 320, 240), mask) < 0.2
    assert np.isnan(static_share(flow.between(small, small, 320, 240), np.zeros_like(mask)))
    assert not textured(np.full((40, 40), 90, np.uint8)).any()


def test_camera_flow_is_projection():
    pose = np.eye(4)
    pose[:3, 3] = [0.05, -0.02, 0.1]
    depth = np.full((240, 320), BACK_M, np.float32)
    like = FlowField(np.zeros((120, 160, 2), np.float32), 320, 240)
    flow = camera_flow(depth, K, pose, like)
    xy = np.array([[40 * 2 + 0.5, 30 * 2 + 0.5]])
    expected = project(unproject(xy, np.array([BACK_M]), K, np.eye(4)), K, pose)[:, :2] - xy
    np.testing.assert_allclose(flow[30, 40], expected[0], atol=1e-3)


def test_homography_explains_a_shift_and_leaves_an_object():
    flow, a = DenseFlow(), gray_picture()
    b = shifted(a, 4, 2)
    b[100:140, 100:140] = shifted(a, 12, 2)[100:140, 100:140]
    small = flow.small(a)
    field = flow.between(small, flow.small(b), 320, 240)
    left = residual_motion(field, homography_flow(field, textured(small)))
    assert np.median(left) < 0.5
    assert np.median(left[54:66, 54:66]) > 3


def test_depth_tells_an_object_from_a_shadow():
    frames, _ = card_scene(10, (6.0, 0.0), (60, 80, 40, 70))
    moved = depth_change(frames[0].depth_m, frames[9].depth_m, K, np.eye(4), (160, 120))
    assert moved[42:72, 32:48].mean() > 0.9  # the card has left
    assert not moved[:, 60:].any()  # what it now covers has not: it is only hidden
    assert not depth_change(frames[0].depth_m, frames[0].depth_m, K, np.eye(4), (160, 120)).any()


def test_a_moving_camera_moves_no_surface():
    depth = np.full((240, 320), BACK_M, np.float32)
    pose = np.eye(4)
    pose[:3, 3] = [0.1, 0, 0]
    assert not depth_change(depth, depth, K, pose, (160, 120)).any()
