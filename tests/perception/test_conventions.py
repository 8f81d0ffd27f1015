"""Each converter against the convention written out by hand, and every pair of them against its inverse."""

import backend_scene as scene
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.perception import conventions as c
from traceworld.perception.conventions import Native


@pytest.mark.parametrize(
    ("range_", "black", "white"),
    [("0..1", 0.0, 1.0), ("0..255", 0.0, 255.0), ("-1..1", -1.0, 1.0), ("imagenet", -0.485 / 0.229, 0.515 / 0.229)],
)
def test_image_ranges(range_, black, white):
    images = np.zeros((1, 2, 3, 3), np.uint8)
    images[0, 1] = 255
    values = c.pixel_values(images, range_)
    assert values.dtype == np.float32
    assert values[0, 0, 0, 0] == pytest.approx(black, abs=1e-6)
    assert values[0, 1, 0, 0] == pytest.approx(white, abs=1e-5)


@given(st.integers(8, 3000), st.integers(8, 3000), st.integers(28, 800))
def test_fitted_sizes_are_multiples_near_the_shape(width, height, side):
    w, h = c.fit_size(width, height, side, 14)
    assert w % 14 == 0
    assert h % 14 == 0
    assert abs(max(w, h) - side) <= 7 or max(w, h) == 14
    share = side / max(width, height)
    assert abs(w - width * share) <= 14
    assert abs(h - height * share) <= 14


def test_outer_corners_of_the_picture_are_corners_at_every_size_and_convention():
    """The corner between the pixels (−½, −½) and the last one's outer corner stay where they are."""
    size, native = (112, 84), (256, 256)
    corners = np.array([[-0.5, -0.5], [111.5, 83.5]])
    np.testing.assert_allclose(c.to_native_px(corners, size, native, "half"), [[0, 0], [256, 256]])
    np.testing.assert_allclose(c.to_native_px(corners, size, native, "integer"), [[-0.5, -0.5], [255.5, 255.5]])


@pytest.mark.parametrize("centres", ["integer", "half"])
def test_pixels_and_intrinsics_go_together(centres):
    """A point projected with the converted intrinsics lies on the converted pixel; and back again."""
    native = (252, 196)
    K = c.native_K(scene.K, (scene.WIDTH, scene.HEIGHT), native, centres)
    np.testing.assert_allclose(K, scene.intrinsics(*native, half=centres == "half"))
    xyz = np.array([[0.1, -0.2, 1.5], [-0.4, 0.3, 2.5]])
    own = xyz[:, :2] / xyz[:, 2:] * K[[0, 1], [0, 1]] + K[:2, 2]
    house = xyz[:, :2] / xyz[:, 2:] * scene.K[[0, 1], [0, 1]] + scene.K[:2, 2]
    size = (scene.WIDTH, scene.HEIGHT)
    np.testing.assert_allclose(c.to_native_px(house, size, native, centres), own)
    np.testing.assert_allclose(c.from_native_px(own, size, native, centres), house)
    np.testing.assert_allclose(c.house_K(K, size, native, centres), scene.K)


def test_normalised_intrinsics_and_the_field_of_view():
    """f = W for 53.13°; the middle of the image is ½ there and (W − 1)/2 here."""
    K = c.K_from_normalised(np.array([[1.0, 0, 0.5], [0, 4 / 3, 0.5], [0, 0, 1]]), (640, 480))
    np.testing.assert_allclose(K, [[640, 0, 319.5], [0, 640, 239.5], [0, 0, 1]])
    assert c.fov_x_deg(K, 640) == pytest.approx(2 * np.degrees(np.arctan(0.5)))


POSES = np.stack([scene.pose(t) for t in range(4)])


@pytest.mark.parametrize("axes", ["opencv", "opengl"])
@pytest.mark.parametrize("direction", ["cam_from_world", "world_from_cam"])
def test_poses_there_and_back(direction, axes):
    native = Native(pose=direction, axes=axes)
    there = c.native_poses(POSES, native)
    np.testing.assert_allclose(c.house_poses(there, native), POSES, atol=1e-12)
    np.testing.assert_allclose(c.house_poses(there[:, :3], native), POSES, atol=1e-12)


def test_poses_mean_what_they_say():
    """A camera to world matrix holds the camera's place; an OpenGL camera looks along its −z, with y up."""
    to_world = c.native_poses(POSES, Native(pose="world_from_cam"))
    centre = -POSES[2, :3, :3].T @ POSES[2, :3, 3]
    np.testing.assert_allclose(to_world[2, :3, 3], centre)
    gl = c.native_poses(POSES, Native(pose="cam_from_world", axes="opengl"))
    ahead = to_world[1] @ [0, 0.3, 2.0, 1]  # 2 m ahead, 30 cm down, in OpenCV axes
    np.testing.assert_allclose(gl[1] @ ahead, [0, -0.3, -2.0, 1], atol=1e-12)


def test_rotations_in_half_precision_come_out_as_rotations():
    rough = POSES.astype(np.float16).astype(np.float64)
    found = c.house_poses(rough, Native(pose="cam_from_world"))
    turns = found[:, :3, :3]
    np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), np.repeat(np.eye(3)[None], 4, 0), atol=1e-12)
    np.testing.assert_allclose(turns, POSES[:, :3, :3], atol=1e-3)


@pytest.mark.parametrize("bad", [np.eye(3)[None], np.full((1, 4, 4), np.nan), 2 * np.eye(4)[None]])
def test_what_is_no_pose_is_refused(bad):
    with pytest.raises(InvalidInputError):
        c.house_poses(bad, Native(pose="cam_from_world"))


def test_depth_along_the_ray_and_inverse_depth_become_z():
    z = np.stack([scene.depth(0), scene.depth(3)])
    K = np.stack([scene.K, scene.K])
    v, u = np.mgrid[: scene.HEIGHT, : scene.WIDTH]
    rays = np.stack([(u - scene.K[0, 2]) / scene.K[0, 0], (v - scene.K[1, 2]) / scene.K[1, 1], np.ones_like(u)], -1)
    distance = z * np.linalg.norm(rays, axis=-1)
    np.testing.assert_allclose(c.z_depth(distance, Native(depth="ray"), K), z, rtol=1e-6)
    np.testing.assert_allclose(c.z_depth(1 / z, Native(depth="inverse")), z, rtol=1e-6)
    half = K.copy()
    half[:, :2, 2] += 0.5
    np.testing.assert_allclose(c.z_depth(distance, Native(depth="ray", centres="half"), half), z, rtol=1e-6)
    with pytest.raises(InvalidInputError, match="intrinsics"):
        c.z_depth(distance, Native(depth="ray"))


def test_unknown_depth_is_nan_however_it_is_written():
    values = np.array([[[1.0, 0.0, -1.0, np.inf, np.nan, 2.0]]])
    mask = np.array([[[True] * 5 + [False]]])
    z = c.z_depth(values, Native(depth="z"), mask=mask)
    np.testing.assert_array_equal(np.isfinite(z[0, 0]), [True, False, False, False, False, False])
    np.testing.assert_array_equal(np.isfinite(c.z_depth(values, Native(depth="inverse"))[0, 0, :2]), [True, False])


def test_resized_depth_holds_only_values_that_were_there():
    depth = np.where(np.arange(12).reshape(1, 3, 4) % 5 == 0, np.nan, 1.0 + np.arange(12).reshape(1, 3, 4))
    found = c.resize_depth(depth, (9, 7))
    assert found.shape == (1, 7, 9)
    assert set(found[np.isfinite(found)]) <= set(depth[np.isfinite(depth)].astype(np.float32))
    assert np.isnan(found).any()


def test_canonical_depth_follows_the_focal_length():
    np.testing.assert_allclose(c.metres_from_canonical(np.full((1, 2, 2), 3.0), 600.0), 6.0)


@pytest.mark.parametrize(
    ("order", "position", "expected"),
    [("txy", [[5.0, 7.0]], [2, 5, 7]), ("tyx", [[5.0, 7.0]], [2, 7, 5]), ("tXYZ", [[1.0, 2.0, 3.0]], [2, 1, 2, 3])],
)
def test_query_orders(order, position, expected):
    found = c.native_queries(np.array([2]), np.array(position), order)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[0], expected)


def test_queries_of_the_wrong_dimension_are_refused():
    with pytest.raises(ConfigError):
        c.native_queries(np.array([0]), np.zeros((1, 3)), "txy")


def test_tracks_by_point_become_tracks_by_frame():
    tracks = np.arange(12.0).reshape(2, 3, 2)  # N, T, 2
    np.testing.assert_array_equal(c.house_tracks(tracks, "txy")[2, 1], tracks[1, 2])
    np.testing.assert_array_equal(c.house_tracks(tracks, "tyx")[2, 1], tracks[1, 2, ::-1])


def test_visibility_is_the_product_of_not_hidden_and_not_far_off():
    share = c.visible_share(np.array([0.0, -50.0, 800.0]), np.array([0.0, -50.0, 0.0]))
    np.testing.assert_allclose(share, [0.25, 1.0, 0.0], atol=1e-12)


def test_points_in_their_own_cameras_become_world_points():
    xyz = scene.lift(np.array([[20.0, 30.0], [80.0, 50.0]]), 0)
    cam = np.stack([xyz @ E[:3, :3].T + E[:3, 3] for E in POSES])
    np.testing.assert_allclose(c.world_from_camera_tracks(cam, POSES), np.repeat(xyz[None], 4, 0), atol=1e-9)


def test_padding_repeats_the_last_frame_up_to_a_multiple():
    padded = c.pad_time(np.arange(5), 6, 4)
    np.testing.assert_array_equal(padded, [0, 1, 2, 3, 4, 4, 4, 4])
    np.testing.assert_array_equal(c.pad_time(np.arange(9), 4), np.arange(9))


def test_a_convention_has_words():
    words = Native(pose="world_from_cam", depth="z", scale="metric", queries="tyx", centres="half").words()
    for part in ("world_from_cam", "opencv", "metric", "tyx", "half"):
        assert part in words
