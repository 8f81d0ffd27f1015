import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from trace_clips import EVENTS, assert_same_clip, make_clip, write_dataset

import traceworld
from traceworld.errors import DatasetError, FormatVersionError, InvalidInputError
from traceworld.traces import atomic
from traceworld.traces.manifest import earlier_shard, item_name
from traceworld.traces.schema import Shard
from traceworld.traces.store import open_dataset
from traceworld.traces.writer import DatasetWriter, _check_item


def tree(folder):
    """Every file below a folder with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_write_and_read(tmp_path):
    writer = DatasetWriter(tmp_path / "d", source="me")
    first, second = make_clip("b", events=EVENTS, task="push"), make_clip("a", seed=1, task="pull")
    writer.write_item("videos/one.mp4", [first, second], timings={"track": 1.25})
    writer.write_item("videos/two.mp4", [], status="failed", stage="decode", error="truncated")
    writer.write_item("videos/three.mp4", [], status="skipped", stage="motion", error="nothing moves")
    described = writer.finalise()
    dataset = traceworld.open_dataset(tmp_path / "d")
    assert len(dataset) == 2
    assert dataset.clip_ids == ["b", "a"]
    assert dataset.tasks == ["pull", "push"]
    assert "a" in dataset
    assert_same_clip(dataset.clip("a"), second)
    assert_same_clip(dataset[0], first)
    assert_same_clip(dataset[-1], second)
    assert [clip.clip_id for clip in dataset] == ["b", "a"]
    assert dataset.counts == described["counts"] == {
        "items_ok": 1, "items_skipped": 1, "items_failed": 1, "clips": 2, "frames": 120, "keypoints": 24,
        "keypoints_moving": 12, "events": 3,
    }  # fmt: skip
    rows = {row["item_id"]: row for row in dataset.manifest}
    assert list(rows) == sorted(rows)
    assert rows["videos/one.mp4"]["clips"] == ["b", "a"]
    assert rows["videos/one.mp4"]["timings"] == {"track": 1.25}
    assert rows["videos/one.mp4"]["source"] == "me"
    failed = rows["videos/two.mp4"]
    assert (failed["status"], failed["stage"], failed["error"]) == ("failed", "decode", "truncated")
    assert described["sources"] == ["me"]


def test_manifest_can_be_read_with_pyarrow_alone(tmp_path):
    write_dataset(tmp_path / "d", clips=2)
    table = pq.read_table(tmp_path / "d" / "manifest.parquet")
    assert table["status"].to_pylist() == ["ok", "ok"]
    assert json.loads(table["timings"][0].as_py()) == {"total": 0.5}


def test_names_are_a_function_of_the_id():
    names = [item_name(x) for x in ("a/b", "a b", "a-b", "é", "a" * 300, "..", "a/b.mp4", "A/b")]
    assert len(set(names)) == len(names)
    assert all(len(name) < 80 and "/" not in name and not name.startswith(".") for name in names)
    assert item_name("a/b") == item_name("a/b")
    with pytest.raises(InvalidInputError, match="item_id"):
        item_name("")


@pytest.mark.parametrize(
    ("clips", "status", "message"),
    [(0, "ok", "0 clips"), (1, "failed", "1 clips"), (2, "ok", "share an id")],
)
def test_contradicting_items_are_refused(tmp_path, clips, status, message):
    with pytest.raises(InvalidInputError, match=message):
        DatasetWriter(tmp_path / "d").write_item("x", [make_clip()] * clips, status=status)


def test_unknown_status():
    with pytest.raises(InvalidInputError, match="'maybe' is unknown"):
        _check_item("x", [], "maybe")


def test_same_inputs_same_bytes_in_any_order(tmp_path):
    items = [(f"item {i}", make_clip(f"c{i}", seed=i, events=EVENTS)) for i in range(4)]
    for folder, order in (("a", items), ("b", items[::-1])):
        writer = DatasetWriter(tmp_path / folder, source="x")
        for item, clip in order:
            writer.write_item(item, [clip])
        writer.finalise()
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_writing_an_item_again_replaces_it(tmp_path):
    writer = DatasetWriter(tmp_path / "d")
    writer.write_item("x", [make_clip("a"), make_clip("b")])
    writer.write_item("x", [make_clip("c")])
    assert open_dataset(tmp_path / "d").clip_ids == ["c"]
    writer.write_item("x", [], status="failed", error="now it fails")
    assert open_dataset(tmp_path / "d").clip_ids == []
    assert [row["status"] for row in open_dataset(tmp_path / "d").manifest] == ["failed"]
    earlier = earlier_shard(tmp_path / "d", "x")
    assert Shard(earlier).clip(0, tmp_path).clip_id == "c"  # put aside, not lost
    writer.write_item("x", [], status="failed", error="again")
    writer.finalise()
    assert earlier.exists()
    writer.write_item("x", [], status="skipped", error="nothing moves")
    assert not earlier.exists()


def test_an_unfinished_dataset_can_be_read(tmp_path):
    write_dataset(tmp_path / "d", clips=2, finalise=False)
    dataset = open_dataset(tmp_path / "d")
    assert len(dataset) == len(list(dataset)) == 2
    assert dataset.statistics == {}
    assert dataset.counts == {}
    assert [row["status"] for row in dataset.manifest] == ["ok", "ok"]
    (tmp_path / "d" / "status" / f"{item_name('item 0')}.json").unlink()  # killed between shard and status
    assert len(open_dataset(tmp_path / "d")) == 2


def test_items_written_after_finalise_are_seen(tmp_path):
    write_dataset(tmp_path / "d", clips=2)
    time.sleep(0.02)
    writer = DatasetWriter(tmp_path / "d")
    writer.write_item("later", [make_clip("later")])
    dataset = open_dataset(tmp_path / "d")
    assert len(dataset) == 3
    assert "later" in {row["item_id"] for row in dataset.manifest}
    assert dataset.clip("later").clip_id == "later"
    assert writer.finalise()["counts"]["clips"] == 3


def test_resume_knows_what_is_done(tmp_path):
    writer = DatasetWriter(tmp_path / "d")
    writer.write_item("ok", [make_clip("a")])
    writer.write_item("bad", [], status="failed", error="x")
    writer.write_item("none", [], status="skipped", error="y")
    assert DatasetWriter(tmp_path / "d").done_items() == {"ok", "bad", "none"}
    assert writer.done_items(retry_failed=True) == {"ok", "none"}
    shard = next((tmp_path / "d" / "clips").glob("*.parquet"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])  # not as long as its status says
    assert writer.done_items() == {"bad", "none"}
    shard.unlink()
    assert writer.done_items() == {"bad", "none"}


def test_a_crash_before_the_rename_leaves_nothing(tmp_path, monkeypatch):
    writer = DatasetWriter(tmp_path / "d")
    writer.write_item("x", [make_clip("old")])
    before = tree(tmp_path / "d")

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "replace", no_space)
    with pytest.raises(DatasetError, match="No space left"):
        writer.write_item("x", [make_clip("new")])
    assert tree(tmp_path / "d") == before


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from trace_clips import make_clip
from traceworld.traces.writer import DatasetWriter
writer = DatasetWriter({folder!r}, source="x")
done = writer.done_items()
for i in range(40):
    if f"item {{i}}" not in done:
        writer.write_item(f"item {{i}}", [make_clip(f"c{{i}}", T=300, N=64, seed=i)])
        print(i, flush=True)
writer.finalise(statistics=False)
"""


def test_killed_runs_resume_to_the_same_bytes(tmp_path):
    def run(folder, kill_after=None):
        code = KILLED.format(tests=os.path.dirname(__file__), folder=str(tmp_path / folder))
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        if kill_after is not None:
            for _ in range(kill_after):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
        process.communicate()
        return process.returncode

    assert run("whole") == 0
    for kill_after in (3, 9):
        assert run("killed", kill_after) == -signal.SIGKILL
        readable = open_dataset(tmp_path / "killed")
        assert len(list(readable)) >= kill_after
    (tmp_path / "killed" / "clips" / ".left.parquet.1-2.partial").write_bytes(b"half a shard")
    assert run("killed") == 0
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")


def _write_some(folder, worker):
    writer = DatasetWriter(folder, source="x")
    for i in range(worker, 12, 4):
        writer.write_item(f"item {i}", [make_clip(f"c{i}", seed=i)])


def test_writers_need_no_coordinator(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write_some, args=(tmp_path / "d", w)) for w in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    for worker in range(4):
        _write_some(tmp_path / "alone", worker)
    for folder in ("d", "alone"):
        DatasetWriter(tmp_path / folder).finalise()
    assert tree(tmp_path / "d") == tree(tmp_path / "alone")
    assert len(open_dataset(tmp_path / "d")) == 12


def test_a_newer_dataset_is_refused_by_reader_and_writer(tmp_path):
    folder = write_dataset(tmp_path / "d", clips=1)
    (folder / "dataset.json").write_text('{"format_version": 9}')
    for opening in (open_dataset, DatasetWriter):
        with pytest.raises(FormatVersionError, match=r"version 9.*up to 1.*pip install"):
            opening(folder)


def test_what_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="not a dataset"):
        open_dataset(tmp_path / "absent")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(DatasetError, match=r"holiday\.jpg"):
        DatasetWriter(tmp_path / "photos")
    (tmp_path / "photos" / "dataset.json").write_text("{half")
    with pytest.raises(DatasetError, match=r"dataset\.json"):
        open_dataset(tmp_path / "photos")
    (tmp_path / "photos" / "dataset.json").write_text("[]")
    with pytest.raises(DatasetError, match="not a JSON object"):
        open_dataset(tmp_path / "photos")


def test_a_damaged_shard_names_itself_and_spares_the_others(tmp_path):
    folder = write_dataset(tmp_path / "d", clips=3)
    shard = folder / "clips" / f"{item_name('item 1')}.parquet"
    whole = bytearray(shard.read_bytes())
    whole[200:400] = bytes(200)  # same length, other content
    shard.write_bytes(whole)
    dataset = open_dataset(folder)
    assert dataset.clip("clip-0").clip_id == "clip-0"
    with pytest.raises(DatasetError, match=shard.name):
        dataset.clip("clip-1")
    assert dataset.clip("clip-2").clip_id == "clip-2"


def test_two_items_with_the_same_clip_id(tmp_path):
    writer = DatasetWriter(tmp_path / "d")
    for item in ("x", "y"):
        writer.write_item(item, [make_clip("same")])
    with pytest.raises(DatasetError, match="'same' is also in"):
        len(open_dataset(tmp_path / "d"))


def test_unknown_clips_and_damaged_manifests(tmp_path):
    folder = write_dataset(tmp_path / "d", clips=1)
    with pytest.raises(DatasetError, match="no clip 'nope'"):
        open_dataset(folder).clip("nope")
    (folder / "manifest.parquet").write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match=r"manifest\.parquet"):
        open_dataset(folder).manifest  # noqa: B018


def test_datasets_travel_between_processes(tmp_path):
    dataset = open_dataset(write_dataset(tmp_path / "d", clips=1))
    dataset[0]
    assert_same_clip(pickle.loads(pickle.dumps(dataset))[0], dataset[0])


def test_reading_a_clip_is_quick_for_what_it_is(tmp_path):
    writer = DatasetWriter(tmp_path / "d")
    writer.write_item("x", [make_clip("c", T=300, N=256)])
    dataset = open_dataset(tmp_path / "d")
    start = time.process_time()
    for _ in range(5):
        dataset[0]
    assert (time.process_time() - start) / 5 < 0.25
    assert np.isfinite(dataset[0].traces.xyz_world).all()
