"""`traceworld jobs`: what the ledger says, and failed items that are tried again; through the command line."""

import json

import numpy as np
import pytest
from made_media import moving_square, write_video

from traceworld.cli import main
from traceworld.errors import ConfigError, DatasetError
from traceworld.extract import jobs
from traceworld.extract.config import ExtractConfig
from traceworld.extract.jobs import extract_many
from traceworld.extract.ledger import failures, retry, summarise
from traceworld.extract.shards import Part
from traceworld.traces.atomic import TEMP_SUFFIX
from traceworld.traces.store import open_dataset

QUICK = ExtractConfig(num_keypoints=24, max_frames=8, tau_moving_px=15.0)


@pytest.fixture
def inputs(tmp_path):
    folder = tmp_path / "inputs"
    folder.mkdir()
    write_video(folder / "good.mp4", moving_square(10, step=4))
    write_video(folder / "black.mp4", [np.zeros((96, 128, 3), np.uint8)] * 6)
    (folder / "words.mp4").write_text("no video")
    return folder


def run(inputs, out, **options):
    return extract_many([inputs], out, QUICK, progress=False, **options)


def tried(monkeypatch):
    """Names of the inputs that are really extracted from now on."""
    real, seen = jobs.extract_clip, []

    def watched(path, *rest):
        seen.append(path.rsplit("/", 1)[-1])
        return real(path, *rest)

    monkeypatch.setattr(jobs, "extract_clip", watched)
    return seen


def test_an_item_that_keeps_failing_is_left_alone_until_it_changes_or_is_asked_for(inputs, tmp_path, monkeypatch):
    out, seen = tmp_path / "out", tried(monkeypatch)
    for attempt in range(1, 4):
        assert run(inputs, out).quarantined == 0
        assert [record["attempts"] for record in failures(out)] == [attempt]
    assert seen == ["black.mp4", "good.mp4", "words.mp4", "words.mp4", "words.mp4"]
    report = run(inputs, out)
    assert (report.failed, report.quarantined) == (1, 1)
    assert next(item for item in report.items if item.quarantined).error  # still says why
    assert len(seen) == 5

    assert main(["jobs", "retry", str(out)]) == 0
    run(inputs, out)
    assert seen[5:] == ["words.mp4"]
    assert [record["attempts"] for record in failures(out)] == [1]

    run(inputs, out, max_attempts=1)
    assert len(seen) == 6
    write_video(inputs / "words.mp4", moving_square(10, step=4))
    report = run(inputs, out, max_attempts=1)
    assert (report.ok, report.failed, report.quarantined) == (2, 0, 0)
    assert main(["jobs", "retry", str(out)]) == 1  # nothing is left to be tried again


def test_failures_are_kept_with_their_traceback(inputs, tmp_path, capsys):
    out = tmp_path / "out"
    run(inputs, out)
    assert main(["jobs", "export-failures", str(out), "--out", str(tmp_path / "bad.jsonl")]) == 0
    (record,) = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert record["item_id"].startswith("words-")
    assert record["stage"] == "source"
    assert "MediaError" in record["error"]
    assert "Traceback" in record["traceback"]
    assert "open_source" in record["traceback"]
    row = next(row for row in open_dataset(out).manifest if row["status"] == "failed")
    assert (row["attempts"], row["traceback"]) == (1, record["traceback"])
    capsys.readouterr()
    assert main(["jobs", "export-failures", str(out)]) == 0
    assert json.loads(capsys.readouterr().out.replace("\n", ""))["item_id"] == record["item_id"]


def test_the_summary_counts(inputs, tmp_path, capsys):
    out = tmp_path / "out"
    run(inputs, out)
    assert main(["jobs", "status", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == summarise(out)
    assert (told["items"], told["ok"], told["skipped"], told["failed"]) == (3, 1, 1, 1)
    assert told["failed_by_stage"]["source"]["items"] == 1
    assert told["failed_by_stage"]["source"]["example"].startswith("words-")
    seconds = told["seconds"]
    assert seconds["total"] == seconds["median"] > 0
    assert {"source", "tracks", "events", "captions"} <= set(seconds["by_stage"])
    assert seconds["by_stage"]["tracks"] <= sum(seconds["by_stage"].values()) <= seconds["total"] + 1e-6
    assert main(["jobs", "status", str(out)]) == 0


def test_names_that_did_not_fail_are_refused(inputs, tmp_path):
    out = tmp_path / "out"
    run(inputs, out)
    with pytest.raises(ConfigError, match="no failed item"):
        retry(out, ["good.mp4"])
    assert retry(out, stage="tracks") == []
    with pytest.raises(DatasetError):
        summarise(tmp_path / "nowhere")


def test_parts_do_everything_once_and_the_last_one_finalises(inputs, tmp_path, monkeypatch):
    write_video(inputs / "more.mp4", moving_square(10, step=4))
    whole, out = tmp_path / "whole", tmp_path / "out"
    run(inputs, whole)
    seen = tried(monkeypatch)
    manifests = []
    for index in range(3):
        run(inputs, out, part=Part(index, 3))
        manifests.append((out / "manifest.parquet").exists())
    assert sorted(seen) == ["black.mp4", "good.mp4", "more.mp4", "words.mp4"]
    assert manifests == sorted(manifests)  # once all are done, and not before
    assert manifests[-1]
    for file in sorted((whole / "clips").iterdir()):
        assert (out / "clips" / file.name).read_bytes() == file.read_bytes()
    assert (out / "dataset.json").read_bytes() == (whole / "dataset.json").read_bytes()


def test_a_part_leaves_the_unfinished_files_of_others_alone(inputs, tmp_path):
    out = tmp_path / "out"
    run(inputs, out)
    unfinished = out / "clips" / f".other.parquet{TEMP_SUFFIX}"
    unfinished.write_text("being written")
    run(inputs, out, part=Part(0, 1))
    assert unfinished.exists()
    run(inputs, out)
    assert not unfinished.exists()
