"""traceworld-client against the real servers."""

import contextlib
import time

import numpy as np
import pytest
from predict_toys import Flow, predict_server
from serving_toys import Counting, Gate, Inpainting, Together, policy_server, right_actions
from traceworld_client import (
    BusyError,
    ChunkPlayer,
    ConnectionLostError,
    InvalidRequestError,
    PolicyClient,
    PredictClient,
    RealTimePlayer,
    ServerError,
    ServerTimeoutError,
)
from traceworld_client.real_time import mixed

from traceworld.policies.chunking import entered
from traceworld.serving.adapters import METAWORLD

EXAMPLE = METAWORLD.example(0, size=16)


def expected(request):
    pictures = [request[key] for key in ("observation/image", "observation/wrist_image")]
    return right_actions(pictures, np.float32(request["observation/state"]), request["prompt"])


def test_a_policy_is_driven_and_says_its_traces():
    with (
        policy_server(Together(), api_key="k") as running,
        PolicyClient("127.0.0.1", running.port, api_key="k") as policy,
    ):
        assert policy.metadata["policy"] == "echo"
        assert np.array_equal(policy.infer(EXAMPLE)["actions"], expected(EXAMPLE))
        traces = policy.infer({**EXAMPLE, "traceworld/return_traces": True})["traceworld/traces"]
        assert traces["uvz"].shape == (1, 3, 5, 3)
        with pytest.raises(InvalidRequestError, match="observation/state: has shape"):
            policy.infer({**EXAMPLE, "observation/state": np.zeros(3)})
        assert np.array_equal(policy.infer(EXAMPLE)["actions"], expected(EXAMPLE))
        with pytest.raises(InvalidRequestError, match="401"):
            PolicyClient("127.0.0.1", running.port)


def test_episodes_and_steps_reach_the_policy():
    with policy_server(Counting()) as running, PolicyClient("127.0.0.1", running.port) as policy:
        player = ChunkPlayer(policy)  # chunks of 2
        said = []
        for seed in (3, 8):
            player.reset(seed)
            said += [player.infer(EXAMPLE)["actions"][:3].tolist() for _ in range(3)]
        assert said == [[1, 3, 0], [1, 3, 0], [2, 3, 2], [1, 8, 0], [1, 8, 0], [2, 8, 2]]
        with pytest.raises(BusyError, match="503"):
            PolicyClient("127.0.0.1", running.port)


def test_a_robot_that_never_pauses_is_driven_over_a_socket():
    inpainting = Inpainting()
    with (
        policy_server(inpainting) as running,
        PolicyClient("127.0.0.1", running.port) as policy,
        RealTimePlayer(policy, stay=lambda last: np.zeros(4), ask_every=2) as player,
    ):
        player.reset(6)
        sent = []
        while len(inpainting.committed) < 3:
            sent.append(player.infer(EXAMPLE)["actions"])
            time.sleep(0.01)
        assert player.stayed < len(sent)
    assert {seed for seed, _ in inpainting.committed} == {6}
    assert all(committed.shape[1] == 4 for _, committed in inpainting.committed)


def test_the_client_mixes_chunks_as_the_library_does():
    rng = np.random.default_rng(0)
    for left, length, sent in [(12, 16, 4), (16, 16, 0), (3, 16, 3), (20, 8, 5), (0, 8, 0)]:
        old, new = (rng.standard_normal((count, 3)).astype(np.float32) for count in (left, length))
        assert np.allclose(mixed(old, new, sent), entered(old, new, sent), atol=1e-6)


def test_a_slow_policy_is_a_time_out_and_a_full_queue_is_busy():
    gate = Gate()
    with policy_server(gate, max_queue=1) as running, contextlib.ExitStack() as stack:
        impatient = [stack.enter_context(PolicyClient("127.0.0.1", running.port, timeout_s=0.3)) for _ in range(2)]
        for policy in impatient:
            with pytest.raises(ServerTimeoutError):
                policy.infer(EXAMPLE)
        third = stack.enter_context(PolicyClient("127.0.0.1", running.port))
        with pytest.raises(BusyError, match="1 requests wait"):
            third.infer(EXAMPLE)
        gate.opened.set()
        assert np.array_equal(third.infer(EXAMPLE, retries=5)["actions"], expected(EXAMPLE))


def test_traces_are_predicted_over_http():
    image = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    depth = np.full((12, 16), 1.5, np.float32)
    history = np.zeros((2, 3, 3))
    history[0, 0, 2] = np.nan
    with predict_server(Flow(), api_key="k") as (url, service):
        client = PredictClient(url, api_key="k")
        answer = client.predict(
            image, "push", keypoints_px=[[3, 4], [5.5, 6]], depth_m=depth, num_samples=2, seed=9, history_uvz=history
        )
        seen = service.predictor.seen[-1]
        assert np.array_equal(seen.image, image)
        assert np.array_equal(seen.depth_m, depth)
        assert np.array_equal(seen.history_uvz, history, equal_nan=True)
        assert np.allclose(seen.keypoints_uv, [[3.5 / 8 - 1, 4.5 / 6 - 1], [6 / 8 - 1, 6.5 / 6 - 1]])
        assert np.array_equal(answer.uvz, service.predictor.right(seen, 2, 9).uvz)
        assert answer.valid.dtype == bool
        assert answer.valid_prob is None
        assert client.describe()["model"] == "flow"
        with pytest.raises(InvalidRequestError, match="keypoints"):
            client.predict(image, "push")
        with pytest.raises(InvalidRequestError, match="uint8"):
            client.predict(image.astype(float), "push", keypoints_px=[[1, 1]])
        with pytest.raises(ServerError, match="own fault"):
            client.predict(image, "fail", keypoints_px=[[1, 1]])
        with pytest.raises(InvalidRequestError, match="no key"):
            PredictClient(url).predict(image, "push", keypoints_px=[[1, 1]])
    with pytest.raises(ConnectionLostError):
        client.predict(image, "push", keypoints_px=[[1, 1]])


def test_a_slow_predictor_is_a_time_out():
    flow = Flow()
    flow.gate.clear()
    with predict_server(flow) as (url, _):
        image = np.zeros((4, 4, 3), np.uint8)
        with pytest.raises(ServerTimeoutError):
            PredictClient(url, timeout_s=0.3).predict(image, "x", keypoints_px=[[1, 1]])
        flow.gate.set()
