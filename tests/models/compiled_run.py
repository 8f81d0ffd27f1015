"""Predict with and without `compile()` in a process of its own: jaxtyping's checks, on in the tests, cannot be traced."""

import json
import sys

import numpy as np
import torch
from large_run import tiny, words
from torch._dynamo.utils import counters
from tracegen_toys import HUB, build

from traceworld.models.mu0.model import Mu0Model
from traceworld.models.mu0.predictor import Mu0Predictor
from traceworld.models.tracegen.predictor import TraceGenPredictor
from traceworld.traces.types import Observation


def question(N, depth):
    rng = np.random.default_rng(N)
    return Observation(
        image=rng.integers(0, 256, (48, 64, 3), dtype=np.uint8),
        instruction="open the drawer",
        depth_m=rng.uniform(0.5, 2, (48, 64)).astype(np.float32) if depth else None,
        keypoints_uv=rng.uniform(-0.9, 0.9, (N, 2)),
    )


QUESTIONS = [(3, True, 1), (5, True, 1), (3, False, 1), (3, True, 2)]


def difference(predictor):
    """Largest difference of traces, compiled against plain, and how far traces move at all."""
    asked = [(question(N, depth), S) for N, depth, S in QUESTIONS]
    plain = [predictor.predict(observation, S) for observation, S in asked]
    predictor.compile()
    counters.clear()
    fast = [predictor.predict(observation, S) for observation, S in asked]
    compilations = counters["stats"]["unique_graphs"]
    again = predictor.predict(*asked[0])
    return {
        "off": max(float(np.abs(a.uvz - b.uvz).max()) for a, b in zip(plain, fast, strict=True)),
        "spread": float(plain[0].uvz.std(axis=2).mean()),
        "repeats": bool(np.array_equal(again.uvz, fast[0].uvz)),
        "compilations": compilations,
    }


def full():
    torch.manual_seed(0)
    model = Mu0Model(tiny())
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    model.prefix.tokenizer = words
    return Mu0Predictor(model)


if __name__ == "__main__":
    found = {"full": difference(full()), "tracegen": difference(TraceGenPredictor(build(HUB)))}
    sys.stdout.write(json.dumps(found))
