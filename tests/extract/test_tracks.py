"""build_traces on scenes whose motion is known exactly, and on sources that have something wrong with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scenes import HEIGHT, WIDTH, K, ListSource, card_scene

from traceworld.errors import ExtractionError
from traceworld.extract import tracks
from traceworld.extract.config import ExtractConfig
from traceworld.extract.tracks import build_traces
from traceworld.geometry.cameras import project
from traceworld.perception.interfaces import Frame


def config(**changes):
    return ExtractConfig(**{"num_keypoints": 60, "chunk_frames": 64, "tau_moving_px": 40.0} | changes)


@pytest.fixture(scope="module")
def sliding():
    frames, offsets = card_scene(24)
    return frames, offsets, build_traces(ListSource(frames), config())


def paths_px(result):
    return project(result.traces.xyz_world.astype(float), K, result.cameras.cam_from_world[0])


def test_a_sliding_card_is_followed_to_a_pixel(sliding):
    _, offsets, result = sliding
    traces, px = result.traces, paths_px(result)
    query = traces.query_frame
    on_card = (traces.part_id >= 0) & traces.moving
    assert result.status == "ok"
    assert result.metric
    assert on_card.sum() >= 15
    start = px[query, np.arange(len(query))]
    true = start[None, :, :2] + offsets[:, None] - offsets[query][None]
    seen = traces.visible & on_card[None]
    error = np.linalg.norm(px[..., :2] - true, axis=-1)[seen]
    assert np.median(error) < 0.5
    assert np.percentile(error, 90) < 2.0
    assert np.median(np.abs(px[..., 2][seen] - 1.0)) < 0.01
    assert traces.visible[:, on_card].mean() > 0.85


def test_movement_filter_tells_card_from_wall(sliding):
    _, _, result = sliding
    moving, part = result.traces.moving, result.traces.part_id
    assert moving[part >= 0].mean() > 0.7
    assert not moving[part < 0].any()
    assert result.quality["background_wander_px"] < 1.5


def test_camera_is_found_still(sliding):
    assert sliding[2].cameras.static
    assert sliding[2].quality["camera"] == "still"


def test_same_input_same_output(sliding):
    frames, _, first = sliding
    again = build_traces(ListSource(frames), config())
    np.testing.assert_array_equal(first.traces.xyz_world, again.traces.xyz_world)
    np.testing.assert_array_equal(first.traces.visible, again.traces.visible)


def test_wall_points_reappear_where_they_were():
    """Points the card passes over are hidden in between, keep their position, and are seen again."""
    frames, _ = card_scene(36, (6.0, 0.0), (10, 80, 50, 70))
    result = build_traces(ListSource(frames), config(num_keypoints=120))
    traces, px = result.traces, paths_px(result)
    wall = traces.part_id < 0
    start = px[traces.query_frame, np.arange(traces.num_keypoints), :2]
    drift = np.linalg.norm(px[..., :2] - start[None], axis=-1)
    assert np.nanmax(drift[:, wall]) < 2.0
    came_back = wall & (~traces.visible).any(0) & traces.visible[-1] & traces.visible[0]
    assert came_back.any()
    assert traces.valid[:, came_back].all()


@pytest.mark.parametrize("size", [6, 10, 64])
def test_chunks_hand_points_over(size):
    """Whatever the chunk, the card's paths have no jumps at the borders, and points live on through them."""
    frames, _ = card_scene(24)
    result = build_traces(ListSource(frames), config(chunk_frames=size))
    px = paths_px(result)[..., :2]
    both = result.traces.visible[1:] & result.traces.visible[:-1]
    steps = np.linalg.norm(np.diff(px, axis=0), axis=-1)[both]
    assert np.percentile(steps, 99) < 6.0
    assert result.traces.num_frames == 24
    # Backward passes stay in their chunk: a point chosen late may have no past, but most cards' points live long.
    assert result.traces.valid[:, result.traces.part_id >= 0].mean() > 0.45
    assert len(result.cameras) == 24


def test_given_poses_are_used():
    frames, _ = card_scene(8)
    pose = np.eye(4)
    pose[:3, 3] = [0.1, 0.2, 0.3]
    result = build_traces(ListSource([replace(f, cam_from_world=pose) for f in frames]), config())
    np.testing.assert_allclose(result.cameras.cam_from_world, np.repeat(pose[None], 8, 0))
    assert result.quality["camera"] == "given"
    wall = result.traces.part_id < 0
    z = project(result.traces.xyz_world.astype(float), K, pose)[..., 2][:, wall]
    np.testing.assert_allclose(z[np.isfinite(z)], 1.5, atol=1e-3)


def test_plain_rgb_is_exact_in_the_image_and_not_metric():
    frames, offsets = card_scene(16)
    result = build_traces(ListSource([replace(f, depth_m=None) for f in frames]), config())
    assert not result.metric
    px, traces = paths_px(result), result.traces
    card = traces.part_id >= 0
    assert card.sum() >= 10
    query = traces.query_frame
    true = px[query, np.arange(len(query)), :2][None] + offsets[:, None] - offsets[query][None]
    error = np.linalg.norm(px[..., :2] - true, axis=-1)[traces.visible & card[None] & traces.moving[None]]
    assert np.median(error) < 1.0
    assert np.isfinite(traces.xyz_world[traces.valid]).all()


@pytest.mark.parametrize("level", [0, 90])
def test_uniform_pictures_have_nothing_to_follow(level):
    image = np.full((HEIGHT, WIDTH, 3), level, np.uint8)
    result = build_traces(
        ListSource([Frame(t, t / 10, image, np.ones((HEIGHT, WIDTH), np.float32)) for t in range(5)]), config()
    )
    assert result.status == "no_texture"
    assert result.traces.num_keypoints == 0
    assert result.traces.num_frames == 5


def test_nothing_moves():
    still = card_scene(1)[0][0]
    result = build_traces(ListSource([replace(still, index=t, time_s=t / 10) for t in range(8)]), config())
    assert result.status == "static_clip"
    assert result.traces.num_keypoints > 10
    assert not result.traces.moving.any()
    assert result.traces.visible.all()


def test_one_frame():
    result = build_traces(ListSource(card_scene(1)[0]), config())
    assert result.traces.num_frames == 1
    assert result.traces.num_keypoints > 0
    assert not result.traces.moving.any()


@pytest.mark.parametrize("shape", [(8, 8), (20, 33), (2, 50), (1, 1)])
def test_tiny_pictures(shape):
    rng = np.random.default_rng(0)
    frames = [
        Frame(t, t / 10, rng.integers(0, 255, (*shape, 3), np.uint8), np.ones(shape, np.float32)) for t in range(3)
    ]
    result = build_traces(ListSource(frames), config())
    assert result.traces.num_frames == 3


def test_depth_full_of_holes():
    rng = np.random.default_rng(0)
    frames, _ = card_scene(12)
    holed = []
    for frame in frames:
        depth = frame.depth_m.copy()
        depth[rng.random(depth.shape) < 0.3] = np.nan
        depth[:60] = np.nan
        holed.append(replace(frame, depth_m=depth))
    result = build_traces(ListSource(holed), config())
    assert result.metric
    assert np.isfinite(result.traces.xyz_world[result.traces.valid]).all()
    assert result.traces.num_keypoints > 0


def test_depth_without_a_measurement_counts_as_none():
    frames, _ = card_scene(6)
    nothing = np.full((HEIGHT, WIDTH), np.nan, np.float32)
    assert not build_traces(ListSource([replace(f, depth_m=nothing) for f in frames]), config()).metric


def test_a_lost_depth_frame_in_between_is_survived():
    frames, _ = card_scene(10)
    frames[5] = replace(frames[5], depth_m=np.full((HEIGHT, WIDTH), np.nan, np.float32))
    result = build_traces(ListSource(frames), config())
    assert np.isfinite(result.traces.xyz_world[result.traces.valid]).all()
    assert result.traces.visible[-1].mean() > 0.3


def test_black_frames_in_between():
    frames, _ = card_scene(12)
    for t in (5, 6):
        frames[t] = replace(frames[t], image=np.zeros_like(frames[t].image))
    result = build_traces(ListSource(frames), config())
    assert result.traces.num_frames == 12


def test_no_frames():
    with pytest.raises(ExtractionError, match="no frames"):
        build_traces(ListSource([]), config())


def test_unknown_intrinsics_are_assumed():
    result = build_traces(ListSource(card_scene(3)[0], None), config())
    assert result.cameras.K[0, 0, 0] > 0


def test_progress_counts_frames():
    seen: list[int] = []
    build_traces(ListSource(card_scene(9)[0]), config(chunk_frames=4), seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 9


def test_budget_is_kept():
    frames, _ = card_scene(24)
    result = build_traces(ListSource(frames), config(chunk_frames=8, num_keypoints=30))
    assert result.traces.num_keypoints <= 4 * 30
    assert (result.traces.valid.sum(1) <= 2 * 30).all()


def test_a_long_film_gets_fewer_points_so_that_memory_stays_bounded(sliding, monkeypatch):
    frames, _, full = sliding
    monkeypatch.setattr(tracks, "MAX_CELLS", 20 * len(frames))
    bounded = build_traces(ListSource(frames), config())
    assert full.traces.num_keypoints > 20
    assert 0 < bounded.traces.num_keypoints <= 20


def test_what_moves_behind_the_first_camera_moves():
    """A head turns round: the movement filter asks the camera of the frame in which a point was chosen."""
    frames, _ = card_scene(2)
    builder = tracks._Builder(ListSource(frames), config())
    builder.query_frame = [0, 1]
    about = np.diag([-1.0, 1, -1, 1])  # looks the other way
    poses = np.stack([np.eye(4), about])
    xyz = np.zeros((2, 2, 3))
    xyz[:, 0] = [[0, 0, 2], [0.5, 0, 2]]
    xyz[:, 1] = [[0, 0, -2], [0.25, 0, -2]]
    found = builder._diameters(xyz, np.ones((2, 2), bool), poses)
    np.testing.assert_allclose(found, [0.25 * K[0, 0], 0.125 * K[0, 0]])
