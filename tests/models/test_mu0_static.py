"""Padded shapes and the compiled predictor give what the plain one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from traceworld.models.mu0.static import StaticSampler

SCRIPT = Path(__file__).with_name("compiled_run.py")


@torch.no_grad()
@pytest.mark.parametrize("kind", ["tiny_config", "smolvlm_config"])
@pytest.mark.parametrize("depth", [True, False])
def test_padding_changes_nothing(kind, depth, build, make_batch, request):
    config = request.getfixturevalue(kind)
    model, batch = build(config), make_batch(config)
    if not depth:
        batch["depth_present"] = torch.zeros(3, dtype=torch.bool)
    noise = torch.randn(3, 2, 5, 5, 3, generator=torch.Generator().manual_seed(0))
    expected = model.sample(batch, 2, noise=noise)
    for sizes in ((5,), (8, 16), (2,)):  # as many as there are, the next of two, a multiple of the last
        for ours, theirs in zip(StaticSampler(model, sizes, compiled=False)(batch, noise), expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_few_shapes_reach_the_compiler(tiny_config, build, make_batch):
    """Whatever the number of keypoints and words, there are as many shapes as sizes."""
    sampler = StaticSampler(build(tiny_config), (4, 8), compiled=False)
    seen, run = set(), sampler._run
    sampler._run = lambda batch, noise: seen.add(shapes(batch, noise)) or run(batch, noise)
    for N, text in (
        (1, "open"),
        (3, "open the drawer"),
        (4, ""),
        (5, "a b c d e f g h"),
        (8, "x"),
        (9, "x"),
        (16, "x"),
    ):
        batch = make_batch(tiny_config, B=1, N=N) | {"instruction": [text]}
        controls, logits = sampler(batch, torch.zeros(1, 2, N, 5, 3))
        assert controls.shape == (1, 2, N, 5, 3)
        assert logits.shape == (1, 2, N, 8)
    assert len(seen) == 3  # 4, 8, 16


def shapes(batch, noise):
    flat = {name: value for name, value in batch.items() if name != "words"}
    tensors = [noise, *batch["words"], *(flat[name] for name in sorted(flat))]
    return tuple(tuple(tensor.shape) for tensor in tensors)


@pytest.fixture(scope="module")
def compiled():
    pytest.importorskip("transformers")
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(SCRIPT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False, env=env)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(1900)
@pytest.mark.parametrize("kind", ["full", "tracegen"])
def test_compiled_predictions_are_the_plain_ones(compiled, kind):
    """Compiled as one graph (a break is an error), for numbers of keypoints in one size and with and without depth."""
    assert compiled[kind]["off"] < 1e-4
    assert compiled[kind]["spread"] > 1e-2
    assert compiled[kind]["repeats"]  # the same question, the same bytes


@pytest.mark.slow
def test_one_compilation_for_a_size(compiled):
    """N = 3 and 5 share one, depth or not makes another, S another."""
    assert compiled["full"]["compilations"] == 3
