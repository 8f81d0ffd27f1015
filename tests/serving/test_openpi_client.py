"""The published openpi-client, unmodified and in an environment of its own with its own numpy, drives our server.

`make test-openpi` makes that environment and names its python in TRACEWORLD_OPENPI_PYTHON; without it these tests are skipped.
"""

import contextlib
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from openpi_pipe import Driver
from serving_toys import Echo, Failing, policy_server, right_actions

from traceworld.serving.adapters import ALOHA, DROID, LIBERO, METAWORLD

PYTHON = os.environ.get("TRACEWORLD_OPENPI_PYTHON", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PYTHON, reason="TRACEWORLD_OPENPI_PYTHON names no python with openpi-client; `make test-openpi`"
    ),
]


@contextlib.contextmanager
def driver(running, horizon=0):
    """The published client at the other end of a pipe. `horizon` > 0: behind its ActionChunkBroker."""
    script = Path(__file__).parent / "openpi_driver.py"
    process = subprocess.Popen(
        [PYTHON, str(script), str(running.port), str(horizon)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    try:
        yield Driver(process)
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


@pytest.mark.parametrize("adapter", [LIBERO, DROID, ALOHA, METAWORLD], ids=lambda adapter: adapter.name)
def test_every_layout_is_answered(adapter):
    request = adapter.example(1, size=32)
    with policy_server(Echo(dim=adapter.action_dim), adapter, api_key="k") as running, driver(running) as client:
        assert client.about["metadata"]["adapter"] == adapter.name
        assert client.about["numpy"].startswith("1.")
        if adapter is ALOHA:
            pictures = [np.moveaxis(picture, 0, 2) for picture in request["images"].values()]
        else:
            pictures = [request[picture.path[0]] for picture in adapter.pictures]
        state = np.concatenate([request[key] for key, _ in adapter.state]).astype(np.float32)
        for _ in range(3):
            answer = client.ask(request)
            assert np.array_equal(
                answer["actions"], right_actions(pictures, state, request["prompt"], adapter.action_dim)
            )
        timing = json.loads(str(answer["timing"]))
        assert set(timing) == {"policy_timing", "server_timing"}
        assert {"infer_ms", "prev_total_ms"} <= set(timing["server_timing"])


def test_its_chunk_broker_cuts_our_answers():
    request = METAWORLD.example(1, size=32)
    pictures = [request["observation/image"], request["observation/wrist_image"]]
    right = right_actions(pictures, np.float32(request["observation/state"]), request["prompt"])
    with policy_server(api_key="k") as running, driver(running, horizon=5) as client:
        for step in range(12):
            assert np.array_equal(client.ask(request)["actions"], right[step % 5])
        assert running.counts()["answered"] in (2, 3)  # the third may still be being counted


def test_errors_reach_its_caller_as_text():
    request = METAWORLD.example(1, size=32)
    with policy_server(api_key="k") as running, driver(running) as client:
        answer = client.ask({**request, "observation/state": np.zeros(9)})
        assert "RuntimeError: Error in inference server" in str(answer["error"])
        assert "[invalid_request] observation/state: has shape (9,)" in str(answer["error"])
    with policy_server(Failing(), api_key="k") as running, driver(running) as client:
        assert "ZeroDivisionError: the policy's own fault" in str(client.ask(request)["error"])


@pytest.mark.render
def test_it_drives_a_metaworld_rollout():
    """Each action that is played comes through the published client; a second world that is moved by the policy itself, without
    a server between, ends in the same state."""
    from traceworld.sim.control import MetaworldEnv, test_seed

    policy = Echo()
    with (
        policy_server(policy, api_key="k") as running,
        driver(running, horizon=4) as client,
        MetaworldEnv("reach-v3", cameras=("corner2", "wrist"), image_size=(96, 72)) as env,
        MetaworldEnv("reach-v3") as twin,
    ):
        for world in (env, twin):
            world.reset(test_seed(0, 0))
        start, chunk = env.expert_view(), None
        for step in range(16):
            seen = env.observe()
            request = {
                "observation/image": seen.images["corner2"],
                "observation/wrist_image": seen.images["wrist"],
                "observation/state": seen.state,
                "prompt": seen.instruction,
            }
            if step % 4 == 0:
                chunk = policy.act(seen).actions
            action = client.ask(request)["actions"]
            assert np.array_equal(action, chunk[step % 4])
            env.step(np.float64(action))
            twin.step(np.float64(chunk[step % 4]))
        assert np.array_equal(env.expert_view(), twin.expert_view())
        assert np.linalg.norm(env.expert_view()[:3] - start[:3]) > 0.001
