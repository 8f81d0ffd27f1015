"""The parts that need no server: messages, pictures, chunks, and that the code runs on Python 3.8."""

import ast
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

import traceworld_client
from traceworld_client import BusyError, ChunkPlayer, InvalidRequestError, ServerError, ServerTimeoutError
from traceworld_client.codec import pack, unpack
from traceworld_client.errors import error_of
from traceworld_client.png import encode_png


@pytest.mark.parametrize("dtype", ["?", "u1", "<i4", ">i2", "<f2", "<f8"])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3, 4)])
def test_arrays_travel(dtype, shape):
    array = np.asarray(np.random.default_rng(0).random(shape) * 50).astype(dtype)
    back = unpack(pack({"a": array}))["a"]
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert np.array_equal(back, array)


def test_scalars_and_texts_travel():
    value = unpack(pack({"n": np.float32(0.5), "p": "öffne", "deep": {"l": [1, None, True]}}))
    assert value["n"].dtype == np.float32
    assert value["p"] == "öffne"
    assert value["deep"] == {"l": [1, None, True]}


@pytest.mark.parametrize("value", [np.array([object()]), np.zeros(1, complex), object()])
def test_objects_do_not_travel(value):
    with pytest.raises(TypeError):
        pack({"a": value})
    with pytest.raises(ValueError):
        unpack(pack({b"__ndarray__": True, b"data": bytes(8), b"dtype": "|O", b"shape": [1]}))


def test_pictures_are_png():
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    data = encode_png(colour)
    size = struct.unpack(">II", data[16:24])
    assert size == (7, 5)
    raw = zlib.decompress(data[data.index(b"IDAT") + 4 : data.index(b"IEND") - 8])
    rows = np.frombuffer(raw, np.uint8).reshape(5, 1 + 21)
    assert np.array_equal(rows[:, 1:].reshape(5, 7, 3), colour)
    pillow = pytest.importorskip("PIL.Image")
    assert np.array_equal(np.asarray(pillow.open(io.BytesIO(data))), colour)
    grey = rng.integers(0, 65536, (4, 3), dtype=np.uint16)
    assert np.array_equal(np.asarray(pillow.open(io.BytesIO(encode_png(grey)))), grey)
    for wrong in (colour[..., 0], colour.astype(float), colour[None]):
        with pytest.raises(ValueError):
            encode_png(wrong)


def test_words_of_a_server_become_kinds_of_error():
    assert type(error_of("[busy] 64 requests wait")) is BusyError
    assert type(error_of("[timeout] late")) is ServerTimeoutError
    assert type(error_of("[failed] oh")) is ServerError
    wrong = error_of("[invalid_request] prompt: is missing")
    assert type(wrong) is InvalidRequestError
    assert str(wrong) == "prompt: is missing"
    assert "Traceback" in str(error_of("Traceback (most recent call last)\n  ..."))


class Chunks:
    """Answers chunks of 4 that say how often it was asked."""

    def __init__(self, extensions=()):
        self.metadata = {"extensions": list(extensions)}
        self.asked, self.seeds = [], []

    def infer(self, observation):
        self.asked.append(observation)
        actions = 10 * len(self.asked) + np.arange(4)[:, None]
        return {"actions": actions, "state": np.zeros(2), "policy_timing": {"infer_ms": 1.0}}

    def reset(self, seed):
        self.seeds.append(seed)


def test_chunks_are_played_action_by_action():
    policy = Chunks()
    player = ChunkPlayer(policy, play=3)
    played = [player.infer({"n": i}) for i in range(7)]
    assert [int(each["actions"][0]) for each in played] == [10, 11, 12, 20, 21, 22, 30]
    assert [each["n"] for each in policy.asked] == [0, 3, 6]
    assert played[1]["state"].shape == (2,)  # what is no action is not cut
    player.reset(seed=5)
    assert int(player.infer({})["actions"][0]) == 40
    assert policy.seeds == [5]


def test_a_whole_chunk_is_played_unless_told_otherwise():
    policy = Chunks()
    player = ChunkPlayer(policy, play=9)
    assert [int(player.infer({})["actions"][0]) for _ in range(5)] == [10, 11, 12, 13, 20]
    with pytest.raises(ValueError, match="play"):
        ChunkPlayer(policy, play=0)


def test_the_step_is_said_to_servers_that_know_it():
    knowing, other = Chunks(["traceworld/step"]), Chunks()
    for policy in (knowing, other):
        player = ChunkPlayer(policy, play=2)
        for _ in range(5):
            player.infer({"x": 1})
    assert [each["traceworld/step"] for each in knowing.asked] == [0, 2, 4]
    assert all(each == {"x": 1} for each in other.asked)


def test_the_source_is_python_3_8():
    files = sorted(Path(traceworld_client.__file__).parent.glob("*.py"))
    assert len(files) > 5
    for path in files:
        ast.parse(path.read_text(), feature_version=(3, 8))
