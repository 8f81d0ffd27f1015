"""What parts did, in numbers that are known beforehand; levels of events; images for captioners that want them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from traceworld.errors import InvalidInputError
from traceworld.extract.captioning import (
    CaptionRecord,
    caption_events,
    merge_runs,
    motion_mask,
    part_motions,
    picture_reader,
    recaption,
)
from traceworld.perception.captions import TemplateCaptioner
from traceworld.perception.interfaces import BackendInfo, Caption
from traceworld.perception.language_captioner import LanguageCaptioner
from traceworld.traces.types import Cameras, Clip, Event, Media, Traces

T = 30
K = np.array([[500.0, 0, 319.5], [0, 500.0, 239.5], [0, 0, 1]])
CAMERAS = Cameras.still(K, 640, 480, T)
TIME_S = np.arange(T) / 10


def scene():
    """Part 0: 5 points that go 20 cm right; part 1: 3 points that go 5 cm away; part 2: 1 point, down; part -1: still."""
    part = np.array([0] * 5 + [1] * 3 + [2] + [-1] * 4)
    xyz = np.zeros((T, len(part), 3), np.float32)
    xyz[..., 0] = np.linspace(-0.2, 0.1, len(part))
    xyz[..., 2] = 1.0
    way = np.linspace(0, 1, T, dtype=np.float32)[:, None]
    xyz[:, part == 0, 0] += 0.2 * way
    xyz[:, part == 1, 2] += 0.05 * way
    xyz[:, part == 2, 1] += 0.3 * way
    known = np.ones(xyz.shape[:2], bool)
    return Traces(xyz, known, known.copy(), part, part >= 0, np.zeros(len(part), np.int64))


def test_displacements_paths_and_order():
    motions = part_motions(scene(), CAMERAS, 0, T, True)
    assert [m.part_id for m in motions] == [0, 1]  # the single point of part 2 is left out
    np.testing.assert_allclose(motions[0].shift, (0.2, 0, 0), atol=1e-5)
    assert motions[0].path == pytest.approx(0.2, abs=1e-5)
    np.testing.assert_allclose(motions[1].shift, (0, 0, 0.05), atol=1e-5)
    assert motions[0].num_points == 5
    assert motions[0].end_uv[0] - motions[0].start_uv[0] == pytest.approx(0.2 * 500 * 2 / 640, abs=1e-5)


def test_a_lone_point_counts_if_there_is_nothing_else():
    traces = scene()
    alone = traces.select(traces.part_id == 2)
    assert [m.part_id for m in part_motions(alone, CAMERAS, 0, T, True)] == [2]


def test_without_depth_lengths_are_image_widths():
    motions = part_motions(scene(), CAMERAS, 0, T, False)
    assert motions[0].shift[0] == pytest.approx(0.2 * 500 / 640, abs=1e-4)
    assert motions[0].shift[2] == 0
    assert not motions[0].metric


def test_a_moving_camera_does_not_add_motion():
    poses = np.repeat(np.eye(4)[None], T, 0)
    poses[:, 0, 3] = np.linspace(0, 0.5, T)
    moved = part_motions(scene(), Cameras(CAMERAS.K, poses, 640, 480), 0, T, True)
    np.testing.assert_allclose(moved[0].shift, (0.2, 0, 0), atol=1e-5)


def test_unknown_positions_are_skipped_and_nothing_moving_is_said():
    traces = scene()
    xyz, valid = traces.xyz_world.copy(), traces.valid.copy()
    xyz[10:20], valid[10:20] = np.nan, False
    holes = Traces(xyz, valid, valid.copy(), traces.part_id, traces.moving, traces.query_frame)
    np.testing.assert_allclose(part_motions(holes, CAMERAS, 0, T, True)[0].shift, (0.2, 0, 0), atol=1e-5)
    assert part_motions(holes, CAMERAS, 10, 20, True) == ()
    still = traces.select(traces.part_id < 0)
    assert part_motions(still, CAMERAS, 0, T, True) == ()


def test_levels():
    spans = [(0, 6), (6, 12), (12, 18), (18, 24), (24, 30)]
    events = caption_events(spans, scene(), CAMERAS, TIME_S, TemplateCaptioner(), task="tidy", merge_window=3)
    by_level = {level: [(e.start, e.end) for e in events if e.level == level] for level in (0, 1, 2)}
    assert by_level[0] == spans
    assert by_level[1] == [(0, 18), (6, 24), (12, 30)]
    assert by_level[2] == [(0, 30)]
    assert all("tidy" in event.caption for event in events)
    assert "step 2 of 5" in events[1].caption
    few = caption_events(spans[:2], scene(), CAMERAS, TIME_S, TemplateCaptioner())
    assert [(e.start, e.end, e.level) for e in few] == [(0, 6, 0), (6, 12, 0), (0, 12, 1)]
    one = caption_events([(0, 30)], scene(), CAMERAS, TIME_S, TemplateCaptioner())
    assert [e.level for e in one] == [0]


@given(st.integers(2, 30), st.integers(2, 6), st.data())
def test_runs_cover_all_events_and_tile_them_if_they_are_laid_end_to_end(count, window, data):
    stride = data.draw(st.integers(1, window))
    runs = [range(count)[run] for run in merge_runs(count, window, stride)]
    assert sorted({event for run in runs for event in run}) == list(range(count))
    assert [run.start for run in runs] == [stride * k for k in range(len(runs))]
    assert all(len(run) == window for run in runs[:-1])
    assert runs[-1].stop == count
    if len(runs) > 1:
        assert runs[-2].stop < count  # none beyond the one that reaches the end
    if stride == window:
        assert [event for run in runs for event in run] == list(range(count))


def test_levels_laid_end_to_end():
    spans = [(0, 6), (6, 12), (12, 18), (18, 24), (24, 30)]
    captioner = TemplateCaptioner()
    events = caption_events(spans, scene(), CAMERAS, TIME_S, captioner, merge_window=2, merge_stride=2)
    assert [(e.start, e.end) for e in events if e.level == 1] == [(0, 12), (12, 24), (24, 30)]
    assert next(e for e in events if (e.start, e.level) == (24, 1)).caption == events[4].caption  # nothing to merge
    assert [(e.start, e.end) for e in events if e.level == 2] == [(0, 30)]


def test_captioners_that_look_get_start_middle_end_and_the_motion_mask():
    asked, seen = [], []

    class Looking(TemplateCaptioner):
        info = BackendInfo("captions", "looking", "1", "MIT")
        needs_images = True

        def caption(self, request):
            seen.append(request)
            return super().caption(request)

    def read(frames):
        asked.append(tuple(frames))
        return tuple(np.zeros((480, 640, 3), np.uint8) for _ in frames)

    caption_events([(0, 10), (10, 30)], scene(), CAMERAS, TIME_S, Looking(), read_images=read)
    assert asked == [(0, 4, 9), (10, 19, 29)]
    assert all(len(request.images) == 3 and request.motion_mask.any() for request in seen)


def test_the_motion_mask_covers_moving_points_only():
    traces = scene()
    mask = motion_mask(traces, CAMERAS, 0, T)
    x = traces.xyz_world[0, :, 0] * 500 + 319.5
    assert mask[240, round(x[0])]
    assert not mask[240, round(x[-1])]
    assert not mask[100:150].any()


def test_the_motion_mask_covers_what_moves_within_the_event():
    """Part 0 moves before frame 10 only, part 2 from frame 20 on."""
    traces = scene()
    xyz = np.repeat(traces.xyz_world[:1] * np.float32([2, 1, 1]), T, 0)  # further apart than the discs are wide
    for part, first, last in ((0, 0, 10), (2, 20, 30)):
        way = np.clip((np.arange(T) - first) / (last - 1 - first), 0, 1)[:, None]
        xyz[:, traces.part_id == part, 1] += 0.2 * way
    moved = Traces(xyz, traces.visible, traces.valid, traces.part_id, traces.moving, traces.query_frame)

    def covered(start, end):
        mask = motion_mask(moved, CAMERAS, start, end)
        place = np.rint(moved.xyz_world[start, :, :2] * 500 + [319.5, 239.5]).astype(int)
        return {int(part) for part, (x, y) in zip(moved.part_id, place, strict=True) if mask[y, x]}

    assert covered(0, 10) == {0}
    assert covered(10, 20) == set()
    assert covered(20, 30) == {2}
    assert covered(0, 30) == {0, 2}


def test_the_motion_mask_is_deaf_to_the_camera_and_to_unknown_positions():
    traces = scene()
    poses = np.repeat(np.eye(4)[None], T, 0)
    poses[:, 0, 3] = np.linspace(0, 0.5, T)
    still = traces.select(traces.part_id < 0)
    assert not motion_mask(still, Cameras(CAMERAS.K, poses, 640, 480), 0, T).any()
    xyz, known = traces.xyz_world.copy(), traces.valid.copy()
    xyz[1:], known[1:] = np.nan, False
    lost = Traces(xyz, known, known.copy(), traces.part_id, traces.moving, traces.query_frame)
    assert not motion_mask(lost, CAMERAS, 0, T).any()


class Speaker(TemplateCaptioner):
    """Looks, and keeps its raw words; the second event's could not be read."""

    info = BackendInfo("captions", "speaker", "2", "MIT")
    needs_images = True

    def __init__(self):
        self.seen = []

    def caption(self, request):
        self.seen.append([int(image[0, 0, 0]) for image in request.images])
        source = "template (fallback)" if request.index == 1 else "speaker"
        return Caption(f"step {request.index}", "b", "i", "c", source, {"raw": ["words"], "attempts": 1})

    def merge(self, captions, task=""):
        return Caption(" + ".join(c.caption for c in captions), "b", "i", "c", "speaker", {"raw": ["m"], "attempts": 1})


def test_what_a_captioner_said_besides_is_recorded():
    record = CaptionRecord()
    read = lambda frames: tuple(np.zeros((480, 640, 3), np.uint8) for _ in frames)  # noqa: E731
    caption_events([(0, 10), (10, 30)], scene(), CAMERAS, TIME_S, Speaker(), read_images=read, record=record)
    told = record.told()
    assert [(e["start"], e["end"], e["level"]) for e in told["answers"]] == [(0, 10, 0), (10, 30, 0), (0, 30, 1)]
    assert told["answers"][0]["raw"] == ["words"]
    assert told["fallbacks"] == 1
    nothing = CaptionRecord()
    caption_events([(0, 30)], scene(), CAMERAS, TIME_S, TemplateCaptioner(), record=nothing)
    assert nothing.told() == {}


def stored_clip(tmp_path, events):
    for t in range(T):
        Image.fromarray(np.full((480, 640, 3), 8 * t, np.uint8)).save(tmp_path / f"{t:03d}.png")
    names = tuple(f"{t:03d}.png" for t in range(T))
    return Clip(
        clip_id="c", time_s=TIME_S, cameras=CAMERAS, traces=scene(), media=Media("frames", str(tmp_path), tuple(range(T)), names),
        events=events, task="tidy", metric=True, provenance={"captions": {"source": "template"}, "seed": 3},
    )  # fmt: skip


def test_captioning_again_tracks_and_cuts_nothing(tmp_path):
    events = (
        Event(0, 12, "old", 0, "b", "i", "c"),
        Event(12, T, "old", 0, "b", "i", "c"),
        Event(0, T, "old", 1, "b", "i", "c"),
    )
    clip = stored_clip(tmp_path, events)
    speaker = Speaker()
    again = recaption(clip, speaker)
    assert again.traces is clip.traces
    assert [(e.start, e.end, e.level, e.caption) for e in again.events] == [
        (0, 12, 0, "step 0"), (12, T, 0, "step 1"), (0, T, 1, "step 0 + step 1"),
    ]  # fmt: skip
    assert speaker.seen == [[0, 8 * 5, 8 * 11], [8 * 12, 8 * 20, 8 * 29]]  # start, midpoint and end of each
    assert again.provenance["captions"]["source"] == "speaker"
    assert again.provenance["captions"]["fallbacks"] == 1
    assert again.provenance["seed"] == 3
    with pytest.raises(InvalidInputError, match="level 0"):
        recaption(stored_clip(tmp_path, ()), speaker)


def test_pictures_are_shown_at_the_size_of_the_cameras(tmp_path):
    """They may be stored larger: the motion mask would not fit them."""
    clip = stored_clip(tmp_path, (Event(0, T, "old"),))
    small = Cameras.still(K * [[0.5], [0.5], [1]], 320, 240, T)
    half = replace(clip, cameras=small)
    images = picture_reader(half)((0, 29))
    assert [image.shape for image in images] == [(240, 320, 3)] * 2
    assert images[1].mean() == 8 * 29
    overlaid = []

    class Tinting(LanguageCaptioner):
        info = BackendInfo("captions", "tinting", "1", "MIT")

        def say(self, prompt, images, merging):
            overlaid.extend(images)
            return "{}"

    recaption(half, Tinting())
    assert overlaid[0].shape == (240, 320, 3)
    assert (overlaid[0][..., 0] > 50).any()


def test_other_spans_may_be_given(tmp_path):
    clip = stored_clip(tmp_path, (Event(0, T, "old"),))
    again = recaption(clip, Speaker(), spans=[(0, 10), (10, 20), (20, T)], merge_window=2, merge_stride=2)
    assert [(e.start, e.end, e.level) for e in again.events] == [
        (0, 10, 0), (10, 20, 0), (20, T, 0), (0, 20, 1), (20, T, 1), (0, T, 2),
    ]  # fmt: skip
