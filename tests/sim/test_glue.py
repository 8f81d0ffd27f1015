"""Exact traces against a scene that is computed by hand, and against MuJoCo's ray caster."""

import numpy as np
import pytest

from traceworld.geometry.cameras import project
from traceworld.sim.film import Film
from traceworld.sim.glue import carry, lift, see, traces_of
from traceworld.traces.types import Cameras

W, H, T = 64, 48, 9
K = np.array([[50.0, 0, 31.5], [0, 50.0, 23.5], [0, 0, 1]])


@pytest.fixture
def crossing():
    """A wall at 2 m (static) and a card at 1 m, 0.2 m wide, that crosses from left to right; made without a renderer."""
    cameras = Cameras.still(K, W, H, T)
    depth, identity = np.full((T, H, W), 2.0, np.float32), np.zeros((T, H, W), np.int16)
    pose = np.tile(np.eye(4), (T, 2, 1, 1))
    y, x = np.mgrid[:H, :W]
    for t in range(T):
        left = -0.5 + 0.1 * t
        pose[t, 1, 0, 3] = left
        at = (x - K[0, 2]) / K[0, 0]  # x in metres at 1 m
        card = (at >= left) & (at <= left + 0.2) & (np.abs(y - K[1, 2]) < 10)
        depth[t][card], identity[t][card] = 1.0, 1
    identity[:, :3] = -1  # a strip of sky
    depth[:, :3] = np.nan
    return Film(cameras, depth, identity, pose, np.array([0, 1]), np.array([-1, 5]))


def test_wall_is_hidden_exactly_while_the_card_is_in_front(crossing):
    pixel = np.array([[32.0, 24.0]])
    traces = traces_of(crossing, np.array([0]), pixel)
    free = crossing.object_id[:, 23:26, 31:34].reshape(T, -1) == 0
    hidden = ~free.any(1)
    assert hidden.any()
    assert np.array_equal(traces.visible[:, 0], ~hidden)
    assert traces.valid.all()
    assert np.ptp(traces.xyz_world[:, 0], axis=0).max() == 0
    assert traces.part_id[0] == -1
    assert not traces.moving[0]


def test_card_carries_its_points(crossing):
    at = 4
    y, x = np.argwhere(crossing.object_id[at] == 1)[5]
    traces = traces_of(crossing, np.array([at]), np.array([[x, y]], float))
    step = np.diff(traces.xyz_world[:, 0], axis=0)
    assert np.allclose(step, [0.1, 0, 0], atol=1e-6)
    assert traces.part_id[0] == 5
    assert traces.moving[0]
    assert traces.query_frame[0] == at
    inside = np.abs(project(traces.xyz_world[:, 0].astype(float), K, np.eye(4))[:, 0] - K[0, 2]) < 32
    assert np.array_equal(traces.visible[:, 0], inside)


def test_queries_that_show_nothing_are_never_valid(crossing):
    pixels = np.array([[10.0, 1.0], [-3.0, 20.0], [20.0, 48.0], [np.nan, 3.0]])
    traces = traces_of(crossing, np.zeros(4, int), pixels)
    assert not traces.valid.any()
    assert not traces.visible.any()
    assert not traces.moving.any()
    assert np.isnan(traces.xyz_world).all()


def test_outer_half_pixel_belongs_to_the_image(crossing):
    traces = traces_of(crossing, np.zeros(2, int), np.array([[-0.4, 30.0], [63.4, 47.4]]))
    assert traces.valid.all()


def test_no_points():
    film = Film(
        Cameras.still(K, W, H, 1),
        np.ones((1, H, W), np.float32),
        np.zeros((1, H, W), int),
        np.tile(np.eye(4), (1, 1, 1, 1)),
        np.array([0]),
        np.array([-1]),
    )
    assert traces_of(film, np.zeros(0, int), np.zeros((0, 2))).num_keypoints == 0


def test_depth_between_pixels_is_that_of_the_plane():
    """A slanted plane z = 1 + x/2: inverse depth is linear in the pixel, so sub-pixel lifting is exact."""
    x = (np.arange(W) - K[0, 2]) / K[0, 0]
    z = np.broadcast_to(1 / (1 - x / 2), (H, W)).astype(np.float32)
    film = Film(
        Cameras.still(K, W, H, 1),
        z[None].copy(),
        np.zeros((1, H, W), int),
        np.tile(np.eye(4), (1, 1, 1, 1)),
        np.array([0]),
        np.array([-1]),
    )
    pixels = np.random.default_rng(0).uniform([1, 1], [W - 2, H - 2], (50, 2))
    xyz, body = lift(film, np.zeros(50, int), pixels)
    assert (body == 0).all()
    assert np.abs(xyz[:, 2] - (1 + xyz[:, 0] / 2)).max() < 1e-6
    assert see(film, xyz[None], body).all()


def test_back_of_a_body_is_not_seen(crossing):
    front, _ = lift(crossing, np.array([0]), np.array([[10.0, 24.0]]))
    body = np.array([1])
    behind = front + np.array([0, 0, 0.01])
    assert see(crossing, carry(front, body, np.array([0]), crossing.body_pose), body)[0, 0]
    assert not see(crossing, carry(behind, body, np.array([0]), crossing.body_pose), body).any()


def test_point_of_another_body_at_the_same_depth_is_not_seen(crossing):
    xyz, _ = lift(crossing, np.array([0]), np.array([[50.0, 24.0]]))
    assert not see(crossing, np.repeat(xyz[None], T, 0), np.array([1]))[0, 0]


def test_carry_rotates_with_the_body():
    pose = np.tile(np.eye(4), (2, 1, 1, 1))
    pose[1, 0, :2, :2] = [[0, -1], [1, 0]]
    path = carry(np.array([[1.0, 2.0, 3.0]]), np.array([0]), np.array([0]), pose)
    assert np.allclose(path[1, 0], [-2, 1, 3])


@pytest.mark.render
def test_simulated_traces_agree_with_the_ray_caster(cast_ray, drawer, film):
    """Where a point is said to be seen, a ray towards it ends at it; where hidden, something else is in front."""
    rng = np.random.default_rng(1)
    frame, pixel = rng.integers(0, film.num_frames, 120), rng.uniform([0, 0], [319, 239], (120, 2))
    traces = traces_of(film, frame, pixel)
    spot = project(traces.xyz_world.astype(float), film.cameras.K, film.cameras.cam_from_world)
    agree = []
    for t in range(0, film.num_frames, 2):
        drawer.stage.put(drawer.states[t])
        for n in np.flatnonzero(traces.valid[t]):
            x, y, z = spot[t, n]
            inside = -0.5 <= x <= 319.5 and -0.5 <= y <= 239.5
            _, length = cast_ray(drawer.stage, film.cameras[t], (x, y))
            agree.append(traces.visible[t, n] == (inside and length > z - 0.004))
    assert len(agree) > 300
    assert np.mean(agree) > 0.985  # the rest lies at silhouettes, where 3×3 pixels are allowed to differ


@pytest.mark.render
def test_every_query_is_seen_at_its_own_pixel(film):
    rng = np.random.default_rng(2)
    frame, pixel = rng.integers(0, film.num_frames, 400), rng.uniform([0, 0], [319, 239], (400, 2))
    traces = traces_of(film, frame, pixel)
    known = traces.valid[0]
    n = np.flatnonzero(known)
    assert traces.visible[frame[n], n].all()
    spot = project(traces.xyz_world[frame[n], n].astype(float), film.cameras.K[0], film.cameras.cam_from_world[0])
    assert np.abs(spot[:, :2] - pixel[n]).max() < 1e-3
    assert len(set(traces.part_id[traces.moving].tolist())) >= 3


@pytest.mark.render
def test_carried_points_land_on_the_body_that_identity_shows(film):
    """Where visible, the nearest pixel shows the point's own body (but for silhouettes)."""
    rng = np.random.default_rng(3)
    frame, pixel = np.zeros(300, int), rng.uniform([0, 0], [319, 239], (300, 2))
    xyz, body = lift(film, frame, pixel)
    traces = traces_of(film, frame, pixel)
    spot = project(traces.xyz_world.astype(float), film.cameras.K, film.cameras.cam_from_world)
    t, n = np.nonzero(traces.visible)
    x, y = np.rint(spot[t, n, :2]).astype(int).clip(0, [319, 239]).T
    shown = np.append(film.object_body, -1)[film.object_id[t, y, x]]
    assert (shown == body[n]).mean() > 0.99
    assert np.isfinite(xyz[body >= 0]).all()
