"""RoboTracer's HTTP API in both published shapes, against a local server that checks what it is sent."""

import base64
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from scripted_chat import drops, never, send, sends, serving

from traceworld.errors import ConfigError
from traceworld.models import load_predictor
from traceworld.models.baselines import NothingMoves
from traceworld.models.remote.robotracer import RoboTracerOptions, RoboTracerPredictor, along, trace_path
from traceworld.traces.types import Observation

UV = np.array([[0.0, 0.0], [0.5, -0.5]])
K = np.array([[40.0, 0, 15.5], [0, 40, 11.5], [0, 0, 1]])


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def observe(depth=True, clock="time", step=0.025):
    return Observation(
        image=np.arange(24 * 32 * 3, dtype=np.uint8).reshape(24, 32, 3),
        instruction="open the drawer",
        depth_m=np.linspace(0.5, 2.0, 24 * 32).reshape(24, 32) if depth else None,
        K=K if depth else None,
        keypoints_uv=UV,
        keypoints_z_m=np.array([1.0, 1.5]) if depth else None,
        clock=clock,
        step=step,
    )


def answers(text, result=1):
    return lambda handler, body: send(
        handler, 200, {"answer": text} if result is None else {"result": result, "answer": text}
    )


def ask(action, observation=None, samples=1, **options):
    quick = {"timeout_s": 5.0, "deadline_s": 10.0, "retries": 1, "backoff_s": 0.01, "cache": "off"}
    with serving(action) as (url, script):
        predictor = RoboTracerPredictor(url, RoboTracerOptions(**(quick | options)))
        prediction = predictor.predict(observation or observe(), num_samples=samples, seed=1)
    return prediction, predictor.usage(), script


def test_the_base64_shape():
    _, usage, script = ask(answers("[(500, 500, 1.0), (600, 500, 1.2)]"))
    body = script.requests[0]
    assert script.paths == ["/query"]
    assert set(body) == {"image_url", "depth_url", "enable_depth", "text"}
    image = cv2.imdecode(np.frombuffer(base64.b64decode(body["image_url"][0]), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(image[..., ::-1], observe().image)
    depth = cv2.imdecode(np.frombuffer(base64.b64decode(body["depth_url"][0]), np.uint8), cv2.IMREAD_UNCHANGED)
    assert depth.dtype == np.uint8
    assert depth[0, 0] == 255, "near is bright"
    assert depth[-1, -1] == 0
    assert body["enable_depth"] == 1
    assert '"open the drawer"' in body["text"]
    assert "(x1, y1, d1)" in body["text"]
    assert usage["failed"] == 0
    _, _, script = ask(answers("[(1, 2), (3, 4)]"), observe(depth=False), space="image")
    assert (script.requests[0]["depth_url"], script.requests[0]["enable_depth"]) == ([], 0)
    assert "(x1, y1), " in script.requests[0]["text"]


def test_the_paths_shape(tmp_path):
    seen = {}

    def look(handler, body):
        seen["rgb"] = cv2.imread(body["image_paths"][0])[..., ::-1]
        seen["depth"] = cv2.imread(body["depth_z_paths"][0], cv2.IMREAD_UNCHANGED)
        answers("[(500, 500, 1.0), (600, 500, 1.0)]", result=None)(handler, body)

    _, usage, script = ask(look, shape="paths", folder=str(tmp_path))
    body = script.requests[0]
    assert set(body) == {"image_paths", "depth_z_paths", "intrinsics", "enable_spatial", "text"}
    assert Path(body["image_paths"][0]).is_absolute()
    np.testing.assert_array_equal(seen["rgb"], observe().image)
    assert seen["depth"].dtype == np.uint16
    np.testing.assert_allclose(seen["depth"] / 1000, observe().depth_m, atol=6e-4)
    assert body["intrinsics"] == K.tolist()
    assert body["enable_spatial"] == 1
    assert usage["failed"] == 0
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"
    ask(drops, shape="paths", folder=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_trace_moves_every_keypoint_alike_over_the_horizon():
    prediction, _, _ = ask(answers("The trace: [(500, 500, 1.0), (600, 500, 1.1), (700, 500, 1.2)]"), samples=2)
    steps = np.arange(1, 33) / 32
    expected = np.array([[*UV[0], 1.0], [*UV[1], 1.5]])[:, None] + steps[:, None] * [0.4, 0.0, 0.2]
    np.testing.assert_allclose(prediction.uvz, np.stack([expected] * 2), atol=1e-6)


def test_on_the_arc_clock_a_trace_keeps_its_length():
    prediction, _, _ = ask(answers("[(500, 500, 1.0), (600, 500, 1.0)]"), observe(clock="arc", step=0.01))
    moved = prediction.uvz[0, 0, :, 0]  # a tenth of the width, 0.01 per step: ten steps, then it holds
    np.testing.assert_allclose(moved[:10], 0.02 * np.arange(1, 11), atol=1e-6)
    np.testing.assert_allclose(moved[10:], 0.2, atol=1e-6)


def test_lengths_are_measured_in_widths():
    path = np.array([[0.0, 0.0, 1.0], [0.0, 0.4, 1.0]])  # 0.2 of a height of half the width: 0.1 widths
    np.testing.assert_allclose(along(path, 20, 0.01, 0.5)[[4, 9, 19], 1], [0.2, 0.4, 0.4])
    inward = np.array([[0.1, 0.1, 1.0], [0.1, 0.1, 0.5]])
    np.testing.assert_allclose(along(inward, 2, 0.01, 1.0), [[0, 0, -0.25], [0, 0, -0.5]])


def test_one_question_per_keypoint():
    def by_place(handler, body):
        text = "[(500, 500), (600, 500)]" if "(500, 500)" in body["text"] else "[(750, 250), (750, 350)]"
        answers(text)(handler, body)

    prediction, usage, script = ask(by_place, space="image", ask="keypoint")
    assert (len(script.requests), usage["answers"]) == (2, 2)
    np.testing.assert_allclose(prediction.uvz[0, :, -1, :2] - UV, [[0.2, 0.0], [0.0, 0.2]], atol=1e-6)


@pytest.mark.parametrize(
    ("action", "failure"),
    [
        (answers("I see no drawer."), "unparsable"),
        (answers("[(500, 500, 1.0)]"), "unparsable"),
        (answers(""), "empty"),
        (answers("[(1, 2), (3, 4)]", result=0), "no_answer"),
        (sends(200, {"reply": "?"}), "no_answer"),
        (sends(500), "http_500"),
        (sends(429), "http_429"),
        (drops, "connection"),
        (never, "timeout"),
    ],
)
def test_failures_are_counted_and_nothing_moves(action, failure):
    limits = {"timeout_s": 0.3, "deadline_s": 0.5} if failure == "timeout" else {}
    prediction, usage, _ = ask(action, **limits)
    assert usage["failures"] == {failure: 1}
    np.testing.assert_array_equal(prediction.uvz, NothingMoves().predict(observe()).uvz)


def test_depths_and_places_are_mended_and_counted():
    mends = Counter()
    path = trace_path([[0.0, 0.0], [1200.0, 500.0, 1.0], [500.0, 500.0], [500.0, 500.0, 50.0]], True, mends)
    np.testing.assert_allclose(path[:, 2], [1.0, 1.0, 1.0, 20.0])
    assert path[1, 0] == 1
    assert mends == {"no_depth": 1, "clipped": 1}
    flat = trace_path([[0.0, 0.0, 3.0], [500.0, 500.0, 4.0]], False, mends := Counter())
    assert flat[:, 2].tolist() == [0, 0]
    assert not +mends


def test_kept_answers(tmp_path):
    options = {"cache": str(tmp_path / "kept")}
    with serving(answers("[(500, 500, 1.0), (600, 500, 1.0)]")) as (url, script):
        first, second = (RoboTracerPredictor(url, RoboTracerOptions(**options)) for _ in range(2))
        a, b = first.predict(observe(), 2), second.predict(observe(), 2)
    np.testing.assert_array_equal(a.uvz, b.uvz)
    assert len(script.requests) == 2
    assert second.usage()["cached"] == 2


def test_addresses(tmp_path):
    predictor = load_predictor(f"robotracer:http://localhost:25547#shape=paths&folder={tmp_path}&ask=keypoint")
    assert isinstance(predictor, RoboTracerPredictor)
    assert (predictor.url, predictor.options.ask, predictor.gives_depth) == ("http://localhost:25547", "keypoint", True)
    for wrong in (
        "shape=paths",
        "shape=paths&folder=/no/such/folder",
        "shape=video",
        "space=4d",
        "ask=all",
        "retries=-1",
    ):
        with pytest.raises(ConfigError):
            load_predictor(f"robotracer:http://localhost:25547#{wrong}")
