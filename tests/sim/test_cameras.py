import numpy as np
import pytest

from traceworld.errors import ConfigError
from traceworld.geometry.cameras import project
from traceworld.sim.cameras import FIXED_CAMERAS, MOUNTED_CAMERAS, CameraPath, CameraView, film_cameras, intrinsics

VIEW = CameraView(lookat=(0.1, 0.6, 0.2), distance=1.3, azimuth_deg=30.0, elevation_deg=-25.0, fovy_deg=50.0)


def test_middle_of_the_picture_shows_what_it_looks_at():
    K = intrinsics(VIEW.fovy_deg, 64, 48)
    x, y, z = project(np.array(VIEW.lookat), K, VIEW.cam_from_world())
    assert (x, y) == pytest.approx((31.5, 23.5))
    assert z == pytest.approx(VIEW.distance)


def test_upright_and_right_handed():
    pose = VIEW.cam_from_world()
    assert np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3))
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)
    above = project(np.array(VIEW.lookat) + np.array([0, 0, 0.1]), intrinsics(50.0, 64, 48), pose)
    assert above[1] < 23.5  # up in the world is up in the picture
    assert above[0] == pytest.approx(31.5)


def test_field_of_view_ends_at_the_outer_edge_of_the_outer_pixels():
    K = intrinsics(90.0, 64, 48)
    edge = project(np.array([0.0, 1.0, 1.0]), K, np.eye(4))
    assert edge[1] == pytest.approx(47.5)


def test_impossible_views_are_refused():
    for bad in ({"distance": 0.0}, {"fovy_deg": 180.0}, {"elevation_deg": 91.0}):
        with pytest.raises(ConfigError):
            CameraView(**bad)


def test_jitter_is_seeded_bounded_and_zero_is_nothing():
    assert VIEW.jittered(np.random.default_rng(0), 0.0) == VIEW
    assert VIEW.jittered(np.random.default_rng(0)) == VIEW.jittered(np.random.default_rng(0))
    for seed in range(20):
        other = VIEW.jittered(np.random.default_rng(seed))
        assert abs(other.azimuth_deg - VIEW.azimuth_deg) <= 8
        assert abs(other.distance / VIEW.distance - 1) <= 0.1
        assert np.abs(np.array(other.lookat) - VIEW.lookat).max() <= 0.04


def test_path_starts_at_its_start_and_is_smooth():
    views = CameraPath(VIEW, orbit_deg=20.0, seed=4).views(VIEW, 101)
    assert views[0] == VIEW
    azimuth = np.array([view.azimuth_deg for view in views])
    assert 10 < np.ptp(azimuth) <= 20
    assert np.abs(np.diff(azimuth)).max() < 1.0
    assert np.abs(np.diff(azimuth, n=2)).max() < 0.1
    assert CameraPath(VIEW, seed=5).views(VIEW, 9) != CameraPath(VIEW, seed=6).views(VIEW, 9)


def test_path_of_one_frame():
    assert CameraPath(VIEW).views(VIEW, 1) == [VIEW]


@pytest.mark.parametrize("name", FIXED_CAMERAS)
def test_named_cameras_keep_place_and_direction_and_stand_upright(drawer, name):
    camera = film_cameras(drawer.stage, name, drawer.states[:2], 64, 48)
    assert camera.static
    pose, theirs = camera.cam_from_world[0], drawer.stage.data.camera(name)
    assert np.allclose(-pose[:3, :3].T @ pose[:3, 3], theirs.xpos, atol=1e-9)
    assert np.allclose(pose[2, :3], -theirs.xmat.reshape(3, 3)[:, 2], atol=1e-9)
    assert pose[0, 2] == pytest.approx(0, abs=1e-9)  # the horizon is level
    assert pose[1, 2] <= 1e-9  # the picture's down is not the world's up


def test_mounted_cameras_follow_the_gripper(drawer):
    for name in MOUNTED_CAMERAS:
        cameras = film_cameras(drawer.stage, name, drawer.states, 64, 48)
        assert not cameras.static
        assert np.linalg.det(cameras.cam_from_world[:, :3, :3]) == pytest.approx(1, abs=1e-9)


def test_unknown_camera_lists_the_known_ones(drawer):
    with pytest.raises(ConfigError, match="corner4"):
        film_cameras(drawer.stage, "side", drawer.states, 64, 48)
