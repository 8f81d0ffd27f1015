"""Many clients against a policy server in a process of its own: good requests, bad ones, and what becomes of them.

Run by `test_soak.py`. As a program (`python soak.py serve`) it is the server.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgpack
import numpy as np
import psutil
from serving_toys import Echo, right_actions
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from traceworld.serving.adapters import METAWORLD
from traceworld.serving.codec import CodecLimits, pack, unpack
from traceworld.serving.policy_server import PolicyServerConfig, serve_policy

LIMIT = 2**20
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def serve(seconds):
    """The server process: its address, and in the end its counts, as lines of JSON."""
    config = PolicyServerConfig(
        port=0, limits=CodecLimits(max_bytes=LIMIT), max_connections=200, open_timeout_s=5.0,
        ping_interval_s=5.0, ping_timeout_s=30.0,
    )  # fmt: skip

    def ready(url):
        sys.stdout.write(json.dumps({"url": url}) + "\n")
        sys.stdout.flush()

    counts = serve_policy(Echo(seconds=seconds), METAWORLD, config, ready=ready)
    sys.stdout.write(json.dumps({"requests": counts}) + "\n")


@contextlib.contextmanager
def server_process(seconds=0.0):
    """(process, url) of a running server."""
    folder = str(Path(__file__).parent)
    path = os.pathsep.join([folder, *sys.path])
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__)), "serve", str(seconds)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        yield process, json.loads(process.stdout.readline())["url"]
    finally:
        process.kill()
        process.wait(20)
        process.stdout.close()


def terminate(process):
    """kill -TERM; the server's own counts when it has ended, and its exit code."""
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    return json.loads(out.splitlines()[-1])["requests"], process.returncode


@dataclass
class Tally:
    """What came of the requests.

    Attributes:
        right, wrong: good requests by whether the answer was the right one.
        refused: bad requests by kind that were refused clearly; unclear: those that were not.
        seconds: round trips of good requests.
    """

    right: int = 0
    wrong: list = field(default_factory=list)
    refused: dict = field(default_factory=dict)
    unclear: list = field(default_factory=list)
    seconds: list = field(default_factory=list)

    def percentile(self, share):
        return float(np.percentile(self.seconds, share))


def _bytes(rng):
    return bytes(rng.integers(0, 256, int(rng.integers(1, 400)), dtype=np.uint8))


def _wrong_dtype(rng):
    kinds = (np.int32, np.float64, np.uint16)
    image = np.full((16, 16, 3), 300).astype(kinds[int(rng.integers(3))])
    return pack({**METAWORLD.example(0, size=16), "observation/image": image})


def _wrong_keys(rng):
    request = METAWORLD.example(0, size=16)
    missing = list(request)[int(rng.integers(2)) * 3]
    return pack({("x/" + key if key == missing else key): value for key, value in request.items()})


def _lying_array(rng):
    size = int(rng.integers(1, 2**31))
    array = {b"__ndarray__": True, b"data": b"1234", b"dtype": "<f4", b"shape": [size, size, 3]}
    return msgpack.packb({"observation/state": [0, 0, 0, 0], "prompt": "x", "observation/image": array})


def _object_array(rng):
    array = {b"__ndarray__": True, b"data": b"12345678", b"dtype": "|O", b"shape": [1]}
    return msgpack.packb({"observation/image": array})


def _huge(rng):
    return bytes(LIMIT + int(rng.integers(1, LIMIT)))


MESSAGES = {
    "random bytes": _bytes,
    "wrong dtypes": _wrong_dtype,
    "wrong keys": _wrong_keys,
    "lying arrays": _lying_array,
    "object arrays": _object_array,
    "huge arrays": _huge,
}
HALF_OPEN = "half-open sockets"


async def client(url, number, rng, good, bad, tally):
    """One client: its requests in a drawn order, every answer judged."""
    kinds = [*MESSAGES, HALF_OPEN]
    turns = [None] * good + [kinds[(number + i) % len(kinds)] for i in range(bad)]
    rng.shuffle(turns)
    ws = None
    for turn in turns:
        if turn == HALF_OPEN:
            await _half_open(url, rng, tally)
            continue
        if ws is None:
            ws = await _connected(url)
        if turn is None:
            await _good(ws, rng, tally)
        else:
            await _bad(ws, turn, MESSAGES[turn](rng), tally)
            ws = None
    if ws is not None:
        await ws.close()


async def _connected(url):
    ws = await connect(url, compression=None, max_size=None, open_timeout=60, ping_interval=None)
    assert unpack(await ws.recv())["adapter"] == "metaworld"
    return ws


async def _good(ws, rng, tally):
    request = METAWORLD.example(int(rng.integers(2**31)), size=24)
    message = pack(request)
    started = time.perf_counter()
    await ws.send(message)
    answer = await asyncio.wait_for(ws.recv(), 120)
    tally.seconds.append(time.perf_counter() - started)
    pictures = [request[key] for key in ("observation/image", "observation/wrist_image")]
    right = right_actions(pictures, np.float32(request["observation/state"]), request["prompt"])
    if isinstance(answer, bytes) and np.array_equal(unpack(answer)["actions"], right):
        tally.right += 1
    else:
        tally.wrong.append(str(answer)[:200])


async def _bad(ws, kind, message, tally):
    """Refused clearly: an error that says what is wrong (or, for what is too large to be read, the code that says so)."""
    said, code = "", None
    try:
        await ws.send(message)
        said = await asyncio.wait_for(ws.recv(), 120)
        await asyncio.wait_for(ws.recv(), 120)
    except ConnectionClosed as closed:
        code = closed.rcvd.code if closed.rcvd else None
    clear = isinstance(said, str) and said.startswith("[invalid_request] ") and code == 1011
    if clear or (kind == "huge arrays" and code == 1009):
        tally.refused[kind] = tally.refused.get(kind, 0) + 1
    else:
        tally.unclear.append((kind, said[:100], code))


async def _half_open(url, rng, tally):
    """Connects, says a part of something, and is gone without a farewell."""
    port = int(url.rsplit(":", 1)[1])
    parts = (b"", b"GET / HT", HANDSHAKE, HANDSHAKE + b"\x82\xfe\x40\x00mask" + bytes(100))
    raw = socket.socket()
    raw.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(raw, ("127.0.0.1", port))
    await loop.sock_sendall(raw, parts[int(rng.integers(len(parts)))])
    if rng.random() < 0.5:  # reset the connection, or leave it to the server's time-out
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        raw.close()
    else:
        _LEFT_OPEN.append(raw)
        if len(_LEFT_OPEN) > 30:
            _LEFT_OPEN.pop(0).close()
    tally.refused[HALF_OPEN] = tally.refused.get(HALF_OPEN, 0) + 1


_LEFT_OPEN = []


async def crowd(url, clients, good, bad, seed):
    """`clients` at the same time, `good` and `bad` requests in all."""
    tally = Tally()
    share = lambda total, i: total // clients + (i < total % clients)  # noqa: E731
    rngs = [np.random.default_rng([seed, i]) for i in range(clients)]
    await asyncio.gather(*[client(url, i, rngs[i], share(good, i), share(bad, i), tally) for i in range(clients)])
    return tally


def memory(process):
    """Resident megabytes of a process."""
    return psutil.Process(process.pid).memory_info().rss / 2**20


if __name__ == "__main__":
    serve(float(sys.argv[2]))
