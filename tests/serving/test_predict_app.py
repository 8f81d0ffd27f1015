"""The prediction server over real sockets: both forms of questions, refusals, batches, limits, shutdown."""

import base64
import contextlib
import io
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from predict_toys import Flow, FlowOfMany, predict_server

from traceworld.errors import ConfigError
from traceworld.serving.http_app import listen
from traceworld.serving.predict_app import PredictServerConfig

rng = np.random.default_rng(0)
IMAGE = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
DEPTH_MM = rng.integers(0, 3000, (12, 16), dtype=np.uint16)


def encoded(array, kind="PNG"):
    data = io.BytesIO()
    Image.fromarray(array).save(data, kind)
    return data.getvalue()


def text(data):
    return base64.b64encode(data).decode()


def question(**changes):
    base = {"image": text(encoded(IMAGE)), "instruction": "push", "keypoints_px": [[3, 4], [5, 6]]}
    return {key: value for key, value in {**base, **changes}.items() if value is not ...}


def send(url, body, path="/v1/predict", content="application/json", **headers):
    """(status, JSON) of a POST."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    asked = urllib.request.Request(url + path, data, {"Content-Type": content, **headers})
    try:
        with urllib.request.urlopen(asked, timeout=30) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def fetch(url, path):
    with urllib.request.urlopen(url + path, timeout=30) as reply:
        return reply.read().decode()


def form(**parts):
    """A multipart body and its content type; bytes are files, text is a field."""
    body = b""
    for name, value in parts.items():
        kind = f'; filename="{name}.bin"\r\nContent-Type: application/octet-stream' if isinstance(value, bytes) else ""
        data = value if isinstance(value, bytes) else value.encode()
        body += f'--edge\r\nContent-Disposition: form-data; name="{name}"{kind}\r\n\r\n'.encode() + data + b"\r\n"
    return body + b"--edge--\r\n", "multipart/form-data; boundary=edge"


@pytest.fixture(scope="module")
def running():
    with predict_server(Flow()) as (url, service):
        yield url, service


def test_a_question_in_json_is_answered(running):
    url, service = running
    status, answer = send(url, question(num_samples=2, seed=3, clock="arc", step=0.01))
    observation = service.predictor.seen[-1]
    right = Flow.right(observation, 2, 3)
    assert status == 200
    assert np.array_equal(observation.image, IMAGE)
    assert (observation.clock, observation.step, observation.instruction) == ("arc", 0.01, "push")
    assert answer["shape"] == [2, 2, 4, 3]
    assert np.allclose(answer["uvz"], right.uvz, atol=1e-6)
    assert np.array_equal(answer["valid"], right.valid)
    assert (answer["model"], answer["clock"], answer["valid_prob"], answer["text"]) == ("flow", "arc", None, None)
    exact = send(url, question(num_samples=2, seed=3, clock="arc", step=0.01, arrays="base64"))[1]
    assert np.array_equal(np.frombuffer(base64.b64decode(exact["uvz"]), "<f4").reshape(2, 2, 4, 3), right.uvz)
    assert np.array_equal(np.frombuffer(base64.b64decode(exact["valid"]), "u1").reshape(2, 2, 4), right.valid)


def test_everything_of_a_question_reaches_the_predictor(running):
    url, service = running
    asked = question(
        keypoints_px=...,
        keypoints_uv=[[0.5, -0.25], [1, -1]],
        keypoints_z_m=[1.5, None],
        history_uvz=[[[0, 0, 1], [0.1, 0, None]], [[None, None, None], [0, 0, 2]]],
        part_id=[0, -1],
        K=[[10, 0, 8], [0, 10, 6], [0, 0, 1]],
        depth={"encoding": "png16_mm", "data": text(encoded(DEPTH_MM))},
    )
    assert send(url, asked)[0] == 200
    seen = service.predictor.seen[-1]
    assert np.array_equal(seen.keypoints_uv, [[0.5, -0.25], [1, -1]])
    assert np.array_equal(seen.keypoints_z_m, [1.5, np.nan], equal_nan=True)
    assert np.isnan(seen.history_uvz).sum() == 4
    assert seen.part_id.tolist() == [0, -1]
    assert seen.K[0, 2] == 8
    assert np.array_equal(np.nan_to_num(seen.depth_m), (DEPTH_MM / np.float32(1000)))
    assert np.array_equal(np.isnan(seen.depth_m), DEPTH_MM == 0)


def test_depth_may_be_float32(running):
    url, service = running
    depth = (DEPTH_MM / np.float32(777)).astype("<f4")
    depth[0, :3] = [np.nan, np.inf, 0]
    asked = question(depth={"encoding": "float32", "data": text(depth.tobytes()), "shape": [12, 16]})
    assert send(url, asked)[0] == 200
    seen = service.predictor.seen[-1].depth_m
    known = np.isfinite(depth) & (depth > 0)
    assert np.array_equal(seen[known], depth[known])
    assert np.isnan(seen[~known]).all()


def test_a_question_of_files_is_answered_like_one_in_json(running):
    url, _ = running
    rest = {"instruction": "push", "keypoints_px": [[3, 4], [5, 6]], "seed": 3}
    body, kind = form(image=encoded(IMAGE), request=json.dumps(rest), depth=encoded(DEPTH_MM))
    status, answer = send(url, body, "/v1/predict/multipart", kind)
    in_json = send(url, question(seed=3, depth={"encoding": "png16_mm", "data": text(encoded(DEPTH_MM))}))[1]
    assert status == 200
    assert answer == in_json
    depth = DEPTH_MM.astype("<f4") / 1000
    body, kind = form(
        image=encoded(IMAGE), request=json.dumps({**rest, "depth_shape": [12, 16]}), depth=depth.tobytes()
    )
    assert send(url, body, "/v1/predict/multipart", kind)[1] == in_json
    body, kind = form(image=encoded(IMAGE), request=json.dumps({**rest, "sed": 3}))
    status, answer = send(url, body, "/v1/predict/multipart", kind)
    assert (status, answer["error"]["where"]) == (422, "sed")
    body, kind = form(request=json.dumps(rest))
    assert send(url, body, "/v1/predict/multipart", kind)[0] == 422


def test_pictures_of_every_common_kind_are_read(running):
    url, service = running
    jpeg = encoded(np.full((12, 16, 3), 120, np.uint8), "JPEG")
    assert send(url, question(image="data:image/jpeg;base64," + text(jpeg)))[0] == 200
    assert abs(int(service.predictor.seen[-1].image.mean()) - 120) <= 2
    clear = np.dstack([IMAGE, np.full((12, 16), 77, np.uint8)])
    for array, right in ((clear, IMAGE), (IMAGE[..., 0], np.repeat(IMAGE[..., :1], 3, 2))):
        assert send(url, question(image=text(encoded(array))))[0] == 200
        assert np.array_equal(service.predictor.seen[-1].image, right)
    turned = Image.fromarray(IMAGE)
    exif = turned.getexif()
    exif[0x0112] = 6  # stands on its side
    data = io.BytesIO()
    turned.save(data, "PNG", exif=exif)
    assert send(url, question(image=text(data.getvalue())))[0] == 200
    assert np.array_equal(service.predictor.seen[-1].image, np.rot90(IMAGE, -1))


PNG = encoded(IMAGE)


@pytest.mark.parametrize(
    ("changes", "status", "where"),
    [
        ({"image": "?"}, 400, "image"),
        ({"image": text(b"GIF89a")}, 400, "image"),
        ({"image": text(PNG[:60])}, 400, "image"),
        ({"image": text(encoded(IMAGE, "BMP"))}, 400, "image"),
        ({"image": text(encoded(np.zeros((1, 4097), np.uint8)))}, 400, "image"),
        ({"image": text(encoded(DEPTH_MM))}, 400, "image"),
        ({"image": ...}, 422, "image"),
        ({"image": 3}, 422, "image"),
        ({"imgae": "x"}, 422, "imgae"),
        ({"instruction": ""}, 422, "instruction"),
        ({"instruction": "  "}, 400, "Observation.instruction"),
        ({"keypoints_px": ...}, 400, "keypoints"),
        ({"keypoints_uv": [[0, 0]]}, 400, "keypoints"),
        ({"keypoints_px": [[16, 3]]}, 400, "keypoints"),
        ({"keypoints_px": []}, 422, "keypoints_px"),
        ({"keypoints_px": [[1, 2]] * 2049}, 422, "keypoints_px"),
        ({"keypoints_px": [[1, 2, 3]]}, 422, "keypoints_px.0"),
        ({"keypoints_px": [[1, "x"]]}, 422, "keypoints_px.0.1"),
        ({"keypoints_z_m": [1]}, 400, "keypoints_z_m"),
        ({"history_uvz": [[[0, 0, 1]], []]}, 400, "history_uvz"),
        ({"part_id": [2**40, 1]}, 400, "part_id"),
        ({"K": [[1, 2], [3, 4]]}, 400, "K"),
        ({"num_samples": 0}, 422, "num_samples"),
        ({"num_samples": 65}, 422, "num_samples"),
        ({"seed": -1}, 422, "seed"),
        ({"step": 0}, 422, "step"),
        ({"clock": "late"}, 422, "clock"),
        ({"depth": {"encoding": "png16_mm", "data": text(PNG)}}, 400, "depth"),
        ({"depth": {"encoding": "float32", "data": text(bytes(8)), "shape": [12, 16]}}, 400, "depth"),
        ({"depth": {"encoding": "float32", "data": text(bytes(8)), "shape": [1, 2]}}, 400, "depth"),
        (
            {"depth": {"encoding": "float32", "data": text(np.float32([-1, 1]).tobytes()), "shape": [1, 2]}},
            400,
            "depth",
        ),
        ({"depth": {"encoding": "exr", "data": ""}}, 422, "depth"),
    ],
)
def test_a_bad_question_is_told_what_is_wrong(running, changes, status, where):
    got, answer = send(running[0], question(**changes))
    assert got == status
    assert answer["error"]["kind"] == "invalid_request"
    assert answer["error"]["where"] == where
    assert answer["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"image": NaN}'])
def test_what_is_no_json_is_told_so(running, body):
    status, answer = send(running[0], body)
    assert status in (400, 422)
    assert answer["error"]["kind"] == "invalid_request"


def test_the_predictors_own_fault_is_told_and_counted(running):
    url, service = running
    before = service.metrics.counts()["failed"]
    status, answer = send(url, question(instruction="fail"))
    assert (status, answer["error"]["kind"]) == (500, "failed")
    assert "ZeroDivisionError: the predictor's own fault" in answer["error"]["message"]
    assert service.metrics.counts()["failed"] == before + 1


def test_health_figures_and_description(running):
    url, _ = running
    assert fetch(url, "/healthz") == "OK\n"
    assert 'traceworld_requests_total{outcome="answered"}' in fetch(url, "/metrics")
    assert json.loads(fetch(url, "/v1/model"))["model"] == "flow"
    described = json.loads(fetch(url, "/openapi.json"))
    kinds = described["components"]["schemas"]
    assert set(kinds["PredictRequest"]["required"]) == {"image", "instruction"}
    assert "uvz" in kinds["PredictAnswer"]["properties"]
    fields = kinds["Body_predict_multipart_v1_predict_multipart_post"]["properties"]
    assert "keypoints_px" in fields["request"]["contentSchema"]["properties"]
    for path in ("/v1/predict", "/v1/predict/multipart"):
        assert {"200", "400", "413", "503"} <= set(described["paths"][path]["post"]["responses"])
    assert send(url, b"", "/v1/nothing")[0] == 404


def asked_together(url, questions):
    with ThreadPoolExecutor(len(questions)) as pool:
        return list(pool.map(lambda q: send(url, q), questions))


def test_questions_of_the_same_time_go_to_the_predictor_together():
    flow = FlowOfMany()
    with predict_server(flow, max_batch=4, window_s=1.0) as (url, _):
        questions = [question(seed=seed) for seed in range(4)]
        answers = asked_together(url, questions)
        assert flow.sizes == [(4, 1)]
        alone = [send(url, each) for each in questions]
        assert answers == alone
        assert all(status == 200 for status, _ in answers)


def test_only_questions_of_equal_samples_are_put_together_and_one_failure_is_ones_own():
    flow = FlowOfMany()
    with predict_server(flow, max_batch=5, window_s=1.0) as (url, _):
        asked = [
            question(seed=1), question(seed=2, num_samples=2), question(seed=3), question(instruction="fail"),
            question(seed=4, num_samples=2),
        ]  # fmt: skip
        statuses = [status for status, _ in asked_together(url, asked)]
        assert statuses == [200, 200, 200, 500, 200]
        assert sorted(flow.sizes) == [(2, 2), (3, 1)]


def test_too_much_is_refused_in_time():
    with predict_server(Flow(), max_request_bytes=5000, body_timeout_s=0.5, header_timeout_s=0.5) as (url, service):
        assert send(url, question())[0] == 200
        status, answer = send(url, question(image="A" * 6000))
        assert (status, answer["error"]["kind"]) == (413, "too_large")
        port = int(url.rsplit(":", 1)[1])
        chunked = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunk = b"1000\r\n" + bytes(4096) + b"\r\n"
        slow = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
        for opening, right in ((chunked + 2 * chunk, b"413"), (slow, b"408")):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
                raw.sendall(opening)
                assert raw.recv(4096).split()[1] == right
        for opening in (b"", b"POST /v1/pre"):  # half-open: no request is ever sent
            with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
                raw.sendall(opening)
                assert raw.recv(4096) == b""
        assert send(url, question())[0] == 200
        assert service.metrics.counts()["answered"] == 2


def test_the_key_opens_the_server():
    with predict_server(Flow(), api_key="k") as (url, _):
        assert send(url, question())[0] == 401
        assert send(url, question(), Authorization="Bearer wrong")[0] == 401
        assert send(url, question(), Authorization="Bearer k")[0] == 200
        assert fetch(url, "/healthz") == "OK\n"
        with pytest.raises(urllib.error.HTTPError):
            fetch(url, "/metrics")


def test_a_full_queue_is_told_to_come_back_and_slow_answers_time_out():
    flow = Flow()
    flow.gate.clear()
    with predict_server(flow, max_queue=1, max_batch=1, inference_timeout_s=1.5) as (url, service):
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(send, url, question())
            assert flow.entered.acquire(timeout=10)
            second = pool.submit(send, url, question())
            end = time.monotonic() + 10
            while service.worker.waiting < 1 and time.monotonic() < end:
                time.sleep(0.01)
            status, answer = send(url, question())
            assert (status, answer["error"]["kind"]) == (503, "busy")
            assert [first.result()[0], second.result()[0]] == [504, 504]
        flow.gate.set()
        end = time.monotonic() + 10
        while (answer := send(url, question()))[0] == 503 and time.monotonic() < end:  # the two may still be leaving
            time.sleep(0.05)
        assert answer[0] == 200


def test_shutting_down_answers_what_was_asked():
    flow = Flow()
    flow.gate.clear()
    answers = []
    with contextlib.ExitStack() as stack:
        url, _ = stack.enter_context(predict_server(flow, max_batch=1))
        threads = [threading.Thread(target=lambda: answers.append(send(url, question())[0])) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert flow.entered.acquire(timeout=10)
        threading.Timer(0.5, flow.gate.set).start()
        stack.callback(flow.gate.wait, 20)
        time.sleep(0.3)
    for thread in threads:
        thread.join(30)
    assert answers == [200, 200, 200]


@pytest.mark.parametrize("option", [{"max_batch": 0}, {"window_s": -1.0}, {"body_timeout_s": 0.0}])
def test_impossible_options_are_refused(option):
    with pytest.raises(ConfigError, match=next(iter(option))):
        PredictServerConfig(**option)


def test_a_port_that_is_taken_is_an_error():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="cannot listen"):
            listen(PredictServerConfig(port=taken.getsockname()[1]))
