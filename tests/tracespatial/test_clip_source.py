"""Events of stored clips as scenes with the recorded path of what moved."""

import numpy as np
import pytest
from trace_clips import EVENTS, make_clip, write_dataset

from traceworld.errors import DatasetError, ExtractionError, InvalidInputError
from traceworld.traces.types import Event
from traceworld.tracespatial.checker import check
from traceworld.tracespatial.clip_source import ClipSource, event_path
from traceworld.tracespatial.questions.asking import Mix, ask_all
from traceworld.tracespatial.sources import views

PATH_OF_TOY = np.stack([0.1 * np.sin(2 * (t := np.arange(60) * 0.025)), 0.05 * np.cos(3 * t) - 0.05, 0.04 * t], -1)
"""What every moving point of the toy clip does, from its own place."""


@pytest.fixture
def source(tmp_path):
    return ClipSource(write_dataset(tmp_path / "clips", clips=2, N=36, events=EVENTS))


def test_each_fine_event_is_a_scene(source):
    assert list(source.scene_ids()) == ["clip-0-0", "clip-0-1", "clip-1-0", "clip-1-1"]
    scene = source.load("clip-0-1")
    assert scene.source == "video"
    assert scene.image[0, 0, 0] == pytest.approx(4 * 20, abs=4)  # the picture of frame 20, where the event begins
    assert scene.depth_m.max() == pytest.approx(1.2, abs=1e-3)
    assert (scene.camera.width, scene.camera.height) == (32, 24)
    assert scene.camera.K[0, 0] == pytest.approx(500 * 32 / 640)


def test_the_path_is_that_of_the_part_that_moved(source):
    scene = source.load("clip-0-0")
    (found,) = source.traces(scene, 0, 3)
    assert found.kind == "object"
    assert found.traces[0].instruction == "reach"
    # The toy's camera is the world: what is down in it (y) is down in the upright scene (-z).
    moved = found.recorded_world[-1] - found.recorded_world[0]
    wanted = PATH_OF_TOY[19] - PATH_OF_TOY[0]
    assert moved == pytest.approx([wanted[0], wanted[2], -wanted[1]], abs=1e-6)


def test_questions_pass_and_a_shifted_recording_does_not(source):
    scene = source.load("clip-0-0")
    (view,) = views(source, scene, 0, 3)
    found = ask_all(view, Mix(), 0)
    assert [one.program["form"] for one in found] == ["2d", "3d", "lift"]
    for one in found:
        program = {**one.program, "scene": view.fingerprint}
        assert check(scene, one.text, one.answer, program) == ""
        shifted = (np.array(program["recorded_world"]) + np.array([0.05, 0, 0])).tolist()
        assert check(scene, one.text, one.answer, {**program, "recorded_world": shifted})


def test_points_that_are_not_known_throughout_do_not_count():
    clip = make_clip(N=12, unknown=0.5)
    assert event_path(clip, Event(0, 40, "reach")) is None


def test_what_cannot_be_used_is_named(tmp_path, source):
    with pytest.raises(InvalidInputError):
        source.load("clip-9-0")
    with pytest.raises(DatasetError, match="no event"):
        ClipSource(write_dataset(tmp_path / "still", clips=1, N=36))
    with pytest.raises(DatasetError):
        ClipSource(tmp_path / "nothing")
    late = ClipSource(write_dataset(tmp_path / "late", clips=1, N=36, events=EVENTS, pictures=(30,)))
    with pytest.raises(ExtractionError, match="no picture"):
        late.load("clip-0-0")
