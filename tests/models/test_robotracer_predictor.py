"""RoboTracer as a predictor: words become traces of the keypoints, strictly read; the same seed says the same."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from robotracer_toys import TINY, example, make

from traceworld.errors import InvalidInputError
from traceworld.models import load_predictor
from traceworld.models.baselines import NothingMoves
from traceworld.models.predictor import TracePredictor
from traceworld.models.robotracer.checkpoint import save_robotracer
from traceworld.models.robotracer.predictor import RoboTracerPredictor
from traceworld.traces.types import Observation

UV = np.array([[0.0, 0.0], [0.5, -0.5]])


def observe(clock="time", step=0.025, instruction="open the drawer"):
    e = example(0)
    z = np.array([1.0, 1.5])
    return Observation(e.image, instruction, e.depth_m, e.K, UV, z, clock=clock, step=step)


class Scripted(RoboTracerPredictor):
    """Says what it is told, and keeps what it was asked."""

    def __init__(self, *texts, space="metric"):
        super().__init__(*make("qwen2_5_vl", dataclasses.replace(TINY, space=space)))
        self.texts, self.asked = list(texts), []

    def _texts(self, example, count, temperature, seed):
        self.asked.append((example, count, temperature))
        return [self.texts.pop(0) for _ in range(count)]


def test_a_trace_moves_every_keypoint_alike():
    predictor = Scripted(
        "<think>(1, 2, 3.0)</think><answer>[(500, 500, 1.000), (600, 500, 1.100), (700, 500, 1.200)]</answer>"
    )
    prediction = predictor.predict(observe())
    anchor = np.array([[*UV[0], 1.0], [*UV[1], 1.5]])
    steps = np.arange(1, 9) / 8
    np.testing.assert_allclose(prediction.uvz[0], anchor[:, None] + steps[:, None] * [0.4, 0, 0.2], atol=1e-6)
    assert prediction.valid.all()
    assert prediction.text.startswith("<think>")
    asked = predictor.asked[0][0]
    assert asked.turns[0][0].startswith(
        'Please point out the 3D object-centric visual trace for the task "open the drawer".'
    )
    assert np.array_equal(asked.K, observe().K)
    assert np.array_equal(asked.depth_m, observe().depth_m)
    assert predictor.usage()["failed"] == 0
    assert isinstance(predictor, TracePredictor)
    assert predictor.trace_prompts["3D"].replace("{task}", "open the drawer") == asked.turns[0][0]


def test_on_the_arc_clock_a_trace_keeps_its_length():
    predictor = Scripted("[(500, 500, 1.000), (600, 500, 1.000)]")
    moved = predictor.predict(observe("arc", 0.025)).uvz[0, 0, :, 0]
    np.testing.assert_allclose(moved, np.minimum(0.05 * np.arange(1, 9), 0.2), atol=1e-6)


def test_in_the_picture_alone_depth_stays():
    predictor = Scripted("[(500, 500), (600, 400)]", space="image")
    moved = predictor.predict(observe()).uvz[0, :, -1]
    np.testing.assert_allclose(moved, [[0.2, -0.2, 1.0], [0.7, -0.7, 1.5]], atol=1e-6)
    assert not predictor.gives_depth
    assert "d1" not in predictor.asked[0][0].turns[0][0]


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("", "no_text"), ("I cannot.", "no_points"), ("[(1, 2), (3, 4)]", "no_depth"), ("[(1, 2, 1.0)]", "single_point"),
        ("[(1, 2, NaN), (3, 4, 1.0)]", "not_finite"), ("<think>[(1, 2, 1.0), (3, 4, 1.0)]</think>", "thinking_only"),
    ],
)  # fmt: skip
def test_failures_are_counted_and_nothing_moves(text, failure):
    predictor = Scripted(text)
    prediction = predictor.predict(observe())
    assert predictor.usage()["failures"] == {failure: 1}
    assert predictor.usage()["answers"] == 0, "taken"
    still = NothingMoves().predict(observe()).uvz[0, :, 0]
    np.testing.assert_array_equal(prediction.uvz[0], still[:, None].repeat(8, 1))


def test_the_first_sample_is_the_likeliest():
    predictor = Scripted("[(1, 1, 1), (2, 2, 1)]", "[(1, 1, 1), (500, 2, 1)]", "no")
    prediction = predictor.predict(observe(), 3)
    assert [(count, temperature) for _, count, temperature in predictor.asked] == [(1, 0.0), (2, 0.7)]
    assert prediction.uvz.shape == (3, 2, 8, 3)
    assert predictor.usage()["failed"] == 1
    with pytest.raises(InvalidInputError, match="0 samples"):
        predictor.predict(observe(), 0)


def test_threads_do_not_disturb_each_other():
    predictor = RoboTracerPredictor(*make("qwen2_5_vl"))
    examples = [example(i, 30 + 20 * i, 60 - 10 * i) for i in range(4)]
    alone = [predictor.answer(e.image, "Where?", K=e.K, depth_m=e.depth_m) for e in examples]
    with ThreadPoolExecutor(4) as pool:
        together = pool.map(lambda e: predictor.answer(e.image, "Where?", K=e.K, depth_m=e.depth_m), examples)
    assert list(together) == alone
    assert len(set(alone)) > 1


def test_a_checkpoint_is_a_predictor_by_its_folder(tmp_path):
    model, processor = make("smolvlm")
    save_robotracer(tmp_path / "mine", model, processor, {"steps": 7})
    predictor = load_predictor(tmp_path / "mine")
    assert isinstance(predictor, RoboTracerPredictor)
    assert predictor.name == "mine"
    said = json.loads(json.dumps(predictor.describe()))
    assert (said["kind"], said["family"], said["training"]) == ("robotracer", "smolvlm", {"steps": 7})
    total = sum(p.numel() for p in model.parameters())
    assert said["parameters"].pop("total") == predictor.num_parameters == total
    assert sum(said["parameters"].values()) == total
    one, two = (predictor.predict(observe(), 3, seed=5) for _ in range(2))
    np.testing.assert_array_equal(one.uvz, two.uvz)
    e = example(0)
    words = predictor.answer(e.image, "Where?", K=e.K, depth_m=e.depth_m, world_from_cam=e.world_from_cam)
    assert words == predictor.answer(e.image, "Where?", K=e.K, depth_m=e.depth_m, world_from_cam=e.world_from_cam)
    assert predictor.scale(e) == pytest.approx(float(model.generate(**processor.generation_batch([e])).scale_m))
    with pytest.raises(InvalidInputError, match="another size"):
        predictor.answer(e.image, "Where?", depth_m=np.ones((3, 3)))
