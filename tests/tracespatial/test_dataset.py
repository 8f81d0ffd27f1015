"""Datasets: the same bytes twice, after a stop, and by several workers; every record right when read back."""

import hashlib
import json
import shutil

import cv2
import numpy as np
import pytest
from qa_scenes import make_scene, table_things

from traceworld.errors import ConfigError, DatasetError, ExtractionError, InvalidInputError
from traceworld.tracespatial import dataset as dataset_module
from traceworld.tracespatial.dataset import BuildConfig, build, read_records, recheck
from traceworld.tracespatial.questions.asking import Mix
from traceworld.tracespatial.sources import TraceSet, planned_traces, safe_id
from traceworld.tracespatial.statistics import report

MIX = Mix({"relative_position": 4, "size_comparison": 2, "quantitative": 4, "referring": 3, "free_space": 1})


class Tables:
    """Tables on which the red mug stands at another place each; every fifth cannot be made."""

    name = "tables"

    def __init__(self, number=6, same_picture=False, traced=False):
        self.number, self.same_picture, self.traced = number, same_picture, traced

    def scene_ids(self):
        return (f"table-{i}" for i in range(self.number))

    def load(self, scene_id):
        place = int(scene_id.split("-")[1])
        if place % 5 == 4:
            raise ExtractionError("is a bad table", where=scene_id)
        things = table_things()
        box = things[1][3]
        shift = 0.0 if self.same_picture else 0.01 * place
        moved = type(box)(box.center_xyz + np.array([shift, 0, 0]), box.size_m, box.rotation)
        things[1] = (*things[1][:3], moved, *things[1][4:])
        return make_scene(things, scene_id=scene_id)

    def traces(self, scene, seed, number):
        return planned_traces(scene, seed, number) if self.traced else [TraceSet(())]


def digest(folder):
    """Of all files but the timing."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "timing.json"
    }


def config(questions=30, **changed):
    return BuildConfig(questions, mix=MIX, scenes_per_shard=1, **changed)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("qa") / "d"
    return out, build(Tables(), out, config())


def test_two_runs_are_byte_identical(built, tmp_path):
    out, _ = built
    build(Tables(), tmp_path / "again", config())
    assert digest(tmp_path / "again") == digest(out)


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(built, tmp_path, monkeypatch):
    out, _ = built
    made, real = [], dataset_module._make_shard

    def dies_after_one(*args):
        if made:
            raise KeyboardInterrupt
        made.append(args)
        return real(*args)

    monkeypatch.setattr(dataset_module, "_make_shard", dies_after_one)
    with pytest.raises(KeyboardInterrupt):
        build(Tables(), tmp_path / "d", config())
    monkeypatch.undo()
    (tmp_path / "d" / "shards" / ".00001.json.1-x.partial").write_text("{")  # what a kill in mid-write leaves
    done = build(Tables(), tmp_path / "d", config())
    (tmp_path / "d" / "shards" / ".00001.json.1-x.partial").unlink()
    assert done.made == built[1].shards - 1
    assert digest(tmp_path / "d") == digest(out)


def test_growing_a_dataset_keeps_what_is_there(built, tmp_path):
    out, first = built
    shutil.copytree(out, tmp_path / "d")
    done = build(Tables(), tmp_path / "d", config(40))
    assert done.questions == 40
    assert done.made == done.shards - first.shards
    assert read_records(tmp_path / "d")[:30] == read_records(out)


@pytest.mark.slow
def test_workers_do_not_change_the_bytes(built, tmp_path):
    out, _ = built
    build(Tables(), tmp_path / "w", config(), workers=2)
    assert digest(tmp_path / "w") == digest(out)


def test_records_are_in_the_conversation_format(built):
    out, done = built
    records = read_records(out)
    assert done.complete
    assert done.questions == len(records) == 30
    assert len({record["id"] for record in records}) == 30
    for record in records:
        human, gpt = record["conversations"]
        assert (human["from"], gpt["from"]) == ("human", "gpt")
        assert human["value"].startswith("<image>\n")
        assert (out / record["image"][0]).is_file()
        assert (out / record["depth"][0]).is_file()
        assert np.array(record["intrinsics"]).shape == (3, 3)
        assert np.array(record["cam_from_world"]).shape == (4, 4)
        assert record["provenance"]["scene"]
        assert record["family"] in MIX.per_scene
        assert record["steps"] >= 1


def test_pictures_are_those_of_the_scene(built):
    out, _ = built
    scene = Tables().load("table-1")
    assert (cv2.imread(str(out / "images" / "table-1.png"))[..., ::-1] == scene.image).all()
    depth = cv2.imread(str(out / "depth" / "table-1.png"), cv2.IMREAD_UNCHANGED)
    assert depth.dtype == np.uint16
    assert np.abs(depth / 1000 - scene.depth_m).max() <= 0.000501


def test_everything_written_passes_the_checker_again(built):
    out, _ = built
    assert recheck(Tables(), out) == {}


def test_a_changed_answer_is_found_in_the_files(built, tmp_path):
    out, _ = built
    shutil.copytree(out, tmp_path / "d")
    records = read_records(out)
    broken = next(i for i, record in enumerate(records) if record["provenance"].get("unit"))
    answer = records[broken]["conversations"][1]["value"]
    records[broken]["conversations"][1]["value"] = answer.replace(records[broken]["provenance"]["unit"], "parsecs")
    (tmp_path / "d" / "train.json").write_text(json.dumps(records))
    assert list(recheck(Tables(), tmp_path / "d")) == [records[broken]["id"]]


def test_statistics(built):
    out, _ = built
    figures = report(out)
    assert figures["questions"] == 30
    assert figures["duplicates"] == 0
    assert figures["faults"] == {}
    assert sum(entry["count"] for entry in figures["families"].values()) == 30
    assert sum(entry["count"] for entry in figures["steps"]["all"].values()) == 30
    assert sum(entry["share"] for entry in figures["families"].values()) == pytest.approx(1, abs=1e-3)
    metric = sum(record["metric"] for record in read_records(out))
    assert figures["metric_share"] == pytest.approx(metric / 30, abs=1e-4)
    assert figures["questions_per_core_second"] > 0


def test_a_scene_that_cannot_be_made_is_named_and_left_out(tmp_path):
    done = build(Tables(5), tmp_path / "d", config(500))
    assert not done.complete
    assert done.scenes == 5
    assert list(report(tmp_path / "d")["skipped_scenes"]) == ["table-4"]
    assert "bad table" in report(tmp_path / "d")["skipped_scenes"]["table-4"]


def test_the_same_picture_under_two_names_gives_no_question_twice(tmp_path):
    build(Tables(3, same_picture=True), tmp_path / "d", config(500))
    records = read_records(tmp_path / "d")
    texts = [record["conversations"][0]["value"].lower() for record in records]
    assert len(texts) == len(set(texts))
    assert report(tmp_path / "d")["duplicates"] > 0


def test_traces_and_chains_end_up_in_the_files(tmp_path):
    mix = Mix({"trace": 6, "reasoning": 2})
    build(Tables(2, traced=True), tmp_path / "d", BuildConfig(8, mix=mix, proposals=6, scenes_per_shard=1))
    records = read_records(tmp_path / "d")
    assert {record["family"] for record in records} == {"trace", "reasoning"}
    assert recheck(Tables(2, traced=True), tmp_path / "d") == {}
    figures = report(tmp_path / "d")
    assert sum(entry["count"] for entry in figures["primitives"].values()) > 0


def test_a_folder_of_another_dataset_is_refused(built):
    out, _ = built
    with pytest.raises(ConfigError, match="another seed"):
        build(Tables(), out, config(seed=1))
    with pytest.raises(ConfigError, match="another mix"):
        build(Tables(), out, BuildConfig(30, scenes_per_shard=1))


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(DatasetError, match="build"):
        read_records(tmp_path)
    with pytest.raises(DatasetError):
        report(tmp_path)
    (tmp_path / "train.json").write_text("[{")
    with pytest.raises(DatasetError):
        read_records(tmp_path)


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a b"])
def test_ids_that_are_no_file_names(name):
    with pytest.raises(InvalidInputError):
        safe_id(name)


@pytest.mark.parametrize("changed", [{"questions": 0}, {"scenes_per_shard": 0}, {"proposals": -1}])
def test_a_build_that_cannot_be(changed):
    with pytest.raises(ConfigError):
        BuildConfig(**({"questions": 5} | changed))
