"""Our end of the pipe to `openpi_driver.py` (which runs under another python, so nothing is shared)."""

import io
import json
import struct

import numpy as np


class Driver:
    """The published client: `about` says what it is, `ask` sends an observation through it."""

    def __init__(self, process):
        self._process = process
        self.about = json.loads(str(self._read()["about"]))

    def ask(self, request):
        data = io.BytesIO()
        np.savez(data, **{key.replace("/", "|"): value for key, value in _flat(request)})
        self._process.stdin.write(struct.pack("<Q", len(data.getvalue())) + data.getvalue())
        self._process.stdin.flush()
        return self._read()

    def _read(self):
        size = struct.unpack("<Q", self._process.stdout.read(8))[0]
        with np.load(io.BytesIO(self._process.stdout.read(size)), allow_pickle=False) as arrays:
            return dict(arrays)


def _flat(request):
    """Keys of inner maps behind `>`: an npz has one level."""
    for key, value in request.items():
        if isinstance(value, dict):
            yield from ((f"{key}>{inner}", each) for inner, each in value.items())
        else:
            yield key, value
