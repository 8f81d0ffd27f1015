"""Films of any length: memory stays flat while they are followed, and points keep their identity through every chunk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from dataclasses import dataclass

import numpy as np
import psutil
import pytest
from long_film import CARDS, WALL, Film, write_film

from traceworld.extract import events, tracks
from traceworld.extract.config import ExtractConfig
from traceworld.extract.events import acceleration_signal, cut_events
from traceworld.extract.pipeline import PicturesInOrder, extract_clip
from traceworld.extract.quality import trace_quality
from traceworld.extract.tracks import point_blocks
from traceworld.geometry.cameras import project
from traceworld.perception.sources import open_source
from traceworld.perception.video import VideoSource
from traceworld.traces.store import open_dataset
from traceworld.traces.types import Cameras, Traces

# A tracker looks at the surroundings of a point: half of its window of 21 px at 640 px width. A point nearer to an outline
# than this sees two surfaces, and without depth nothing says which of them is its own.
WINDOW = 10 / 640


@dataclass(frozen=True)
class Lives:
    """Points chosen in the first chunk on a surface that is in sight throughout the film, and what became of them.

    `error_px` [T,M] in pixels of the analysed picture, NaN where the position is not known.
    """

    on: np.ndarray
    error_px: np.ndarray
    visible: np.ndarray


def lives(film: Film, traces: Traces, cameras: Cameras, source_frames, first_chunk: int, margin: float) -> Lives:
    scale = cameras.width / film.width
    px = project(traces.xyz_world.astype(np.float64), cameras.K[0], cameras.cam_from_world[0])[..., :2]
    px[~traces.valid] = np.nan
    px = (px + 0.5) / scale - 0.5
    query, index = traces.query_frame, np.arange(traces.num_keypoints)
    shown = np.asarray(source_frames)
    on = film.shown(px[query, index], shown[query], margin)
    pick = np.flatnonzero((on > WALL - 1) & (query < first_chunk))
    true = np.repeat(px[query, index][None], traces.num_frames, 0)
    for card in range(len(CARDS)):
        mine = on == card
        true[:, mine, 0] += film.shift(card, shown)[:, None] - film.shift(card, shown[query[mine]])[None]
    error = np.linalg.norm(px - true, axis=-1) * scale
    return Lives(on[pick], error[:, pick], traces.visible[:, pick])


def kept(found: Lives, frame: int, limit_px: float) -> float:
    """Share of the points that are where their surface has carried them; one whose place is not known is lost."""
    return float((found.error_px[frame] < limit_px).mean())


# ---------------------------------------------------------------------- small


SHORT = Film(320, 180, rate=8, period=80, cell=8)
CHUNK = 16
SETTINGS = ExtractConfig(num_keypoints=80, chunk_frames=CHUNK, fps=4.0, max_side=320)


class Alive:
    """Counts pictures that somebody still holds."""

    def __init__(self):
        self.now = self.most = self.ever = 0

    def watch(self, picture):
        self.now, self.ever = self.now + 1, self.ever + 1
        self.most = max(self.most, self.now)
        weakref.finalize(picture, self.gone)

    def gone(self):
        self.now -= 1


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """Twenty seconds, and how many of its pictures were in memory at a time."""
    path = write_film(tmp_path_factory.mktemp("film") / "short.mp4", SHORT, repeats=2)
    alive, read = Alive(), VideoSource.__iter__

    def watched(source):
        for frame in read(source):
            alive.watch(frame.image)
            yield frame

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VideoSource, "__iter__", watched)
        clip = extract_clip(path, SETTINGS)
    return path, clip, alive


def test_the_film_is_as_long_as_it_says(short):
    path, clip, _ = short
    assert clip.num_frames == 80
    np.testing.assert_allclose(clip.time_s, np.arange(80) / 4, atol=1e-6)
    times = [frame.time_s for frame in open_source(path)]
    assert len(times) == 160
    np.testing.assert_allclose(np.diff(times), 1 / 8, atol=1e-6)


def test_points_keep_their_identity_through_every_chunk_border(short):
    _, clip, _ = short
    found = lives(SHORT, clip.traces, clip.cameras, clip.provenance["source_frames"], CHUNK, WINDOW * SHORT.width)
    assert (found.on == WALL).sum() >= 5
    assert (found.on >= 0).sum() >= 8
    borders = [*range(CHUNK - 1, 80, CHUNK), *range(CHUNK, 80, CHUNK), 79]
    assert min(kept(found, frame, 3.0) for frame in borders) >= 0.95
    # the cards do go away and come back: a point that stayed behind would be far off in between
    travelled = max(np.ptp(SHORT.shift(card, np.arange(160))) for card in range(len(CARDS)))
    assert travelled > 50


def test_no_more_pictures_than_a_chunk_are_held(short):
    _, _, alive = short
    assert alive.ever == 80
    assert CHUNK <= alive.most <= CHUNK + 2  # the last of the chunk before, and the one that was just read
    assert alive.now == 0


def test_pictures_for_captions_cost_one_pass(short, monkeypatch):
    path, _, _ = short
    passes, read = [], VideoSource.__iter__
    with open_source(path, max_side=64, fps=2.0) as source:
        whole = [frame.image for frame in source]
        monkeypatch.setattr(VideoSource, "__iter__", lambda self: passes.append(0) or read(self))
        pictures = PicturesInOrder(source)
        for first in range(0, 30, 5):  # as events ask: start, middle, end, one event after the other
            wanted = (first, first + 2, first + 4)
            for got, number in zip(pictures(wanted), wanted, strict=True):
                np.testing.assert_array_equal(got, whole[number])
        assert len(passes) == 1
        np.testing.assert_array_equal(pictures([7, 3, 7])[1], whole[3])  # going back works too
        assert len(passes) == 2


def many_paths(frames=2500, points=120, seed=0) -> tuple[Traces, Cameras]:
    rng = np.random.default_rng(seed)
    turn = np.linspace(0, 60, frames)[:, None] + rng.uniform(0, 6, points)
    xyz = np.stack([0.2 * np.sin(turn), 0.1 * np.cos(1.3 * turn), 1 + 0.05 * np.sin(turn)], -1)
    xyz += rng.uniform(-0.2, 0.2, (points, 3))
    moving = np.arange(points) % 3 > 0
    xyz[:, ~moving] = xyz[:1, ~moving]
    valid = rng.random((frames, points)) > 0.1
    xyz[~valid] = np.nan
    traces = Traces(
        xyz.astype(np.float32),
        valid & (rng.random(valid.shape) > 0.1),
        valid,
        np.zeros(points, np.int32),
        moving,
        np.zeros(points, np.int64),
    )
    return traces, Cameras.still(np.array([[300.0, 0, 160], [0, 300, 90], [0, 0, 1]]), 320, 180, frames)


def peak_mb(work) -> float:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def test_what_follows_tracking_works_block_by_block(monkeypatch):
    """300,000 positions in double precision are 7 MB, for each of half a dozen intermediate results."""
    traces, cameras = many_paths()
    time_s = np.arange(traces.num_frames) / 10
    whole = trace_quality(traces, cameras, 0.1)
    all_at_once = (
        peak_mb(lambda: trace_quality(traces, cameras, 0.1)),
        peak_mb(lambda: cut_events(traces, cameras, time_s)),
    )
    monkeypatch.setattr(tracks, "BLOCK_CELLS", 20_000)
    monkeypatch.setattr(events, "_WHOLE_FRAMES", 256)
    assert trace_quality(traces, cameras, 0.1) == whole
    in_pieces = (
        peak_mb(lambda: trace_quality(traces, cameras, 0.1)),
        peak_mb(lambda: cut_events(traces, cameras, time_s)),
    )
    assert in_pieces[0] < all_at_once[0] / 2, (in_pieces, all_at_once)
    assert in_pieces[1] < all_at_once[1] / 2, (in_pieces, all_at_once)


def test_long_films_are_cut_as_short_ones_are(monkeypatch):
    traces, cameras = many_paths(frames=600, points=20)
    time_s = np.arange(600) / 10
    whole = acceleration_signal(traces, cameras, time_s)
    monkeypatch.setattr(events, "_WHOLE_FRAMES", 128)
    in_pieces = acceleration_signal(traces, cameras, time_s)
    np.testing.assert_allclose(in_pieces, whole, rtol=0.03)  # depth is weighed at the mean of a piece, not of the film


def test_blocks_hold_every_point_once():
    blocks = list(point_blocks(1000, np.arange(3, 2000)))
    np.testing.assert_array_equal(np.concatenate(blocks), np.arange(3, 2000))
    assert max(map(len, blocks)) * 1000 <= tracks.BLOCK_CELLS
    assert [len(block) for block in point_blocks(10**9, np.arange(3))] == [1, 1, 1]


# ---------------------------------------------------------------------- ten minutes


LONG = Film(1280, 720, rate=30, period=600, cell=16)
LIMIT_MB = 2000


class Watch(threading.Thread):
    """Notes the memory of a process, twice a second."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.process, self.samples = psutil.Process(pid), []

    def run(self):
        began = time.monotonic()
        while True:
            try:
                self.samples.append((time.monotonic() - began, self.process.memory_info().rss / 1e6))
            except psutil.Error:
                return
            time.sleep(0.5)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_ten_minutes_of_720p(tmp_path, record_property):
    """18,000 pictures, of which the command follows points through five a second at 640 px width: 3,000 frames, 46 borders."""
    path = write_film(tmp_path / "long.mp4", LONG, repeats=30)
    words = ["extract", "--fps", "5", "--max-side", "640", "--num-keypoints", "128", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "traceworld.cli", *words, str(path), "--out", str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    watch = Watch(process.pid)
    watch.start()
    answer = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, answer
    (item,) = json.loads(answer)["items"]
    assert (item["status"], item["frames"]) == ("ok", 3000)

    peak_mb = usage.ru_maxrss / 1e3
    seconds, rss = np.array(watch.samples).T
    later = (seconds > 0.5 * seconds[-1]) & (seconds < 0.95 * seconds[-1])  # the rest is starting up and writing down
    slope = np.polyfit(seconds[later] / seconds[-1], rss[later], 1)[0]  # MB per film

    (clip,) = open_dataset(tmp_path / "out")
    frames = clip.provenance["source_frames"]
    found = lives(LONG, clip.traces, clip.cameras, frames, 64, WINDOW * LONG.width)
    last = kept(found, -1, 4.0)
    borders = [kept(found, frame, 4.0) for frame in range(63, 3000, 64)]
    outlines = lives(LONG, clip.traces, clip.cameras, frames, 64, 2 * LONG.width / 640)
    figures = {
        "peak_mb": round(peak_mb),
        "slope_mb_per_film": round(float(slope), 1),
        "rss_mb": [round(float(np.interp(share * seconds[-1], seconds, rss))) for share in (0.1, 0.5, 0.9)],
        "seconds": round(seconds[-1]),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime),
        "points": [int((found.on == WALL).sum()), int((found.on >= 0).sum())],
        "kept_at_end": round(last, 4),
        "kept_at_worst_border": round(min(borders), 4),
        "error_px_at_end": round(float(np.nanmedian(found.error_px[-1])), 3),
        "kept_at_end_with_those_2_px_from_an_outline": round(kept(outlines, -1, 4.0), 4),
    }
    record_property("figures", json.dumps(figures))  # `--junitxml` writes them down
    assert peak_mb < LIMIT_MB, figures
    assert abs(slope) < 50, figures
    assert len(found.on) >= 30, figures
    assert last >= 0.95, figures
    assert min(borders) >= 0.95, figures
