"""Stages that are kept: what is done again after which change, to the byte; damaged entries; two processes."""

import ast
import dataclasses
import json
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_media import boards_clip, moving_square, write_rgbd, write_video
from PIL import Image
from scripted_chat import GOOD, fails, says, serving

import traceworld
from traceworld.cli import main
from traceworld.errors import ExtractionError, MediaError
from traceworld.extract import pipeline, stage_cache
from traceworld.extract.config import ExtractConfig
from traceworld.extract.jobs import extract_many
from traceworld.extract.pipeline import extract_clip, failed_stage
from traceworld.extract.stage_cache import AFTER_TRACKS, StageCache, captions_key, content_mark, tracks_key
from traceworld.traces.store import open_dataset

QUICK = ExtractConfig(num_keypoints=24, max_frames=8, tau_moving_px=15.0)
SPOKEN = json.dumps(GOOD)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("v") / "square.mp4", moving_square(8, step=4))


@pytest.fixture
def tracked(monkeypatch):
    """What is really tracked from now on."""
    real, seen = pipeline.build_traces_with, []

    def watched(source, *rest):
        seen.append(Path(source.uri).name)
        return real(source, *rest)

    monkeypatch.setattr(pipeline, "build_traces_with", watched)
    return seen


@pytest.fixture
def no_tracking(monkeypatch):
    def forbidden(*_):
        raise AssertionError("tracked again")

    return lambda: monkeypatch.setattr(pipeline, "build_traces_with", forbidden)


def shard(out: Path) -> bytes:
    (file,) = (out / "clips").glob("*.parquet")
    return file.read_bytes()


def run(video, out, config=QUICK, **options):
    report = extract_many([video], out, config, progress=False, **options)
    assert report.ok == 1, report.items
    return shard(out)


def changed(**options):
    return dataclasses.replace(QUICK, **options)


def speaker(url, style="structured"):
    return f"openai:m@{url}/v1#cache=off&style={style}"


def test_captions_and_cuts_never_track_again_and_give_the_bytes_of_a_fresh_run(video, tmp_path, tracked, no_tracking):
    shared = tmp_path / "cache"
    with serving(says(SPOKEN)) as (url, script):
        others = [changed(captions=speaker(url)), changed(min_event_s=0.1, max_event_s=0.2)]
        fresh = [run(video, tmp_path / f"fresh{number}", config) for number, config in enumerate(others)]
        plain = run(video, tmp_path / "out", cache=shared)
        assert tracked == ["square.mp4"] * 3
        assert len({plain, *fresh}) == 3
        asked = len(script.requests)
        assert asked > 0
        no_tracking()
        for number, config in enumerate(others):
            assert run(video, tmp_path / "out", config, cache=shared) == fresh[number]  # into the same dataset
            assert run(video, tmp_path / f"other{number}", config, cache=shared) == fresh[number]  # and into another
        assert len(script.requests) == 2 * asked  # words are kept, too: another dataset did not ask again
        assert run(video, tmp_path / "out", cache=shared) == plain


def test_the_command_keeps_and_uses_stages(video, tmp_path, no_tracking, capsys):
    kept = ["--cache", str(tmp_path / "cache"), "--max-frames", "4", "--grid", "4"]
    assert main(["extract", str(video), "--out", str(tmp_path / "a"), *kept]) == 0
    no_tracking()
    cuts = ["--min-event-s", "0.05", "--max-event-s", "0.1"]
    assert main(["extract", str(video), "--out", str(tmp_path / "b"), *kept, *cuts]) == 0
    first, second = open_dataset(tmp_path / "a")[0], open_dataset(tmp_path / "b")[0]
    assert first.traces.num_keypoints == second.traces.num_keypoints == 16
    assert second.provenance["stages"] == first.provenance["stages"]
    assert (first.provenance["config"]["max_event_s"], second.provenance["config"]["max_event_s"]) == (20.0, 0.1)


def test_without_a_cache_the_dataset_is_one(video, tmp_path, tracked, no_tracking):
    fresh = run(video, tmp_path / "fresh", changed(merge_window=2))
    plain = run(video, tmp_path / "out")
    no_tracking()
    assert run(video, tmp_path / "out", changed(merge_window=2)) == fresh
    assert run(video, tmp_path / "out") == plain
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == [
        "clips", "dataset.json", "manifest.parquet", "status",
    ]  # fmt: skip


def test_options_of_tracking_and_other_pictures_track_again(video, tmp_path, tracked):
    shared, copy = tmp_path / "cache", tmp_path / "square.mp4"
    shutil.copy(video, copy)
    run(copy, tmp_path / "out", cache=shared)
    run(copy, tmp_path / "out", changed(num_keypoints=12), cache=shared)
    assert len(tracked) == 2
    write_video(copy, moving_square(8, step=3))
    extract_clip(copy, QUICK, cache=StageCache(shared))
    assert len(tracked) == 3
    shutil.copy(video, copy.with_name("moved.mp4"))
    moved = extract_clip(copy.with_name("moved.mp4"), QUICK, cache=StageCache(shared))
    assert len(tracked) == 3  # the same bytes under another name
    assert moved.clip_id == "moved"
    assert moved.media.path == moved.provenance["source"]["uri"] == str(copy.with_name("moved.mp4"))


def test_a_server_that_fails_does_not_cost_the_tracking(video, tmp_path, no_tracking):
    cache = StageCache(tmp_path / "cache")
    with serving(fails(500)) as (url, _):
        with pytest.raises(ExtractionError) as caught:
            extract_clip(video, changed(captions=f"{speaker(url)}&retries=0"), cache=cache)
        assert failed_stage(caught.value) == "captions"
    no_tracking()
    with serving(says(SPOKEN)) as (url, _):
        clip = extract_clip(video, changed(captions=speaker(url)), cache=cache)
    assert clip.events[0].caption == GOOD["caption"]


def test_nor_does_it_in_a_dataset_that_is_its_only_cache(video, tmp_path, no_tracking):
    out = tmp_path / "out"
    assert extract_many([video], out, QUICK, progress=False).ok == 1
    no_tracking()
    with serving(fails(500)) as (url, _):
        report = extract_many([video], out, changed(captions=f"{speaker(url)}&retries=0"), progress=False)
    assert [item.stage for item in report.items] == ["captions"]
    assert open_dataset(out).clip_ids == []  # no reader takes the old words for the new ones
    with serving(says(SPOKEN)) as (url, _):
        assert extract_many([video], out, changed(captions=speaker(url)), progress=False).ok == 1
    assert open_dataset(out)[0].events[0].caption == GOOD["caption"]


def test_words_of_the_template_in_need_are_not_kept(video, tmp_path):
    cache = StageCache(tmp_path / "cache")
    with serving(says("prose"), says("prose"), says(SPOKEN)) as (url, _):
        config = changed(captions=speaker(url))
        first = extract_clip(video, config, cache=cache)
        assert first.provenance["captions"]["fallbacks"] == 1
        assert extract_clip(video, config, cache=cache).events[0].caption == GOOD["caption"]


@pytest.mark.parametrize("kind", ["folder", "rgbd", "resampled"])
def test_every_kind_of_source_comes_back_whole(kind, tmp_path, no_tracking):
    config = QUICK
    if kind == "rgbd":
        path = write_rgbd(tmp_path / "boards", *boards_clip(6, step_m=0.012))
    elif kind == "folder":
        path = tmp_path / "frames"
        path.mkdir()
        for number, image in enumerate(moving_square(12, step=3)):
            Image.fromarray(image).save(path / f"f{number}.png")
        config = changed(fps=10.0)
    else:
        path = write_video(tmp_path / "v.mkv", moving_square(20, step=3), codec="ffv1", pixel_format="bgra")
        config = changed(fps=10.0)
    fresh = extract_clip(path, config, cache=StageCache(tmp_path / "cache"))
    no_tracking()
    kept = extract_clip(path, config, cache=StageCache(tmp_path / "cache"))
    for name, value in vars(fresh.traces).items():
        assert np.array_equal(getattr(kept.traces, name), value, equal_nan=value.dtype.kind == "f"), name
    assert np.array_equal(kept.cameras.cam_from_world, fresh.cameras.cam_from_world)
    assert np.array_equal(kept.cameras.K, fresh.cameras.K)
    assert np.array_equal(kept.time_s, fresh.time_s)
    assert (kept.events, kept.media, kept.task, kept.metric) == (fresh.events, fresh.media, fresh.task, fresh.metric)
    assert json.loads(json.dumps(dict(kept.provenance))) == json.loads(json.dumps(dict(fresh.provenance)))


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_a_damaged_entry_is_noticed_and_made_again(damage, video, tmp_path, tracked, caplog):
    cache = StageCache(tmp_path / "cache")
    first = extract_clip(video, QUICK, cache=cache)
    entries = sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert [path.suffix for path in entries] == [".json", ".parquet"]
    whole = [path.read_bytes() for path in entries]
    for path, data in zip(entries, whole, strict=True):
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        path.write_bytes({"flipped": flipped, "cut": data[:middle], "empty": b""}[damage])
    again = extract_clip(video, QUICK, cache=cache)
    assert caplog.text.count("is damaged and is made again") == 2
    assert len(tracked) == 2
    assert [path.read_bytes() for path in entries] == whole
    assert again.events == first.events
    assert extract_clip(video, QUICK, cache=cache).events == first.events
    assert len(tracked) == 2


def test_a_damaged_shard_of_the_dataset_is_tracked_again(video, tmp_path, tracked):
    fresh = run(video, tmp_path / "out")
    (file,) = (tmp_path / "out" / "clips").glob("*.parquet")
    file.write_bytes(fresh[: len(fresh) // 2])
    assert run(video, tmp_path / "out") == fresh
    assert len(tracked) == 2


def test_a_cache_that_cannot_be_written_costs_no_result(video, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file, no folder")
    assert extract_clip(video, QUICK, cache=StageCache(tmp_path / "cache")).events
    assert "not kept" in caplog.text


def test_two_processes_share_a_cache(video, tmp_path, no_tracking):
    cache = tmp_path / "cache"
    context = multiprocessing.get_context("spawn")
    # `extract_many` itself: a child cannot import this file, which is no part of a package.
    both = [
        context.Process(target=extract_many, args=([video], tmp_path / f"out{n}", QUICK), kwargs={"cache": cache})
        for n in range(2)
    ]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert shard(tmp_path / "out0") == shard(tmp_path / "out1")
    no_tracking()
    assert run(video, tmp_path / "third", cache=cache) == shard(tmp_path / "out0")


def test_content_is_bytes_and_names_and_nothing_else(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            (tmp_path / name / f"{number}.png").write_bytes(bytes([number]))
    (tmp_path / "b" / ".hidden").write_text("x")
    mark = content_mark(tmp_path / "a")
    assert content_mark(tmp_path / "b") == mark
    (tmp_path / "b" / "0.png").rename(tmp_path / "b" / "3.png")
    assert content_mark(tmp_path / "b") != mark
    (tmp_path / "a" / "2.png").write_bytes(b"\x03")
    assert content_mark(tmp_path / "a") != mark


def test_an_input_that_cannot_be_read_is_said(video, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(stage_cache, "_file_mark", refuse)
    with pytest.raises(MediaError, match=r"square.mp4: cannot be read: Permission denied"):
        content_mark(video)


def test_keys_know_weights_and_code(tmp_path, monkeypatch, video):
    weights = tmp_path / "dino"
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    config = ExtractConfig(features=f"dinov2:{weights}")
    key = tracks_key(video, config)
    assert tracks_key(video, config) == key
    (weights / "config.json").write_text('{"other": 1}')
    assert tracks_key(video, config) != key
    plain = tracks_key(video, ExtractConfig())
    words = captions_key(plain, [(0, 4), (4, 8)], "tidy", ExtractConfig())
    assert captions_key(plain, [(0, 4), (4, 8)], "tidy", ExtractConfig()) == words
    for other in (
        captions_key(key, [(0, 4), (4, 8)], "tidy", ExtractConfig()),
        captions_key(plain, [(0, 5), (5, 8)], "tidy", ExtractConfig()),
        captions_key(plain, [(0, 4), (4, 8)], "", ExtractConfig()),
        captions_key(plain, [(0, 4), (4, 8)], "tidy", ExtractConfig(merge_stride=3)),
        captions_key(plain, [(0, 4), (4, 8)], "tidy", ExtractConfig(captions="openai:m@http://h/v1")),
    ):
        assert other != words
    monkeypatch.setattr(stage_cache, "_code_mark", lambda left_out: "another release")
    assert tracks_key(video, ExtractConfig()) != plain


def test_no_trace_follows_from_the_code_that_keys_leave_out():
    """What the tracker, the sources and every backend that gives no words import, is in the hash of the code."""
    root = Path(traceworld.__file__).parent
    assert all((root / name).is_file() for name in AFTER_TRACKS)
    left_out = {f"traceworld.{name.removesuffix('.py').replace('/', '.')}" for name in AFTER_TRACKS}
    backends = {f"traceworld.perception.backends.{p.stem}" for p in (root / "perception" / "backends").glob("*.py")}
    waiting = {"traceworld.extract.backend_tracks", "traceworld.perception.sources", *backends - left_out}
    reached = set()
    while waiting:
        module = waiting.pop()
        reached.add(module)
        file = root.joinpath(*module.split(".")[1:]).with_suffix(".py")
        if not file.is_file():
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("traceworld."):
                found = {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
                waiting |= {name for name in found if root.joinpath(*name.split(".")[1:]).with_suffix(".py").is_file()}
        waiting -= reached
    assert "traceworld.extract.tracks" in reached
    assert "traceworld.perception.backends.dino" in reached
    assert not reached & left_out
