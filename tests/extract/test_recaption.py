"""Other words and other cuts for a stored dataset: the bytes of a fresh extraction, and nothing tracked on the way."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from made_media import moving_square, write_video
from PIL import Image
from scripted_chat import GOOD, fails, says, serving

from traceworld.cli import main
from traceworld.commands.recaption import Recaption
from traceworld.errors import ConfigError, DatasetError, MediaError
from traceworld.extract import pipeline
from traceworld.extract import recaption as module
from traceworld.extract.config import ExtractConfig
from traceworld.extract.jobs import extract_many
from traceworld.extract.ledger import failures, retry, summarise
from traceworld.extract.recaption import recaption_clip, recaption_dataset
from traceworld.extract.shards import Part
from traceworld.perception import registry
from traceworld.perception.backend_spec import BackendSpec
from traceworld.traces.manifest import read_statuses
from traceworld.traces.store import open_dataset
from traceworld.traces.types import Event
from traceworld.traces.writer import DatasetWriter

# Pictures are larger than the cameras of the clips: captioners must see them as extraction does.
QUICK = ExtractConfig(num_keypoints=24, max_side=128, tau_moving_px=15.0)
CUTS = {"min_event_s": 0.1, "max_event_s": 0.2}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("v")
    for number in range(2):
        write_video(folder / f"film{number}.mp4", moving_square(12 + 4 * number, step=4))
    return folder


@pytest.fixture(scope="module")
def made(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "d"
    assert extract_many([videos], out, QUICK, progress=False).ok == 2
    return out


@pytest.fixture
def dataset(made, tmp_path, monkeypatch):
    """A copy to work on, and no tracking from now on."""

    def forbidden(*_):
        raise AssertionError("tracked again")

    monkeypatch.setattr(pipeline, "build_traces_with", forbidden)
    return shutil.copytree(made, tmp_path / "d")


def shards(out):
    return {path.name: path.read_bytes() for path in sorted((out / "clips").glob("*.parquet"))}


def speaker(url):
    return f"openai:m@{url}/v1#cache=off&retries=0&backoff_s=0.001"


def test_it_gives_the_bytes_of_a_fresh_extraction_and_asks_the_same(videos, dataset, tmp_path, monkeypatch):
    with serving(says(json.dumps(GOOD))) as (url, script):
        changes = {"captions": speaker(url), **CUTS, "merge_stride": 3}
        report = recaption_dataset(dataset, changes)
        assert (report.ok, report.failed, report.resumed) == (2, 0, 0)
        asked = list(script.requests)
        monkeypatch.undo()
        fresh = tmp_path / "fresh"
        extract_many([videos], fresh, replace(QUICK, **changes), progress=False)
        assert script.requests[len(asked) :] == asked
        assert shards(dataset) == shards(fresh)
        assert [event.level for event in open_dataset(dataset)[0].events].count(0) > 1
        again = extract_many([videos], dataset, replace(QUICK, **changes), progress=False)
        assert all(item.resumed for item in again.items)
        assert len(script.requests) == 2 * len(asked)
        assert open_dataset(dataset).manifest[0]["timings"]["captions"] >= 0


def test_a_second_run_and_a_killed_one_do_only_what_is_missing(dataset, monkeypatch):
    status = sorted((dataset / "status").glob("*.json"))
    before = [path.read_bytes() for path in status]
    assert recaption_dataset(dataset, CUTS).resumed == 0
    done = shards(dataset)
    after = [json.loads(path.read_bytes()) for path in status]
    status[0].write_bytes(before[0])  # killed after the shard, before its record
    real, seen = module.recaption_clip, []
    monkeypatch.setattr(
        module, "recaption_clip", lambda clip, changes: seen.append(clip.clip_id) or real(clip, changes)
    )
    report = recaption_dataset(dataset, CUTS)
    assert (report.ok, report.resumed, seen) == (2, 2, [])
    assert shards(dataset) == done
    written = json.loads(status[0].read_bytes())
    assert {**written, "timings": 0} == {**after[0], "timings": 0}
    recaption_dataset(dataset, {"min_event_s": 0.05})
    assert len(seen) == 2


def test_a_server_that_fails_leaves_the_old_words_and_is_on_record(dataset, capsys):
    before = shards(dataset)
    with serving(says(json.dumps(GOOD)), fails(500)) as (url, _):
        assert main(["recaption", str(dataset), "--captions", speaker(url)]) == 0  # the first of the two is done
    capsys.readouterr()
    with serving(fails(500)) as (url, _):
        assert main(["recaption", str(dataset), "--captions", speaker(url), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["failed"] == 2
    assert all(item["stage"] == "captions" and "http_500" in item["error"] for item in report["items"])
    kept = {name for name, data in shards(dataset).items() if data == before[name]}
    assert len(kept) == 1
    records = list(read_statuses(dataset))
    assert all(record["status"] == "ok" and "not recaptioned" in record["error"] for record in records)
    assert sorted(record["attempts"] for record in records) == [1, 2]
    assert all("ExtractionError" in record["traceback"] for record in records)
    assert len(open_dataset(dataset)) == 2
    assert summarise(dataset)["not_recaptioned"] == summarise(dataset)["ok"] == 2
    capsys.readouterr()
    assert main(["jobs", "status", str(dataset)]) == 0
    assert "old captions" in capsys.readouterr().out
    assert [record["stage"] for record in failures(dataset)] == ["captions", "captions"]
    with pytest.raises(ConfigError, match="traceworld recaption"):
        retry(dataset, [records[0]["item_id"]])
    assert retry(dataset) == []  # its traces are there: nothing is to be tried from the start
    with serving(says(json.dumps(GOOD))) as (url, _):
        assert main(["recaption", str(dataset), "--captions", speaker(url)]) == 0
    assert all(not record["error"] for record in read_statuses(dataset))
    assert failures(dataset) == []
    assert all(clip.events[0].caption == GOOD["caption"] for clip in open_dataset(dataset))


def test_processes_and_parts(dataset, tmp_path):
    other = shutil.copytree(dataset, tmp_path / "other")
    for index in range(3):
        recaption_dataset(dataset, CUTS, part=Part(index, 3))
    report = recaption_dataset(other, CUTS, workers=2, timeout_s=600.0)
    assert (report.ok, report.failed) == (2, 0)
    assert shards(dataset) == shards(other)


def test_clips_that_were_not_extracted_keep_their_events_unless_they_are_to_be_cut(dataset):
    clip = open_dataset(dataset)[0]
    T = clip.num_frames
    own = replace(clip, events=(Event(0, 5, "old"), Event(5, T, "old")), provenance={"source": "elsewhere"})
    again = recaption_clip(own, {})
    assert [(e.start, e.end, e.level) for e in again.events] == [(0, 5, 0), (5, T, 0), (0, T, 1)]
    assert all(event.caption != "old" for event in again.events)
    assert again.provenance["source"] == "elsewhere"
    cut = recaption_clip(own, CUTS)
    assert [(e.start, e.end) for e in cut.events] == [
        (e.start, e.end) for e in recaption_clip(clip, CUTS).events
    ]  # the events that an extracted clip would get
    writer = DatasetWriter(dataset.parent / "imported", source="import")
    writer.write_item("one", [own])
    assert recaption_dataset(writer.path, CUTS).resumed == 0
    assert recaption_dataset(writer.path, CUTS).resumed == 1
    assert recaption_dataset(writer.path, {}).resumed == 0
    assert next(iter(read_statuses(writer.path)))["source"] == "import"


def test_pictures_that_are_gone_are_said_and_needed_only_by_those_who_look(videos, dataset, tmp_path):
    clip = open_dataset(dataset)[0]
    gone = replace(clip, media=replace(clip.media, path=str(tmp_path / "gone.mp4")))
    assert recaption_clip(gone, CUTS).events
    with serving(says(json.dumps(GOOD))) as (url, script):
        with pytest.raises(MediaError, match=r"gone\.mp4"):
            recaption_clip(gone, {"captions": speaker(url)})
        assert script.requests == []


@pytest.mark.parametrize("changes", [{"num_keypoints": 3}, {"lambda_z": 0.2}, {"speed": 1}, {"captions": "poet"}])
def test_what_would_change_the_traces_is_refused(changes, dataset):
    before = shards(dataset)
    with pytest.raises(ConfigError):
        recaption_dataset(dataset, changes)
    assert shards(dataset) == before


def test_impossible_runs(dataset, tmp_path):
    for options in ({"workers": 0}, {"timeout_s": 3.0}):
        with pytest.raises(ConfigError):
            recaption_dataset(dataset, CUTS, **options)
    with pytest.raises(DatasetError):
        recaption_dataset(tmp_path / "nothing", CUTS)
    report = recaption_dataset(dataset, {"merge_window": 1})  # found out clip by clip: depends on the other options
    assert report.failed == 2
    assert "merge_window" in report.items[0].error


def test_a_captioner_that_is_not_free_for_every_use_must_be_accepted_again(dataset, monkeypatch):
    target = "traceworld.perception.captions:TemplateCaptioner"
    spec = BackendSpec("captions", "restricted", target, "CC BY-NC 4.0", "", licence_class="non-commercial")
    monkeypatch.setitem(registry._specs, ("captions", "restricted"), spec)
    clip = open_dataset(dataset)[0]
    config = {**clip.provenance["config"], "captions": "restricted"}
    made = replace(clip, provenance={**clip.provenance, "config": config})
    with pytest.raises(ConfigError, match="non-commercial"):
        recaption_clip(made, {"merge_window": 2})
    with pytest.raises(ConfigError, match="non-commercial"):
        recaption_dataset(dataset, {"captions": "restricted"})
    assert recaption_clip(made, {"merge_window": 2, "accept_licence": ("non-commercial",)}).events


def test_the_command_passes_on_what_is_given_and_nothing_else(tmp_path):
    assert Recaption(tmp_path).changes() == {}
    given = Recaption(tmp_path, captions="vlm", style="traceforge", max_event_s=5.0, accept_licence=("gated",))
    assert given.changes() == {"captions": "vlm#style=traceforge", "max_event_s": 5.0, "accept_licence": ("gated",)}
    assert Recaption(tmp_path, captions="vlm#overlay=false", style="structured").changes() == {
        "captions": "vlm#overlay=false&style=structured"
    }
    with pytest.raises(ConfigError, match="style"):
        Recaption(tmp_path, style="structured").changes()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "x.png")
    assert main(["recaption", str(tmp_path), "--style", "structured"]) == 2
    assert main(["recaption", str(tmp_path)]) == 1
