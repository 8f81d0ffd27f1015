"""The tracker against exact motion: conformance, occlusion, rigid groups, patches."""

from __future__ import annotations

import itertools
from dataclasses import replace

import cv2
import numpy as np
import pytest
from scenes import BACK_M, CARD_M, K, card_scene
from scenes import texture as picture

from traceworld.geometry.cameras import project, unproject
from traceworld.perception.interfaces import Frame, TrackerBackend
from traceworld.perception.motion import DenseFlow
from traceworld.perception.passes import ChunkView, Queries, follow_chunk
from traceworld.perception.patches import sample_patches, similarity, texture
from traceworld.perception.rigidity import predict_by_neighbours, update_affinity, weighted_rigid
from traceworld.perception.surface_motion import SurfaceCells, local_motion, surface_normals
from traceworld.perception.tracking import EmbeddedTracker, TrackingConfig, View

CARD = np.array([[75.0, 95], [100, 95], [125, 100], [80, 130], [100, 120], [120, 135], [95, 140], [110, 108]])
WALL = np.array([[20.0, 20], [200, 30], [290, 120], [250, 200], [60, 210]])


def chunk_of(frames: list[Frame]) -> ChunkView:
    flow = DenseFlow()
    grays = [cv2.cvtColor(f.image, cv2.COLOR_RGB2GRAY) for f in frames]
    small = [flow.small(g) for g in grays]
    size = (grays[0].shape[1], grays[0].shape[0])
    pairs = list(itertools.pairwise(small))
    poses = [np.eye(4) if f.cam_from_world is None else f.cam_from_world for f in frames]
    return ChunkView(
        [View(g, f.depth_m, p) for g, f, p in zip(grays, frames, poses, strict=True)],
        [flow.between(a, b, *size) for a, b in pairs],
        [flow.between(b, a, *size) for a, b in pairs],
    )


def queries(frame: int = 0) -> Queries:
    xy = np.concatenate([CARD, WALL])
    z = np.r_[np.full(len(CARD), CARD_M), np.full(len(WALL), BACK_M)]
    part = np.r_[np.zeros(len(CARD), np.int32), np.full(len(WALL), -1, np.int32)]
    return Queries(np.full(len(xy), frame), unproject(xy, z, K, np.eye(4)), part)


@pytest.fixture(scope="module")
def sliding():
    frames, offsets = card_scene(12, (4.0, 1.0))
    return chunk_of(frames), offsets


@pytest.mark.parametrize("start", [0, 6, 11])
def test_follows_in_both_directions(sliding, start):
    chunk, offsets = sliding
    asked = queries(start)
    asked = replace(asked, xyz_world=asked.xyz_world.copy())
    card = len(CARD)
    moved = CARD + offsets[start]
    asked.xyz_world[:card] = unproject(moved, np.full(card, CARD_M), K, np.eye(4))
    tracks = follow_chunk(chunk, K, None, asked, TrackingConfig(), True)
    px = project(tracks.xyz_world.astype(float), K, np.eye(4))
    error = np.linalg.norm(px[:, :card, :2] - (CARD[None] + offsets[:, None]), axis=-1)
    assert error.max() < 1.0
    assert tracks.visible.all()
    np.testing.assert_allclose(px[:, card:, :2], np.broadcast_to(WALL, (12, len(WALL), 2)), atol=1e-3)


def test_order_of_queries_does_not_matter(sliding):
    chunk, _ = sliding
    asked = queries()
    order = np.random.default_rng(0).permutation(len(asked))
    mixed = Queries(asked.frame[order], asked.xyz_world[order], asked.part_id[order])
    straight = follow_chunk(chunk, K, None, asked, TrackingConfig())
    permuted = follow_chunk(chunk, K, None, mixed, TrackingConfig())
    np.testing.assert_allclose(permuted.xyz_world, straight.xyz_world[:, order], atol=1e-4)
    np.testing.assert_array_equal(permuted.visible, straight.visible[:, order])


def test_no_queries_and_one_frame(sliding):
    chunk, _ = sliding
    nobody = Queries(np.zeros(0, int), np.zeros((0, 3)), np.zeros(0, np.int32))
    assert follow_chunk(chunk, K, None, nobody, TrackingConfig()).xyz_world.shape == (12, 0, 3)
    single = ChunkView(chunk.views[:1], [], [])
    tracks = follow_chunk(single, K, None, queries(), TrackingConfig())
    assert tracks.visible.all()
    np.testing.assert_allclose(tracks.xyz_world[0], queries().xyz_world, atol=1e-6)


def test_a_point_passed_over_is_hidden_then_seen_again():
    frames, offsets = card_scene(30, (8.0, 0.0), (4, 80, 50, 70))
    spot = np.array([[150.0, 110.0]])
    asked = Queries(np.zeros(1, int), unproject(spot, np.array([BACK_M]), K, np.eye(4)), np.full(1, -1, np.int32))
    tracks = follow_chunk(chunk_of(frames), K, None, asked, TrackingConfig(), True)
    covered = (offsets[:, 0] + 4 <= 146) & (offsets[:, 0] + 54 > 154)
    clear = (offsets[:, 0] + 4 > 155) | (offsets[:, 0] + 54 < 145)
    assert not tracks.visible[covered, 0].any()
    assert tracks.visible[clear, 0].all()
    assert tracks.valid.all()
    np.testing.assert_allclose(tracks.xyz_world[:, 0], np.broadcast_to(asked.xyz_world, (30, 3)), atol=1e-5)


def test_a_shadow_moves_no_background_point():
    still = card_scene(1)[0][0]
    frames = []
    for t in range(12):
        image = still.image.astype(np.float32)
        image[:, 20 * t : 20 * t + 60] *= 0.5
        frames.append(replace(still, index=t, time_s=t / 10, image=image.astype(np.uint8)))
    asked = queries()
    part = np.full(len(asked), -1, np.int32)
    tracks = follow_chunk(chunk_of(frames), K, None, replace(asked, part_id=part), TrackingConfig(), True)
    assert tracks.visible.all()
    np.testing.assert_allclose(tracks.xyz_world - tracks.xyz_world[:1], 0, atol=1e-6)


def test_a_moving_camera_leaves_still_points_where_they_are():
    """The wall alone, seen from a camera that shifts sideways by known steps."""
    wide = picture(5, 240, 500)
    gray_depth = np.full((240, 320), BACK_M, np.float32)
    frames = []
    for t in range(10):
        pose = np.eye(4)
        pose[0, 3] = -t * 6 * BACK_M / K[0, 0]  # six pixels per frame
        frames.append(Frame(t, t / 10, np.ascontiguousarray(wide[:, 6 * t : 6 * t + 320]), gray_depth, pose))
    xy = np.array([[200.0, 50], [150, 100], [250, 200], [100, 150], [299, 120]])
    asked = Queries(np.zeros(5, int), unproject(xy, np.full(5, BACK_M), K, np.eye(4)), np.zeros(5, np.int32))
    tracks = follow_chunk(chunk_of(frames), K, None, asked, TrackingConfig())
    assert np.abs(tracks.xyz_world - tracks.xyz_world[:1]).max() < 0.01
    assert tracks.visible.all()


def test_backend_interface():
    frames, offsets = card_scene(8, (4.0, 1.0))
    tracker = EmbeddedTracker(K)
    assert isinstance(tracker, TrackerBackend)
    tracker.start(frames[0])
    tracker.add(CARD)
    for t, frame in enumerate(frames[1:], 1):
        xy, visible, confidence = tracker.step(frame)
        if t == 3:
            tracker.add(WALL)
    assert xy.shape == (len(CARD) + len(WALL), 2)
    assert np.abs(xy[: len(CARD)] - CARD - offsets[-1]).max() < 1.0
    assert visible.all()
    assert (confidence == 1).all()


def test_backend_without_points_or_depth():
    frames, _ = card_scene(3)
    tracker = EmbeddedTracker()
    tracker.start(replace(frames[0], depth_m=None))
    xy, visible, _ = tracker.step(replace(frames[1], depth_m=None))
    assert xy.shape == (0, 2)
    assert visible.shape == (0,)


# --------------------------------------------------------------------------- parts


def rotation(axis: np.ndarray) -> np.ndarray:
    return cv2.Rodrigues(np.asarray(axis, float))[0]


def test_weighted_rigid_finds_a_known_motion():
    rng = np.random.default_rng(0)
    source = rng.normal(size=(4, 12, 3))
    turn, shift = rotation([0.02, -0.03, 0.05]), np.array([0.1, -0.2, 0.3])
    found, moved = weighted_rigid(source, source @ turn.T + shift, np.ones((4, 12)))
    predicted = np.einsum("mij,mkj->mki", found, source) + moved[:, None]
    np.testing.assert_allclose(predicted, source @ turn.T + shift, atol=0.02)
    np.testing.assert_allclose(np.linalg.det(found), 1.0)


def test_neighbours_carry_a_point_and_outvote_a_stray():
    rng = np.random.default_rng(1)
    source = rng.uniform(-0.05, 0.05, (14, 3)) + np.array([0, 0, 1])
    target = source + np.array([0.02, 0, 0])
    trust = np.ones(14)
    trust[0] = 0  # has no match of its own
    target[1] += 0.1  # and one that went astray
    result = predict_by_neighbours(source, target, trust, np.ones((14, 14)), np.full(14, 0.004))
    assert result.ok[0]
    np.testing.assert_allclose(result.xyz_world[0], source[0] + [0.02, 0, 0], atol=2e-3)
    few = predict_by_neighbours(source[:3], target[:3], trust[:3], np.ones((3, 3)), np.full(3, 0.004))
    assert not few.ok.any()


def test_affinity_falls_for_pairs_that_part():
    before = np.array([[0.0, 0, 1], [0.05, 0, 1], [0.1, 0, 1]])
    after = before + np.array([[0, 0, 0], [0, 0, 0], [0.05, 0, 0]])
    affinity = np.ones((3, 3))
    update_affinity(affinity, before, after, np.ones(3, bool), np.full(3, 0.004))
    assert affinity[0, 1] == pytest.approx(1.0)
    assert affinity[0, 2] <= 0.5


def test_surface_motion_uses_each_cell_only_in_the_directions_it_knows():
    """Cells that know one direction each (apertures) pin down the full motion together."""
    rng = np.random.default_rng(2)
    xyz = rng.uniform(-0.1, 0.1, (60, 3)) + np.array([0, 0, 1])
    turn, shift = np.array([0.0, 0.02, -0.03]), np.array([0.01, -0.005, 0.004])
    centre = np.array([0.0, 0, 1])
    true = shift + np.cross(turn, xyz - centre)
    direction = rng.normal(size=(60, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    lies = rng.normal(0, 0.05, (60, 3))
    lies -= (lies * direction).sum(1, keepdims=True) * direction  # wrong wherever the cell knows nothing
    information = direction[:, :, None] * direction[:, None, :] * 1e6
    moved, ok = local_motion(SurfaceCells(xyz, true + lies, information), centre[None], np.array([0.2]))
    assert ok.all()
    np.testing.assert_allclose(moved[0], centre + shift, atol=2e-4)


def test_surface_motion_needs_cells():
    nothing = SurfaceCells(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 3, 3)))
    moved, ok = local_motion(nothing, np.ones((2, 3)), np.ones(2))
    assert not ok.any()
    np.testing.assert_array_equal(moved, np.ones((2, 3)))


def test_normals_of_a_tilted_plane():
    ys, xs = np.mgrid[:240, :320]
    normal = np.array([0.3, -0.2, -1.0]) / np.linalg.norm([0.3, -0.2, -1.0])
    rays = np.stack([(xs - K[0, 2]) / K[0, 0], (ys - K[1, 2]) / K[1, 1], np.ones(xs.shape)], -1)
    depth = (-1.2 / (rays @ normal)).astype(np.float32)
    found = surface_normals(depth, np.array([[100.0, 80], [200, 150]]), K)
    assert np.abs(found @ normal).min() > 0.999


def test_patches_are_compared_by_what_they_show():
    gray = cv2.cvtColor(picture(4), cv2.COLOR_RGB2GRAY)
    xy = np.array([[100.0, 100.0], [60.0, 80.0]])
    patches = sample_patches(gray, xy)
    np.testing.assert_array_equal(patches[0], gray[95:106, 95:106])
    np.testing.assert_allclose(similarity(patches, patches), 1.0, atol=1e-5)
    assert similarity(patches, patches[::-1]).max() < 0.6
    plain = np.full((1, 11, 11), 100, np.float32)
    assert similarity(plain, plain + 1)[0] > 0.95
    assert similarity(plain, plain + 90)[0] < 0.1
    assert texture(plain)[0] == 0
    assert texture(patches).min() > 3
    assert sample_patches(gray, np.zeros((0, 2))).shape == (0, 11, 11)
    assert np.isfinite(sample_patches(gray, np.array([[np.nan, 4.0], [-500.0, 9e3]]))).all()
