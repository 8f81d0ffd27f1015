"""Captions over HTTP against a real server that behaves, or does not. No test depends on how fast it is."""

import json
import os
import random

import numpy as np
import pytest
from scripted_chat import GOOD, drips, drops, fails, says, sends, serving

from traceworld.errors import ConfigError, ExtractionError
from traceworld.perception import registry
from traceworld.perception.backends.endpoint import EndpointCaptioner, RateLimit
from traceworld.perception.http_json import Patience, post_json
from traceworld.perception.interfaces import Caption, CaptionRequest, PartMotion
from traceworld.perception.language_captioner import FALLBACK

PART = PartMotion(0, 5, (0.1, 0.0, 0.0), 0.12, True, (0.0, 0.0), (0.5, 0.0))
IMAGES = tuple(np.full((60, 80, 3), level, np.uint8) for level in (40, 120, 200))
TEXT = json.dumps(GOOD)
QUICK = {"backoff_s": 0.001, "cache": "off"}


def request(images=IMAGES, **changes):
    return CaptionRequest((PART,), 0.0, 2.0, 0, 2, images=images, **changes)


def captioner(url, **options):
    return EndpointCaptioner(f"some/model@{url}/v1", **{**QUICK, **options})


def test_a_good_answer_and_what_was_asked(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with serving(says(TEXT)) as (url, script):
        caption = captioner(url, temperature=0.2, max_tokens=300, json=True).caption(request(task="tidy"))
    assert (caption.caption, caption.before, caption.interaction, caption.change) == (
        GOOD["caption"], GOOD["before"], GOOD["interaction"], GOOD["change"],
    )  # fmt: skip
    assert caption.source == "openai:some/model"
    assert caption.extra["raw"] == [TEXT]
    asked = script.requests[0]
    assert (asked["model"], asked["temperature"], asked["max_tokens"]) == ("some/model", 0.2, 300)
    assert asked["response_format"] == {"type": "json_object"}
    kinds = [part["type"] for part in asked["messages"][0]["content"]]
    assert kinds == ["text", "image_url", "image_url", "image_url"]
    assert script.headers[0]["Authorization"] == "Bearer sk-secret"


@pytest.mark.parametrize("bad", [fails(429), fails(429, Retry_After="0"), fails(500), fails(503), drops])
def test_what_may_pass_is_asked_again(bad):
    with serving(bad, bad, says(TEXT)) as (url, script):
        assert captioner(url).caption(request()).caption == GOOD["caption"]
    assert len(script.requests) == 3


def test_a_server_that_never_gets_well_fails_the_clip_and_is_not_called_done():
    with serving(fails(500)) as (url, script):
        with pytest.raises(ExtractionError, match="3 attempts: http_500"):
            captioner(url, retries=2).caption(request())
        assert len(script.requests) == 3


def test_an_answer_that_drips_for_ever_is_cut_off():
    with serving(drips) as (url, _), pytest.raises(ExtractionError, match="timeout"):
        captioner(url, retries=0, timeout_s=0.4).caption(request())


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_wrong_key_or_address_is_said_at_once_without_the_key(status, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with serving(fails(status, "bad key sk-secret")) as (url, script):
        with pytest.raises(ConfigError) as caught:
            captioner(url).caption(request())
        assert len(script.requests) == 1
    assert "sk-secret" not in str(caught.value)
    assert "OPENAI_API_KEY" in str(caught.value)


@pytest.mark.parametrize(
    "bad", [says("The hand moves a cup."), says(TEXT[:40]), sends(200, b"<html>busy</html>"), sends(200, {})]
)
def test_one_repair_is_asked_for_and_used(bad):
    with serving(bad, says(TEXT)) as (url, script):
        caption = captioner(url).caption(request())
    assert caption.caption == GOOD["caption"]
    assert caption.extra["attempts"] == 2
    assert len(caption.extra["raw"]) == 2
    words = script.requests[1]["messages"][0]["content"][0]["text"]
    assert "could not be read" in words


@pytest.mark.parametrize("merging", [False, True])
def test_after_one_repair_the_template_speaks_and_says_so(merging):
    with serving(says("I would rather write prose.")) as (url, script):
        backend = captioner(url)
        parts = [Caption("c", "b", f"i{n}", "d", "s") for n in range(2)]
        caption = backend.merge(parts, "tidy") if merging else backend.caption(request())
    assert caption.source == FALLBACK
    assert caption.extra["raw"] == ["I would rather write prose."] * 2
    assert caption.caption == ("tidy: i0; then i1" if merging else caption.interaction)
    assert len(script.requests) == 2


def test_merging_is_text_alone_and_may_use_another_model():
    with serving(says(TEXT)) as (url, script):
        backend = captioner(url, merge_model="small")
        merged = backend.merge([Caption("c", "b", "first", "d", "s"), Caption("c", "b", "second", "d", "s")], "tidy")
    assert merged.caption == GOOD["caption"]
    asked = script.requests[0]
    assert asked["model"] == "small"
    assert isinstance(asked["messages"][0]["content"], str)
    assert "first" in asked["messages"][0]["content"]


def test_answers_are_kept_by_content(tmp_path):
    with serving(says(TEXT)) as (url, script):
        first = captioner(url, cache=str(tmp_path))
        caption = first.caption(request())
        assert captioner(url, cache=str(tmp_path)).caption(request()) == caption
        assert len(script.requests) == 1
        others = [request(task="other"), request(IMAGES[::-1]), request(motion_mask=np.ones((60, 80), bool))]
        for number, other in enumerate(others):  # another task, other pictures, another overlay
            first.caption(other)
            assert len(script.requests) == number + 2
        captioner(url, cache=str(tmp_path), temperature=0.7).caption(request())
        assert len(script.requests) == 5


def test_an_answer_that_could_not_be_read_is_not_kept(tmp_path):
    with serving(says("prose"), says("prose"), says(TEXT)) as (url, _):
        backend = captioner(url, cache=str(tmp_path))
        assert backend.caption(request()).source == FALLBACK
        assert backend.caption(request()).caption == GOOD["caption"]


def test_three_instructions_come_along_in_the_style_of_traceforge():
    three = {
        "instruction_1": "Move the cup.",
        "instruction_2": "Grasp, lift, place.",
        "instruction_3": "Put it over there?",
    }
    with serving(says(json.dumps({**GOOD, **three}))) as (url, _):
        caption = captioner(url, style="traceforge").caption(request())
    assert caption.extra["instructions"] == three


def test_the_key_goes_nowhere_else(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("OTHER", "sk-other")
    far = EndpointCaptioner("m@http://example.org/v1", cache="off")
    assert far._headers() == {}
    assert EndpointCaptioner("m@https://example.org/v1", cache="off")._headers() == {
        "Authorization": "Bearer sk-secret"
    }
    named = EndpointCaptioner("m@http://example.org/v1", cache="off", key_env="OTHER")
    assert named._headers() == {"Authorization": "Bearer sk-other"}


@pytest.mark.parametrize("address", ["", "model", "model@ftp://x", "@http://x", "m@http://user:pass@x/v1"])
def test_an_address_that_is_none_is_refused_and_never_repeated(address):
    with pytest.raises(ConfigError) as caught:
        EndpointCaptioner(address, cache="off")
    assert "pass" not in str(caught.value)


def test_the_command_line_form(tmp_path):
    with serving(says(TEXT)) as (url, _):
        text = f"openai:some/model@{url}/v1#style=structured&per_minute=6000&cache={tmp_path}"
        assert registry.create("captions", text).caption(request()).caption == GOOD["caption"]
    with pytest.raises(ConfigError, match="no_such"):
        registry.create("captions", f"openai:m@{url}/v1#no_such=1")


def test_requests_are_spaced_by_the_limit():
    now, slept = [0.0], []

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    limit = RateLimit(120.0, lambda: now[0], sleep)
    for _ in range(3):
        limit.wait()
    np.testing.assert_allclose(slept, [0.5, 0.5])
    now[0] += 10
    limit.wait()
    assert len(slept) == 2
    RateLimit(0.0, lambda: now[0], sleep).wait()
    assert len(slept) == 2


def test_pauses_double_and_chance_adds_up_to_the_jitter(monkeypatch):
    pauses = []
    monkeypatch.setattr("traceworld.perception.http_json.time.sleep", pauses.append)
    with serving(fails(500)) as (url, _):
        post_json(url, {}, {}, Patience(retries=3, backoff_s=1.0, jitter=0.5), random.Random(3))
    expected = random.Random(3)
    np.testing.assert_allclose(pauses, [2**k * (1 + 0.5 * expected.random()) for k in range(3)])


def test_the_cache_folder_may_be_named_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("TRACEWORLD_CAPTION_CACHE", str(tmp_path))
    with serving(says(TEXT)) as (url, _):
        EndpointCaptioner(f"m@{url}", backoff_s=0.001).caption(request())
    assert sum(len(files) for _, _, files in os.walk(tmp_path)) == 1
