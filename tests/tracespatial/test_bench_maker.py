"""Benchmarks in the published layout: every question is right by the checker and its own reference scores full marks."""

import numpy as np
import pytest
from qa_scenes import make_scene, table_scene, table_things, table_traces

from traceworld.errors import DatasetError, ExtractionError
from traceworld.tracespatial.bench_layout import open_bench
from traceworld.tracespatial.bench_maker import PICK, PUSH, end_box, make_bench, scores_itself, usable
from traceworld.tracespatial.boxes import contains
from traceworld.tracespatial.questions.view import SceneView
from traceworld.tracespatial.sources import TraceSet


class Tables:
    """Tables with one trace of each primitive; the third cannot be made, the fourth has none."""

    name = "tables"

    def scene_ids(self):
        return (f"t{i}" for i in range(8))

    def load(self, scene_id):
        if scene_id == "t2":
            raise ExtractionError("is broken", where=scene_id)
        return make_scene(table_things(), scene_id=scene_id)

    def traces(self, scene, seed, number):
        return [TraceSet([] if scene.scene_id == "t3" else table_traces(scene))]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "b"
    return out, make_bench(Tables(), out, 5, seed=3)


def test_it_is_read_back_in_the_published_layout(bench):
    out, made = bench
    found = open_bench(out)
    assert len(found.questions) == made.questions == 5
    assert made.scenes == 7  # two of them give nothing
    for question in found.questions:
        assert question.data_source == "sim"
        assert question.category in (PICK, PUSH)
        assert 2 <= question.step <= 8
        assert question.target_object in question.prompt.lower()
        assert question.destination in question.prompt.lower()
        mask = found.picture(question, "mask")
        assert set(np.unique(mask)) == {0, 255}
        assert found.picture(question, "gt_depth").dtype == np.uint16
        assert found.picture(question, "image").shape == (*mask.shape, 3)


def test_the_reference_starts_in_the_mask_and_ends_in_the_box(bench):
    found = open_bench(bench[0])
    for question in found.questions:
        trace, K = question.trajectory_cam, question.K
        x, y, z = K @ trace[0]
        mask = found.picture(question, "mask")
        assert mask[round(y / z), round(x / z)] == 255
        assert contains(question.box, trace[-1:])[0]
        depth_m = found.picture(question, "gt_depth")[round(y / z), round(x / z)] / 1000
        assert abs(depth_m - z / 1) < 0.2


def test_steps_are_spread_and_counted(bench):
    _, made = bench
    assert sum(made.steps.values()) == sum(made.categories.values()) == 5
    assert len(made.steps) >= 3  # the scenes offer 2, 3 and 5


def test_the_same_seed_gives_the_same_bytes(bench, tmp_path):
    make_bench(Tables(), tmp_path / "b", 5, seed=3)
    for file in sorted(path for path in bench[0].rglob("*") if path.is_file()):
        assert (tmp_path / "b" / file.relative_to(bench[0])).read_bytes() == file.read_bytes()


def test_a_source_with_too_little_is_named(tmp_path):
    with pytest.raises(DatasetError, match="6 usable of 8"):
        make_bench(Tables(), tmp_path / "b", 7)


def test_the_end_box_is_the_moved_objects_own():
    scene = table_scene()
    trace = table_traces(scene)[1]
    view = SceneView(scene, [trace])
    box, pose = end_box(view, trace), scene.camera.cam_from_world
    start = scene.object("mug1").box
    world = pose[:3, :3].T @ (box.center_xyz - pose[:3, 3])
    assert world == pytest.approx(start.center_xyz + np.array([-0.2, 0, 0]), abs=1e-6)
    assert box.size_m == pytest.approx(start.size_m)
    assert scores_itself(view, trace)


def test_what_the_checker_refuses_is_not_used():
    from dataclasses import replace

    scene = table_scene()
    trace = table_traces(scene)[1]
    assert len(list(usable(SceneView(scene, [trace]), 0))) == 1
    wrong = replace(trace, direction="right")
    assert list(usable(SceneView(scene, [wrong]), 0)) == []
