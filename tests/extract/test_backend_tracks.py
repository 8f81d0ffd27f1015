"""Extraction with chosen backends: the same stages with other senses, chunk by chunk, and what the clip says of them."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import tiny_weights
from made_media import boards_clip, moving_square, write_rgbd, write_video
from scenes import BACK_M, CARD_M, K, ListSource, card_scene

from traceworld.commands.data import Extract
from traceworld.errors import ConfigError, MissingExtraError
from traceworld.extract import backend_tracks
from traceworld.extract.backend_tracks import Senses, build_traces_with, make_senses
from traceworld.extract.config import ExtractConfig
from traceworld.extract.pipeline import extract_clip, failed_stage
from traceworld.extract.tracks import build_traces
from traceworld.geometry.cameras import project
from traceworld.perception.chunks import PointTracks
from traceworld.perception.entities import EmbeddedEntities
from traceworld.perception.interfaces import BackendInfo, Frame, Geometry
from traceworld.perception.passes import EmbeddedPointTracker

CONFIG = ExtractConfig(num_keypoints=40, chunk_frames=8)


@pytest.fixture(scope="module")
def sliding():
    return card_scene(16, (4.0, 0.0))


class Watched(EmbeddedPointTracker):
    """A tracker chosen by name, and what it was asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def track(self, chunk, queries):
        self.asked.append((chunk, queries))
        return super().track(chunk, queries)


def errors_px(result, offsets):
    """Distance of seen card points from where the card takes them, pixels."""
    traces, poses = result.traces, result.cameras.cam_from_world
    px = np.stack(
        [project(xyz.astype(float), result.cameras.K[0], E) for xyz, E in zip(traces.xyz_world, poses, strict=True)]
    )
    rows = np.arange(traces.num_keypoints)
    on_card = (traces.part_id >= 0) & traces.moving
    start = px[traces.query_frame, rows, :2]
    true = start[None] + offsets[:, None] - offsets[traces.query_frame][None]
    return np.linalg.norm(px[..., :2] - true, axis=-1)[traces.visible & on_card[None]], on_card


def test_nothing_chosen_is_the_embedded_extraction(sliding):
    source = ListSource(sliding[0][:8])
    ours, plain = build_traces_with(source, CONFIG, Senses()), build_traces(source, CONFIG)
    for name in ("xyz_world", "visible", "valid", "part_id", "moving", "query_frame"):
        np.testing.assert_array_equal(getattr(ours.traces, name), getattr(plain.traces, name))
    assert ours.quality == plain.quality


def test_the_default_config_has_the_hash_that_it_always_had():
    """Datasets of earlier versions are continued, not made again."""
    assert ExtractConfig().hash == "f32eacdbdaefc7a1"


def test_a_chosen_tracker_carries_points_over_chunk_borders(sliding):
    frames, offsets = sliding
    tracker = Watched()
    result = build_traces_with(ListSource(frames), CONFIG, Senses(tracking=tracker))
    # One frame is shared, so that nothing is lost between.
    assert [len(chunk) for chunk, _ in tracker.asked] == [8, 9]
    error, on_card = errors_px(result, offsets)
    assert on_card.sum() >= 10
    assert np.median(error) < 0.7
    first = tracker.asked[0][1]
    carried = tracker.asked[1][1]
    assert (carried.frame[: len(first) // 2] == 0).all()
    early = result.traces.query_frame < 8
    through = result.traces.valid[7] & result.traces.valid[10] & early
    assert through.sum() >= 0.9 * (result.traces.valid[7] & early).sum()
    for chunk, queries in tracker.asked:  # pixels and world points that the tracker is given are the same points
        for i, t in enumerate(queries.frame):
            np.testing.assert_allclose(
                project(queries.xyz_world[i : i + 1], chunk.K, chunk.cam_from_world[t])[0, :2],
                queries.xy_px[i],
                atol=1e-6,
            )


class Silent(EmbeddedPointTracker):
    """Sees points in the frame they are asked for and never again."""

    def track(self, chunk, queries):
        found = super().track(chunk, queries)
        only = np.arange(len(chunk))[:, None] == queries.frame
        xyz = np.where(only[..., None], found.xyz_world, np.nan)
        return PointTracks(xyz, found.xy_px, only, only, found.confidence)


def test_points_that_are_never_seen_again_are_retired(sliding, monkeypatch):
    monkeypatch.setattr(backend_tracks, "RETIRE_AFTER", 6)
    config = replace(CONFIG, chunk_frames=4)
    frames = sliding[0]
    tracker = Silent()
    asked = []
    follow = tracker.track
    tracker.track = lambda chunk, queries: asked.append(queries) or follow(chunk, queries)
    result = build_traces_with(ListSource(frames), config, Senses(tracking=tracker))
    assert result.quality["retired"] > 0
    first = asked[0].xyz_world
    lives = [sum((queries.xyz_world == point).all(1).any() for queries in asked) for point in first]
    assert len(asked) >= 4
    assert max(lives) <= 3  # asked for at frame 0 it is called seen there, which does not count


class PerPass:
    """Depth of the scene in another unit in every call, as networks that normalise each pass."""

    info = BackendInfo("geometry", "per-pass", "1", "MIT")
    max_frames = 10

    def __init__(self):
        self.scales = itertools.cycle([0.5, 1.7, 0.9, 1.2])

    def reconstruct(self, frames, K_known):
        scale = next(self.scales)
        depth = np.stack([TRUE[frame.index].depth_m for frame in frames]) * np.float32(scale)
        count = len(frames)
        return Geometry(depth, np.repeat(K[None], count, 0), np.repeat(np.eye(4)[None], count, 0), False)


TRUE: dict[int, Frame] = {}


def test_a_chosen_geometry_gives_depth_in_one_unit_for_the_whole_clip(sliding):
    frames, _ = sliding
    TRUE.update({frame.index: frame for frame in frames})
    source = ListSource([replace(frame, depth_m=None) for frame in frames])
    result = build_traces_with(source, CONFIG, Senses(geometry=PerPass()))
    assert not result.metric  # nobody knows the unit
    traces = result.traces
    near = traces.part_id >= 0
    z = np.where(traces.visible, traces.xyz_world[..., 2], np.nan)
    unit = np.nanmedian(z[:, traces.moving & near]) / CARD_M
    assert np.nanmedian(z[:, ~traces.moving]) / unit == pytest.approx(BACK_M, rel=0.02)
    by_frame = np.nanmedian(z[:, traces.moving & near], axis=1)
    assert np.nanmax(np.abs(by_frame / by_frame[0] - 1)) < 0.02  # no step where passes meet
    assert source.report["geometry"]["backend"] == "per-pass"


def test_chosen_entities_are_shown_the_pictures_that_the_features_were_made_of(sliding):
    class Looking(EmbeddedEntities):
        seen = 0

        def find(self, images, features, motion, displaced=None):
            assert len(images) == len(features)
            assert images.dtype == np.uint8
            Looking.seen += 1
            return super().find(images, features, motion, displaced)

    frames = sliding[0][:6]
    result = build_traces_with(ListSource(frames), CONFIG, Senses(entities=Looking()))
    plain = build_traces(ListSource(frames), CONFIG)
    assert Looking.seen == 1
    np.testing.assert_array_equal(result.traces.part_id, plain.traces.part_id)


def test_an_empty_world_stays_empty_with_any_tracker():
    black = [Frame(t, t / 10, np.zeros((48, 64, 3), np.uint8)) for t in range(5)]
    result = build_traces_with(ListSource(black, None), CONFIG, Senses(tracking=Watched()))
    assert result.status == "no_texture"
    assert result.traces.num_keypoints == 0
    one = build_traces_with(ListSource(card_scene(1)[0]), CONFIG, Senses(tracking=Watched()))
    assert one.traces.num_frames == 1


def test_a_clip_says_which_backends_made_it_and_under_which_licence(tmp_path):
    images, depths = boards_clip(8, 160, 120, step_m=0.02)
    folder = write_rgbd(tmp_path / "boards", images, depths)
    weights = tiny_weights.save("dinov2", tmp_path)
    config = ExtractConfig(num_keypoints=24, features=f"dinov2:{weights}#long_side=112")
    clip = extract_clip(folder, config)
    told = json.loads(json.dumps(dict(clip.provenance)))
    features = told["backends"]["features"]
    assert (features["name"], features["licence_class"], features["weights"]) == ("dinov2", "user", weights)
    assert told["backends"]["tracker"]["name"] == "embedded"
    assert told["config"]["features"] == config.features
    assert clip.metric


def test_what_may_not_or_cannot_be_used_fails_before_anything_is_read(tmp_path):
    video = write_video(tmp_path / "v.mp4", moving_square(4))
    for config, error, words in (
        (ExtractConfig(tracker="cotracker3"), ConfigError, "non-commercial"),
        (ExtractConfig(tracker="cotracker3", accept_licence=("non-commercial",)), MissingExtraError, "pip install git"),
        (ExtractConfig(geometry="vgg"), ConfigError, "did you mean 'vggt'"),
        (ExtractConfig(captions="openai"), ConfigError, "openai:MODEL@URL"),
    ):
        with pytest.raises(error, match=words) as caught:
            extract_clip(video, config)
        assert failed_stage(caught.value) == "config"
    assert make_senses(ExtractConfig()).chosen() == {}


def test_the_command_takes_a_preset_and_single_backends_in_its_place(tmp_path):
    command = Extract((tmp_path,), tmp_path / "out", preset="hf", tracker="tapnext", captions="openai:m@http://h/v1")
    assert command.backends() == {
        "features": "dinov2", "geometry": "depth-anything-v2", "tracker": "tapnext", "entities": "embedded",
        "captions": "openai:m@http://h/v1",
    }  # fmt: skip
    assert ExtractConfig(**command.backends()).tracker == "tapnext"
    assert ExtractConfig(**Extract((tmp_path,), tmp_path).backends()) == ExtractConfig()
