"""Runs in an environment of its own that has `openpi-client` from PyPI: observations in on standard input, answers out.

Each message is a length (8 bytes) and an npz; the client is the published one, unmodified. Standard library, numpy and
openpi_client alone.
"""

import io
import json
import struct
import sys

import numpy as np
from openpi_client import msgpack_numpy
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy


def read_message(stream):
    head = stream.read(8)
    if len(head) < 8:
        return None
    with np.load(io.BytesIO(stream.read(struct.unpack("<Q", head)[0])), allow_pickle=False) as arrays:
        return dict(arrays)


def write_message(stream, **arrays):
    data = io.BytesIO()
    np.savez(data, **arrays)
    stream.write(struct.pack("<Q", len(data.getvalue())) + data.getvalue())
    stream.flush()


def main(port, horizon):
    client = WebsocketClientPolicy(host="127.0.0.1", port=port, api_key="k")
    policy = ActionChunkBroker(client, action_horizon=horizon) if horizon else client
    about = {"numpy": np.__version__, "metadata": client.get_server_metadata(), "packer": msgpack_numpy.__name__}
    write_message(sys.stdout.buffer, about=json.dumps(about))
    while True:
        arrays = read_message(sys.stdin.buffer)
        if arrays is None:
            return
        prompt = str(arrays.pop("prompt"))
        observation = {}
        for key, value in arrays.items():
            outer, _, inner = key.replace("|", "/").partition(">")
            if inner:
                observation.setdefault(outer, {})[inner] = value
            else:
                observation[outer] = value
        try:
            answer = policy.infer({**observation, "prompt": prompt})
            timing = {key: value for key, value in answer.items() if key.endswith("_timing")}
            write_message(sys.stdout.buffer, actions=answer["actions"], timing=json.dumps(timing))
        except Exception as error:
            write_message(sys.stdout.buffer, error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
