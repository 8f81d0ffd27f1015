"""Lifting of 2D tracks: exact where depth is exact, silent where it is not, and never through a surface in front."""

import backend_scene as scene
import numpy as np
import pytest

from traceworld.errors import InvalidInputError
from traceworld.perception.chunks import FrameChunk, PointQueries, check_queries
from traceworld.perception.interfaces import Tracks2D
from traceworld.perception.lift_tracks import from_world, lift_tracks


def exact(count=scene.FRAMES):
    """The chunk, queries, and what a perfect tracker says."""
    chunk, queries = scene.chunk(count), scene.queries(count)
    _, xy, visible = scene.truth(queries, count)
    return chunk, queries, Tracks2D(xy.astype(np.float32), visible, visible.astype(np.float32))


def test_perfect_tracks_give_perfect_points():
    chunk, queries, tracks = exact()
    found = lift_tracks(tracks, chunk, queries)
    assert (found.visible == tracks.visible).mean() > 0.98
    error = np.abs(found.xyz_world - queries.xyz_world[None])[found.valid]
    assert error.max() < 0.01
    assert np.isnan(found.xyz_world[~found.valid]).all()


def test_a_point_does_not_jump_onto_what_passes_in_front():
    """Something 40 cm nearer covers everything in frames 4 and 5, which the tracker does not notice."""
    chunk, queries, _ = exact()
    queries = queries.take(np.flatnonzero(~np.isin(queries.frame, (4, 5))))
    _, xy, visible = scene.truth(queries, len(chunk))
    depth = chunk.depth_m.copy()
    depth[4:6] -= 0.4
    covered = FrameChunk(chunk.images, depth, chunk.K, chunk.cam_from_world)
    found = lift_tracks(Tracks2D(xy.astype(np.float32), visible, visible.astype(np.float32)), covered, queries)
    assert not found.visible[4:6].any()
    assert found.visible[[2, 3, 6, 7]].any(0).all()  # and it is found again behind it


def test_holes_in_the_depth_hide_a_point():
    chunk, queries, tracks = exact()
    depth = chunk.depth_m.copy()
    depth[7] = np.nan
    found = lift_tracks(tracks, FrameChunk(chunk.images, depth, chunk.K, chunk.cam_from_world), queries)
    other = queries.frame != 7
    assert not found.valid[7, other].any()
    assert found.valid[7, ~other].all()  # the query itself is taken as given
    assert found.valid[8].any()


def test_without_depth_the_scene_is_a_plane_and_pixels_are_exact():
    count = 5
    chunk = FrameChunk(scene.chunk(count).images, None, scene.K, np.repeat(np.eye(4)[None], count, 0))
    xy = np.repeat(np.array([[[20.0, 30.0], [60.0, 40.0]]]), count, 0) + np.arange(count)[:, None, None]
    rays = np.concatenate([(xy[0] - scene.K[:2, 2]) / scene.K[[0, 1], [0, 1]], np.ones((2, 1))], 1)
    queries = PointQueries(np.zeros(2, np.int64), xy[0], rays)
    seen = np.ones((count, 2), bool)
    found = lift_tracks(Tracks2D(xy.astype(np.float32), seen, seen.astype(np.float32)), chunk, queries)
    assert found.visible.all()
    np.testing.assert_allclose(found.xyz_world[..., 2], 1.0)
    np.testing.assert_allclose(found.xy_px, xy, atol=1e-4)


def test_positions_outside_of_the_picture_are_not_seen():
    chunk, queries, tracks = exact(4)
    tracks.xy_px[2] = [scene.WIDTH + 3.0, 10.0]
    tracks.visible[2] = True
    found = lift_tracks(tracks, chunk, queries)
    assert not found.visible[2, queries.frame != 2].any()


def test_world_tracks_are_projected_and_clipped_to_the_picture():
    chunk, queries, _ = exact(3)
    xyz = np.repeat(queries.xyz_world[None], 3, 0)
    xyz[1, 0], xyz[2, 0] = [50.0, 0, 2.0], np.nan
    seen = np.ones(xyz.shape[:2], bool)
    queries = PointQueries(np.zeros(len(queries), np.int64), scene.see(queries.xyz_world, 0)[:, :2], queries.xyz_world)
    found = from_world(xyz, seen, seen.astype(np.float32), chunk, queries)
    assert found.valid[1, 0]
    assert not found.visible[1, 0]
    assert not found.valid[2, 0]
    np.testing.assert_allclose(found.xy_px[1, 1:], scene.see(queries.xyz_world, 1)[1:, :2], atol=1e-3)


@pytest.mark.parametrize(
    ("frame", "xy", "xyz"),
    [
        ([0], [[1.0, np.nan]], [[0.0, 0, 1]]),
        ([0], [[1.0, 2.0]], [[0.0, 0, np.inf]]),
        ([-1], [[1.0, 2.0]], [[0.0, 0, 1]]),
    ],
)
def test_bad_queries_are_refused_before_any_model_sees_them(frame, xy, xyz):
    with pytest.raises(InvalidInputError):
        PointQueries(np.array(frame), np.array(xy), np.array(xyz))


def test_a_query_after_the_end_is_refused():
    with pytest.raises(InvalidInputError, match="frame 5 of a chunk of 3"):
        check_queries(scene.chunk(3), PointQueries(np.array([5]), np.zeros((1, 2)), np.ones((1, 3))))
