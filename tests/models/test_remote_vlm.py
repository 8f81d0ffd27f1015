"""The vision-language entrant against a real local server: good answers, bad ones, none; what is counted, kept, sent."""

import base64
import json
import time

import cv2
import numpy as np
import pytest
from scripted_chat import breaks_off, drips, drops, never, says, send, sends, serving

from traceworld.errors import ConfigError
from traceworld.models import load_predictor
from traceworld.models.baselines import NothingMoves
from traceworld.models.remote import VlmPredictor
from traceworld.models.remote.vlm import HOPELESS, VlmOptions
from traceworld.traces.types import Observation

UV = np.array([[0.0, 0.0], [0.5, -0.5], [-0.8, 0.2]])
Z = np.array([1.0, 2.0, np.nan])


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def observe(depth=False, history=False, clock="time", step=0.025, K=True):
    return Observation(
        image=np.full((24, 32, 3), 90, np.uint8),
        instruction="open the drawer",
        depth_m=np.linspace(0.5, 2.0, 24 * 32).reshape(24, 32) if depth else None,
        K=np.array([[40.0, 0, 15.5], [0, 40, 11.5], [0, 0, 1]]) if K else None,
        keypoints_uv=UV,
        keypoints_z_m=Z if depth else None,
        history_uvz=np.repeat(np.concatenate([UV, [[1.0], [2.0], [np.nan]]], 1)[:, None], 8, 1) if history else None,
        clock=clock,
        step=step,
    )


def moves(body, du=2, dz=0.01, number=32):
    """A good answer: every keypoint goes right by `du` thousandths of the width per step."""
    now = [[500, 500], [750, 250], [100, 600]]
    metric = "dz" in body["messages"][0]["content"][0]["text"]
    path = [[[u + du * k, v, *([dz * k] if metric else [])] for k in range(1, number + 1)] for u, v in now]
    return json.dumps({"trajectories": [{"id": i, "future": each} for i, each in enumerate(path)]})


def entrant(url, **options):
    quick = {"timeout_s": 5.0, "deadline_s": 10.0, "retries": 2, "backoff_s": 0.01, "cache": "off"}
    return VlmPredictor("test-model", url + "/v1", VlmOptions(**(quick | options)))


def predict(action, observation=None, samples=1, **options):
    with serving(*(action if isinstance(action, list) else [action])) as (url, script):
        predictor = entrant(url, **options)
        prediction = predictor.predict(observation or observe(), num_samples=samples, seed=3)
    return prediction, predictor.usage(), script


def test_a_good_answer_is_followed():
    prediction, usage, script = predict(says(moves), samples=3)
    steps = np.arange(1, 33)
    assert prediction.uvz.shape == (3, 3, 32, 3)
    for sample in prediction.uvz:
        np.testing.assert_allclose(sample[:, :, 0], UV[:, None, 0] + 0.004 * steps, atol=1e-6)
        np.testing.assert_allclose(sample[:, :, 1], np.repeat(UV[:, None, 1], 32, 1), atol=1e-6)
    assert (prediction.uvz[..., 2] == 0).all()
    assert (usage["answers"], usage["failed"], usage["mends"]) == (3, 0, {})
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (300, 21)
    assert script.paths == ["/v1/chat/completions"] * 3
    assert sorted(body["seed"] for body in script.requests) == [3, 4, 5]
    assert {body["model"] for body in script.requests} == {"test-model"}


def test_the_metric_variant_adds_depth():
    prediction, _, script = predict(says(moves), observe(depth=True), space="metric")
    assert entrant("http://x", space="metric").gives_depth
    assert not entrant("http://x").gives_depth
    z = prediction.uvz[0, :, :, 2]
    there = observe(depth=True).depth_m[14, 3]  # not given for the third: that of its pixel
    np.testing.assert_allclose(z, np.array([[1.0], [2.0], [there]]) + 0.01 * np.arange(1, 33), atol=1e-6)
    text = script.requests[0]["messages"][0]["content"][0]["text"]
    assert "[u, v, dz]" in text
    assert "id=0: [500, 500], 1.000 m from the camera" in text
    assert "id=2: [100, 600]\n" in text, "an unknown depth is not told"
    assert "fx=1250 fy=1667 cx=500 cy=500" in text


def test_waypoints_are_joined_by_straight_lines():
    prediction, _, script = predict(says(lambda body: moves(body, du=8, number=4)), waypoints=4)
    assert "steps 8, 16, 24, 32" in script.requests[0]["messages"][0]["content"][0]["text"]
    np.testing.assert_allclose(prediction.uvz[0, 0, :, 0], 0.002 * np.arange(1, 33), atol=1e-6)


def test_what_is_asked_says_what_a_step_is():
    def asked(**options):
        _, _, script = predict(says(moves), observe(**options))
        return script.requests[0]["messages"][0]["content"]

    plain = asked()
    assert "one step is 0.025 s; 32 steps are 0.8 s" in plain[0]["text"]
    assert "Task: open the drawer" in plain[0]["text"]
    assert "exactly 32 waypoints [u, v]" in plain[0]["text"]
    assert [part["type"] for part in plain] == ["text", "image_url"]
    arc = asked(clock="arc", step=0.05)[0]["text"]
    assert "0.05 of the picture's width" in arc
    assert " s." not in arc.split("Steps are")[1].split("\n")[0]
    rich = asked(depth=True, history=True)
    assert len(rich) == 3
    assert "second picture is depth" in rich[0]["text"]
    assert "id=1: [750, 250], [750, 250]" in rich[0]["text"]
    assert "Where they were" not in plain[0]["text"]


def test_the_picture_that_is_sent_shows_the_numbered_points():
    _, _, script = predict(says(moves))
    url = script.requests[0]["messages"][0]["content"][1]["image_url"]["url"]
    assert url.startswith("data:image/png;base64,")
    image = cv2.imdecode(np.frombuffer(base64.b64decode(url.split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (576, 768, 3)
    magenta = (image == [255, 0, 255]).all(-1)
    for u, v in UV:
        x, y = int((u + 1) / 2 * 768), int((v + 1) / 2 * 576)
        assert magenta[max(0, y - 12) : y + 12, max(0, x - 12) : x + 12].any()


@pytest.mark.parametrize(
    ("action", "failure"),
    [
        (says("I'm sorry, I can't help with that."), "refusal"),
        (says("", refusal="no"), "refusal"),
        (says("It will open."), "unparsable"),
        (says(""), "empty"),
        (says(None), "empty"),
        (sends(200, {"choices": []}), "not_a_completion"),
        (sends(200, [1, 2]), "not_a_completion"),
        (sends(200, b"<html>"), "not_json"),
        (sends(429), "http_429"),
        (sends(500), "http_500"),
        (sends(400, {"error": {"code": "content_filter", "message": "blocked"}}), "refusal"),
        (drops, "connection"),
        (breaks_off, "connection"),
    ],
)
def test_failures_are_counted_and_scored_as_nothing_moves(action, failure):
    prediction, usage, _ = predict(action, samples=2)
    assert usage["failures"] == {failure: 2}
    assert (usage["answers"], usage["failed"]) == (2, 2)
    np.testing.assert_array_equal(prediction.uvz, NothingMoves().predict(observe(), num_samples=2).uvz)


@pytest.mark.parametrize("hung", [never, drips])
def test_a_slow_server_is_a_failure_after_the_deadline(hung):
    started = time.monotonic()
    prediction, usage, _ = predict(hung, samples=2, timeout_s=0.3, deadline_s=0.5, retries=9)
    assert time.monotonic() - started < 30
    assert usage["failures"] == {"timeout": 2}
    assert (prediction.uvz == prediction.uvz[:, :, :1]).all()


@pytest.mark.parametrize("bad", [sends(429, Retry_After="0"), sends(500), sends(503), drops])
def test_what_passes_is_no_failure(bad):
    _, usage, script = predict([bad, bad, says(moves)])
    assert usage["failed"] == 0
    assert len(script.requests) == 3


@pytest.mark.parametrize(
    ("text", "mends"),
    [
        ("Keypoint 0: (510, 500), (520, 500)\nKeypoint 1: (700, 250)\nKeypoint 2: (100, 600)", {"padded": 3}),
        (lambda body: moves(body, number=40), {"cut": 3}),
        (lambda body: moves(body, du=50), {"clipped": 3}),
        (lambda body: json.dumps({"0": [[510, 500]] * 32}), {"missing": 2}),
    ],
)
def test_mends_are_counted_and_are_no_failures(text, mends):
    prediction, usage, _ = predict(says(text))
    assert usage["mends"] == mends
    assert usage["failed"] == 0
    assert np.abs(prediction.uvz[..., :2]).max() <= 1 + 1e-6
    if "missing" in mends:
        np.testing.assert_allclose(prediction.uvz[0, 1:, :, :2], np.repeat(UV[1:, None], 32, 1), atol=1e-6)


def test_answers_are_kept_and_failures_are_not(tmp_path):
    with serving(sends(500), says(moves)) as (url, script):
        options = {"cache": str(tmp_path / "kept"), "retries": 0, "parallel": 1}
        first = entrant(url, **options)
        assert (first.predict(observe(), 2).uvz[0] == NothingMoves().predict(observe()).uvz[0]).all()
        assert first.usage()["failures"] == {"http_500": 1}
        second = entrant(url, **options)
        whole = second.predict(observe(), 2)
        assert (len(script.requests), second.usage()["cached"]) == (3, 1)
    third = entrant(url, **options)  # the server is gone
    np.testing.assert_array_equal(third.predict(observe(), 2).uvz, whole.uvz)
    usage = third.usage()
    assert (usage["cached"], usage["failed"], usage["prompt_tokens"]) == (2, 0, 200)
    for file in (tmp_path / "kept").rglob("*.json"):
        file.write_text("{")
    damaged = entrant(url, **options)
    damaged.predict(observe(), 2)
    assert damaged.usage()["failures"] == {"connection": 2}


def test_kept_answers_belong_to_model_prompt_picture_and_seed(tmp_path):
    def asked(observation, seed=0, model="a", **options):
        predictor = entrant(url, cache=str(tmp_path / "kept"), **options)
        predictor.model_name = model
        before = len(script.requests)
        predictor.predict(observation, 1, seed)
        return len(script.requests) - before

    with serving(says(moves)) as (url, script):
        assert asked(observe()) == 1
        assert asked(observe()) == 0
        assert asked(observe(), seed=1) == 1
        assert asked(observe(), model="b") == 1
        assert asked(observe(clock="arc")) == 1
        assert asked(observe(), temperature=0.5) == 1
        other = observe()
        other.image[3, 3] = 200
        assert asked(other) == 1


def test_fields_that_a_server_does_not_know_are_left_out():
    def strict(handler, body):
        if "seed" in body:
            send(handler, 400, {"error": {"message": "Unsupported parameter: seed"}})
        else:
            says(moves)(handler, body)

    _, usage, script = predict(strict, samples=3, temperature=1.0, parallel=1)
    assert usage["failed"] == 0
    assert [("seed" in body) for body in script.requests] == [True, False, False, False]


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_wrong_address_or_key_is_said_at_once(status, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    refused = sends(status, {"error": {"message": "bad key sk-very-secret"}})
    with pytest.raises(ConfigError, match=f"{status}.*bad key \\*\\*\\*") as caught:
        predict(refused)
    assert "secret" not in str(caught.value)


def test_after_the_first_answer_a_refused_request_is_one_failure():
    _, usage, _ = predict([says(moves), sends(400)], samples=2, parallel=1)
    assert usage["failures"] == {"http_400": 1}


def test_a_dead_server_is_given_up():
    with serving(drops) as (url, script):
        predictor = entrant(url, retries=0)
        for _ in range(3):
            predictor.predict(observe(), num_samples=8)
        assert len(script.requests) <= HOPELESS + 8
        assert predictor.usage()["failures"]["gave_up"] >= 6


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    monkeypatch.setenv("OTHER_KEY", "other")
    caplog.set_level("DEBUG")
    _, usage, script = predict(says(moves), cache=str(tmp_path / "kept"))
    assert script.headers[0]["Authorization"] == "Bearer sk-very-secret"
    assert "secret" not in json.dumps(script.requests) + json.dumps(usage) + caplog.text
    kept = [file.read_text() for file in (tmp_path / "kept").rglob("*.json")]
    assert kept
    assert not any("secret" in text for text in kept)
    _, _, script = predict(says(moves), key_env="OTHER_KEY")
    assert script.headers[0]["Authorization"] == "Bearer other"
    away = VlmPredictor("m", "http://far.example/v1", VlmOptions(cache="off"))
    assert away._headers() == {}, "not over an open line"
    assert VlmPredictor("m", "https://far.example/v1")._headers()
    assert VlmPredictor("m", "http://far.example/v1", VlmOptions(key_env="OTHER_KEY"))._headers()


def test_cost():
    with serving(says(moves)) as (url, _):
        predictor = entrant(url, usd_in=2.0, usd_out=10.0)
        predictor.predict(observe())
    usage = predictor.usage()
    assert usage["cost_usd"] == pytest.approx((100 * 2 + 7 * 10) / 1e6)
    assert usage["seconds_per_answer"] > 0
    assert predictor.usage()["answers"] == 0
    assert predictor.usage()["cost_usd"] == 0


def test_addresses():
    predictor = load_predictor(
        "openai:org/model@v2@http://localhost:8000/v1/#space=metric&waypoints=8&json=1&temperature=0"
    )
    assert isinstance(predictor, VlmPredictor)
    assert (predictor.model_name, predictor.url) == ("org/model@v2", "http://localhost:8000/v1")
    assert predictor.options == VlmOptions(space="metric", waypoints=8, json=1, temperature=0.0)
    for wrong in (
        "openai:model",
        "openai:@http://x",
        "openai:m@ftp://x",
        "openai:m@http://",
        "openai:m@https://user:pw@x/v1",
        "openai:m@http://x#colour=red",
        "openai:m@http://x#waypoints=many",
        "openai:m@http://x#waypoints=0",
        "openai:m@http://x#space=4d",
        "openai:m@http://x#timeout_s=0",
    ):
        with pytest.raises(ConfigError):
            load_predictor(wrong)
    with pytest.raises(ConfigError) as caught:
        load_predictor("openai:m@https://user:pw@x/v1")
    assert "pw" not in str(caught.value)
