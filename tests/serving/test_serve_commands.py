"""`traceworld serve`: processes that say where they listen, end on SIGTERM with their counts, and keep keys out of sight."""

import base64
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
from PIL import Image
from traceworld_client import PolicyClient

from traceworld.cli import main
from traceworld.errors import ConfigError
from traceworld.serving.adapters import LIBERO
from traceworld.serving.keys import KEY_VARIABLE, find_key, has_key, is_loopback

TOY = """
import sys
import traceworld.policies.registry as registry
from serving_toys import Echo
registry.load_policy = lambda name, device="cpu": Echo(dim=7) if name == "toy" else None
from traceworld.cli import main
sys.exit(main(sys.argv[1:]))
"""


@contextlib.contextmanager
def command(*words, **variables):
    """(process, address) of a running `traceworld serve`."""
    process = subprocess.Popen(
        [sys.executable, "-c", TOY, "serve", *words, "--port", "0", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables},
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield process, json.loads(line)["url"]
    finally:
        process.kill()
        process.communicate(timeout=20)


def ended(process):
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return json.loads(out)["requests"], err


def test_a_policy_is_served():
    request = LIBERO.example(0, size=16)
    del request["prompt"]
    words = ("policy", "--policy", "toy", "--adapter", "libero", "--prompt", "go", "--host", "127.0.0.1")
    with command(*words, **{KEY_VARIABLE: "secret"}) as (process, url):
        assert url.startswith("ws://127.0.0.1:")
        with PolicyClient(url, api_key="secret") as policy:
            assert policy.metadata["prompt"] == "go"
            assert policy.infer(request)["actions"].shape == (8, 7)
        counts, err = ended(process)
        assert counts["answered"] == 1
        assert "secret" not in err


def test_a_predictor_is_served():
    picture = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(picture, "PNG")
    asked = {"image": base64.b64encode(picture.getvalue()).decode(), "instruction": "go", "keypoints_px": [[3.5, 3.5]]}
    with command("predict", "--model", "nothing-moves") as (process, url):
        sent = urllib.request.Request(
            f"{url}/v1/predict", json.dumps(asked).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(sent, timeout=60) as reply:
            answer = json.loads(reply.read())
        assert np.abs(np.array(answer["uvz"])[..., :2]).max() == 0
        counts, _ = ended(process)
        assert counts["answered"] == 1


def test_wrong_options_are_told(capsys, tmp_path):
    assert main(["serve", "predict", "--model", "nothing-moves", "--max-queue", "0"]) == 2
    assert "max_queue" in capsys.readouterr().err
    assert main(["serve", "predict", "--model", "nothing-movse"]) == 2
    assert "nothing-moves" in capsys.readouterr().err
    assert main(["serve", "policy", "--policy", "x", "--max-megabytes", "0"]) == 2
    assert main(["serve", "policy", "--policy", "x", "--api-key-file", str(tmp_path / "none")]) == 2
    assert "cannot be read" in " ".join(capsys.readouterr().err.split())


def test_who_listens_to_all_without_a_key_is_warned(capsys, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert main(["serve", "predict", "--model", "nothing-movse", "--host", "0.0.0.0"]) == 2
    assert "whoever reaches 0.0.0.0 may ask" in capsys.readouterr().err
    monkeypatch.setenv(KEY_VARIABLE, "k")
    assert main(["serve", "predict", "--model", "nothing-movse", "--host", "0.0.0.0"]) == 2
    assert "whoever" not in capsys.readouterr().err


def test_keys_come_from_a_file_or_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "key"
    file.write_text(" from-file \n")
    monkeypatch.setenv(KEY_VARIABLE, " from-environment ")
    assert find_key(file) == "from-file"
    assert find_key(None) == "from-environment"
    monkeypatch.setenv(KEY_VARIABLE, "  ")
    assert find_key(None) is None
    file.write_text("\n")
    with pytest.raises(ConfigError, match="holds no key"):
        find_key(file)


@pytest.mark.parametrize(
    ("header", "right"),
    [
        ("Api-Key k€y", True), ("api-key  k€y ", True), ("Bearer k€y", True), ("k€y", False), ("Bearer", False),
        (None, False), ("", False), ("Basic k€y", False), ("Bearer k€y2", False),
    ],
)  # fmt: skip
def test_headers_hold_the_key_or_not(header, right):
    assert has_key(header, "k€y") is right
    assert has_key(header, None) is True


def test_loopback_is_this_machine_alone():
    assert [is_loopback(host) for host in ("127.0.0.1", "127.3.2.1", "localhost", "::1")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "192.168.0.7", "127.evil.example")] == [False] * 4
