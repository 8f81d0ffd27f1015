"""`POST /query` over real sockets: both published shapes, our metric depth, our own client, refusals, limits."""

import base64
import dataclasses
import io
import json
import socket
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image
from query_toys import Slide, Speaker, query_server

from traceworld.errors import ConfigError
from traceworld.models import load_predictor
from traceworld.models.remote.robotracer import RoboTracerOptions
from traceworld.models.remote.robotracer import RoboTracerPredictor as Client
from traceworld.serving.query_app import GREETING, QueryServerConfig, build_query_app
from traceworld.traces.types import Observation

rng = np.random.default_rng(0)
IMAGE = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
DEPTH_MM = rng.integers(0, 3000, (12, 16), dtype=np.uint16)
K = [[10.0, 0, 8.0], [0, 10.0, 6.0], [0, 0, 1]]


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def png(array):
    data = io.BytesIO()
    Image.fromarray(array).save(data, "PNG")
    return data.getvalue()


def text(data):
    return base64.b64encode(data).decode()


def send(url, body, **headers):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/query", data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def as_base64(**changes):
    """RoboRefer's request, every field of it."""
    base = {"image_url": [text(png(IMAGE))], "depth_url": [], "enable_depth": 0, "text": "Where?"}
    return {name: value for name, value in (base | changes).items() if value is not ...}


def as_paths(folder, **changes):
    """The request of RoboTracer's own client, every field of it."""
    (folder / "rgb.png").write_bytes(png(IMAGE))
    (folder / "depth.png").write_bytes(png(DEPTH_MM))
    base = {"image_paths": [str(folder / "rgb.png")], "depth_z_paths": [str(folder / "depth.png")]}
    base |= {"intrinsics": K, "enable_spatial": 1, "text": "Where?"}
    return {name: value for name, value in (base | changes).items() if value is not ...}


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    with query_server(Speaker(), folder=folder) as (url, service):
        yield url, service.predictor, folder


def test_roborefers_shape(running):
    url, speaker, _ = running
    assert send(url, as_base64()) == (200, {"result": 1, "answer": speaker.words})
    seen = speaker.seen[-1]
    np.testing.assert_array_equal(seen["image"], IMAGE)
    assert (seen["text"], seen["K"], seen["depth_m"], seen["seed"]) == ("Where?", None, None, 0)
    grey = text(png(rng.integers(0, 256, (12, 16), dtype=np.uint8)))
    status, answer = send(url, as_base64(depth_url=[grey], enable_depth=1))
    assert (status, answer["ignored"]) == (200, ["depth_url", "enable_depth"]), "what changes nothing is said"
    assert speaker.seen[-1]["depth_m"] is None


def test_robotracers_shape(running):
    url, speaker, folder = running
    assert send(url, as_paths(folder)) == (200, {"answer": speaker.words})
    seen = speaker.seen[-1]
    np.testing.assert_array_equal(seen["image"], IMAGE)
    np.testing.assert_array_equal(seen["K"], K)
    known = DEPTH_MM > 0
    np.testing.assert_allclose(seen["depth_m"][known], DEPTH_MM[known] / 1000)
    assert np.isnan(seen["depth_m"][~known]).all()
    send(url, as_paths(folder, depth_z_paths=None, intrinsics=None, enable_spatial=0))
    assert speaker.seen[-1]["K"] is None
    _, answer = send(url, as_paths(folder, enable_spatial=0))
    assert answer["ignored"] == ["intrinsics", "depth_z_paths"]
    assert speaker.seen[-1]["depth_m"] is None
    four = np.eye(4)
    four[:3, :3] = K
    send(url, as_paths(folder, intrinsics=four.tolist()))
    np.testing.assert_array_equal(speaker.seen[-1]["K"], K)


def test_metric_depth_in_base64(running):
    url, speaker, _ = running
    status, answer = send(url, as_base64(depth_mm_url=[text(png(DEPTH_MM))], intrinsics=K, seed=7))
    assert (status, answer) == (200, {"result": 1, "answer": speaker.words})
    seen = speaker.seen[-1]
    np.testing.assert_allclose(np.nan_to_num(seen["depth_m"]), DEPTH_MM / 1000)
    assert seen["seed"] == 7


def test_greeting_and_health(running):
    url, _, _ = running
    for path, words in (("/", GREETING), ("/healthz", "OK\n")):
        with urllib.request.urlopen(url + path, timeout=60) as reply:
            assert reply.read().decode() == words
    with urllib.request.urlopen(url + "/metrics", timeout=60) as reply:
        assert b"traceworld_requests_total" in reply.read()
    with urllib.request.urlopen(url + "/openapi.json", timeout=60) as reply:
        assert "depth_mm_url" in json.loads(reply.read())["components"]["schemas"]["QueryRequest"]["properties"]


WRONG = {
    "wrong base64": ({"image_url": ["@@@"]}, 400, "image_url", "base64"),
    "no picture": ({"image_url": [text(b"words")]}, 400, "image_url", "PNG"),
    "cut short": ({"image_url": [text(png(IMAGE)[:200])]}, 400, "image_url", "damaged"),
    "none": ({"image_url": []}, 400, "image_url", "0 of them"),
    "two": ({"image_url": [text(png(IMAGE))] * 2}, 400, "image_url", "2 of them"),
    "no shape at all": ({"image_url": ...}, 400, "image_url, image_paths", "either"),
    "both shapes": ({"image_paths": ["/x"]}, 400, "image_url, image_paths", "either"),
    "mixed shapes": ({"depth_z_paths": ["/x"]}, 400, "depth_z_paths", "image_paths"),
    "two depths": ({"depth_url": [text(png(IMAGE))] * 2}, 400, "depth_url", "2 depth maps"),
    "8-bit metric depth": ({"depth_mm_url": [text(png(IMAGE))]}, 400, "depth_mm_url", "mode RGB"),
    "small depth": ({"depth_mm_url": [text(png(DEPTH_MM[:5]))]}, 400, "depth_mm_url", "16×5"),
    "no text": ({"text": ...}, 422, "text", "required"),
    "blank text": ({"text": "  "}, 400, "text", "blank"),
    "long text": ({"text": "x" * 20_000}, 422, "text", "characters"),
    "text is a number": ({"text": 3}, 422, "text", "string"),
    "pictures are a string": ({"image_url": "abc"}, 422, "image_url", "list"),
    "a switch is 2": ({"enable_depth": 2}, 422, "enable_depth", "0 or 1"),
    "unknown field": ({"image_urls": []}, 422, "image_urls", "not permitted"),
    "a flat matrix": ({"intrinsics": [1, 2, 3]}, 422, "intrinsics.0", "list"),
    "an odd matrix": ({"intrinsics": [[1, 0, 0], [0, 1, 0], [0, 0, 1, 0]]}, 400, "intrinsics", "square"),
    "no focal length": ({"intrinsics": [[0, 0, 0], [0, 1, 0], [0, 0, 1]]}, 400, "intrinsics", "camera"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_requests_are_told_what_is_wrong(running, name):
    changes, status, where, words = WRONG[name]
    found, answer = send(running[0], as_base64(**changes))
    assert (found, answer["error"]["where"]) == (status, where), answer
    assert words in f"{answer['error']['message']} {answer['error']['mend']}"
    assert answer["error"]["kind"] == "invalid_request"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"null", b"[" * 20_000, b"\xff\xfe"])
def test_what_is_no_json_object_is_refused(running, body):
    status, answer = send(running[0], body)
    assert 400 <= status < 500
    assert answer["error"]["kind"] == "invalid_request"


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../{outside}", "{root}/../{outside}", "{root}/none.png", "{root}", "/dev/zero"]
)
def test_paths_outside_of_the_folder_are_refused_alike(running, path, tmp_path):
    url, speaker, folder = running
    (folder.parent / "outside.png").write_bytes(png(IMAGE))
    before = len(speaker.seen)
    named = path.format(root=folder, outside="outside.png")
    for changes in ({"image_paths": [named]}, {"depth_z_paths": [named]}):
        status, answer = send(url, as_paths(folder, **changes))
        assert (status, answer["error"]["message"]) == (400, "is no file of the folder that this server reads")
    assert len(speaker.seen) == before


def test_without_a_folder_no_file_is_read(tmp_path):
    with query_server(Speaker()) as (url, _):
        status, answer = send(url, as_paths(tmp_path))
        assert (status, answer["error"]["message"]) == (400, "this server reads no files")
        assert "image_url" in answer["error"]["mend"]
    with pytest.raises(ConfigError, match="no folder"):
        build_query_app(Speaker(), QueryServerConfig(folder=tmp_path / "nowhere"))
    assert QueryServerConfig().host == "127.0.0.1"
    with pytest.raises(ConfigError, match="one by one"):
        QueryServerConfig(max_batch=2)


def test_a_hundred_megabytes_are_refused_before_they_are_sent(running):
    """The answer is there when the headers and a little of the body have been sent; in chunks, when the limit is passed."""
    url, _, _ = running
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as wire:
        wire.sendall(
            b"POST /query HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000000\r\n\r\n{"
        )
        assert wire.recv(4096).startswith(b"HTTP/1.1 413 ")
    with query_server(Speaker(), max_request_bytes=1000) as (small, service):
        status, answer = send(small, as_base64(text="x" * 900))
        assert (status, answer["error"]["kind"]) == (413, "too_large")
        assert "1000 bytes" in answer["error"]["mend"]
        host, port = small.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as wire:
            wire.sendall(b"POST /query HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            wire.sendall(b"400\r\n" + b"x" * 1024 + b"\r\n")
            assert wire.recv(4096).startswith(b"HTTP/1.1 413 ")
        assert not service.predictor.seen


def test_a_body_that_never_ends_times_out():
    with query_server(Speaker(), body_timeout_s=0.3) as (url, _):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as wire:
            wire.sendall(b"POST /query HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            assert wire.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_a_key_is_asked_for():
    with query_server(Speaker(), api_key="secret") as (url, _):
        assert send(url, as_base64())[0] == 401
        assert send(url, as_base64(), Authorization="Bearer wrong")[0] == 401
        assert send(url, as_base64(), Authorization="Bearer secret")[0] == 200


def test_the_predictors_faults_and_slowness_are_told(running):
    status, answer = send(running[0], as_base64(text="fail"))
    assert (status, answer["error"]["kind"]) == (500, "failed")
    assert "the predictor's own fault" in answer["error"]["message"]
    speaker = Speaker()
    with query_server(speaker, inference_timeout_s=0.3, max_queue=1) as (url, service):
        speaker.gate.clear()
        status, answer = send(url, as_base64())
        assert (status, answer["error"]["kind"]) == (504, "timeout")
        waiting = threading.Thread(target=send, args=(url, as_base64()))
        service.config = dataclasses.replace(service.config, inference_timeout_s=60.0)
        waiting.start()
        while not service.worker.waiting:
            threading.Event().wait(0.01)
        status, answer = send(url, as_base64())
        assert (status, answer["error"]["kind"]) == (503, "busy")
        with urllib.request.urlopen(url + "/healthz", timeout=60) as reply:
            assert reply.status == 200, "the event loop is free while the predictor works"
        speaker.gate.set()
        waiting.join(60)
        assert service.metrics.counts()["answered"] == 1


def observe(depth=True):
    z = np.where(DEPTH_MM > 0, DEPTH_MM / 1000, np.nan) if depth else None
    uv = np.array([[0.0, 0.0], [0.5, -0.5]])
    return Observation(IMAGE, "open the drawer", z, np.array(K) if depth else None, uv, np.array([1.0, 1.5]))


@pytest.mark.parametrize("shape", ["base64", "paths"])
def test_our_own_client_in_both_shapes(running, shape):
    url, speaker, folder = running
    client = load_predictor(f"robotracer:{url}#shape={shape}&cache=off&folder={folder}")
    prediction = client.predict(observe())
    assert client.usage()["failed"] == 0
    np.testing.assert_allclose(
        prediction.uvz[0, :, -1] - [[0, 0, 1.0], [0.5, -0.5, 1.5]], [[0.2, 0, 0.1]] * 2, atol=1e-6
    )
    seen = speaker.seen[-1]
    np.testing.assert_array_equal(seen["image"], IMAGE)
    assert '"open the drawer"' in seen["text"]
    if shape == "paths":
        np.testing.assert_allclose(np.nan_to_num(seen["depth_m"]), DEPTH_MM / 1000, atol=1e-6)
        np.testing.assert_array_equal(seen["K"], K)


def test_a_trace_predictor_is_served_and_asked_by_our_client(tmp_path):
    """`ask=keypoint`: each keypoint's own trace goes round by words; those right of the middle move."""
    with query_server(Slide(), folder=tmp_path) as (url, _):
        options = RoboTracerOptions(shape="paths", folder=str(tmp_path), ask="keypoint", cache="off", horizon=4)
        client = Client(url, options)
        moved = client.predict(observe()).uvz[0, :, -1] - [[0, 0, 1.0], [0.5, -0.5, 1.5]]
        assert client.usage()["failed"] == 0
    np.testing.assert_allclose(moved[0], 0, atol=2e-3)
    np.testing.assert_allclose(moved[1, :2], [0.5 * 0.1 * 3, 0], atol=3e-3)


def test_a_robotracer_is_served(tmp_path):
    """The model itself behind the socket: the words are those that it says when it is asked directly."""
    from robotracer_toys import make

    from traceworld.models.robotracer.checkpoint import save_robotracer

    save_robotracer(tmp_path / "mine", *make("smolvlm"))
    predictor = load_predictor(tmp_path / "mine")
    depth = np.where(DEPTH_MM > 0, DEPTH_MM / np.float32(1000), np.float32(np.nan))
    expected = predictor.answer(IMAGE, "Where?", K=np.array(K), depth_m=depth)
    blind = predictor.answer(IMAGE, "Where?")
    with query_server(predictor, folder=tmp_path) as (url, _):
        assert send(url, as_paths(tmp_path)) == (200, {"answer": expected})
        given = as_base64(depth_mm_url=[text(png(DEPTH_MM))], intrinsics=K)
        assert send(url, given) == (200, {"result": 1, "answer": expected})
        assert send(url, as_base64())[1]["answer"] == blind
        long = send(url, as_base64(text="?" * 5000))
    assert (long[0], long[1]["error"]["kind"]) == (400, "invalid_request")
