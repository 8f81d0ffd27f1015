"""torch.compile sees the training step and the denoising loop as one graph each, and computes what they compute."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import ranks
import torch

from traceworld.training.registry import model_kind
from traceworld.training.sharding import LossModule

sys.path.insert(0, str(Path(__file__).parents[1] / "traces"))
import graphs
from trace_clips import write_dataset


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    return str(write_dataset(tmp_path_factory.mktemp("store") / "clips", clips=8, N=16))


@pytest.fixture(scope="module")
def found(store, tmp_path_factory) -> dict:
    pytest.importorskip("transformers")
    command = [sys.executable, "-W", "ignore", graphs.__file__, store, str(tmp_path_factory.mktemp("runs"))]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=ranks.TIMEOUT_S,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["nano", "full"])
def test_the_training_step_is_one_graph(found, size):
    """It was compiled with `fullgraph`, which makes any break an error, over batches of different shapes."""
    step = found[size]["step"]
    assert step["terms"] < 1e-5
    assert step["gradients"] < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("size", ["nano", "full"])
def test_the_denoising_loop_is_one_graph(found, size):
    loop = found[size]["loop"]
    assert (loop["graphs"], loop["breaks"]) == (1, 0)
    assert loop["off"] < 1e-5


@pytest.mark.slow
def test_a_compiled_run_goes_on_where_it_stopped(found):
    straight, cut = found["curves"]
    assert len(set(straight)) == 4
    assert cut == pytest.approx(straight, rel=1e-6)


@pytest.mark.parametrize("build", [graphs.nano, graphs.full])
def test_prepared_batches_give_the_same_loss(store, build):
    """What is prepared for the compiler changes nothing of what is computed."""
    batches, scales = graphs.read_batches(store)
    model = graphs.made(build, scales)
    for batch in batches:
        plain, ready = (
            model.loss(given, torch.Generator().manual_seed(1))
            for given in (batch, model_kind("mu0").prepare(model, batch))
        )
        assert {n: float(v) for n, v in plain.items()} == {n: float(v) for n, v in ready.items()}


def test_a_compiled_loss_draws_from_torchs_own_generator(monkeypatch):
    """Generators cannot be traced; the trainer seeds torch's own from the step's instead."""
    seen = []
    monkeypatch.setattr(
        torch, "compile", lambda function, dynamic: lambda b, generator: seen.append(generator) or function(b)
    )

    class Constant(torch.nn.Module):
        def loss(self, batch, generator=None):
            return {"loss": torch.tensor(1.0)}

    assert float(LossModule(Constant(), compiled=True)({}, torch.Generator(), None)[0]) == 1.0
    assert float(LossModule(Constant(), compiled=False)({}, torch.Generator(), None)[0]) == 1.0
    assert seen == [None]
