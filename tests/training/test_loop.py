"""The loop on a toy: it learns, and however a run is cut to pieces the weights are the same to the last bit."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import toy
from safetensors.torch import load_file

from traceworld.errors import CheckpointError, ConfigError, DatasetError, NonFiniteLossError
from traceworld.training import TrainConfig, optim, train
from traceworld.training.registry import register_model

TESTS = Path(__file__).parent


def config(out, **changes) -> TrainConfig:
    base = TrainConfig(
        data=("toy",),
        out=str(out),
        model="toy",
        steps=12,
        batch=4,
        lr=3e-3,
        workers=0,
        checkpoint_every=4,
        eval_every=4,
    )
    return replace(base, log_every=1, ema=0.9, **changes)


def lines(out: Path, kind: str) -> list[dict]:
    return [e for e in map(json.loads, (out / "log.jsonl").read_text().splitlines()) if e["kind"] == kind]


def result_bytes(out: Path) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """A run of 12 steps that never stopped."""
    out = tmp_path_factory.mktemp("straight")
    train(config(out), toy.toy_data())
    return out


def test_it_learns(tmp_path):
    result = train(config(tmp_path, steps=180, eval_every=60, checkpoint_every=60), toy.toy_data())
    losses = [entry["loss"] for entry in lines(tmp_path, "val")]
    assert len(losses) == 3
    assert losses[-1] < 0.9 * losses[0]
    assert result.status == "finished"
    assert result.best_loss == min(losses)
    assert result.trained_parameters == result.parameters - 3


def test_log_has_every_step_with_its_parts(straight):
    steps = lines(straight, "step")
    assert [entry["step"] for entry in steps] == list(range(1, 13))
    assert {"loss", "flow", "lr", "grad_norm", "samples_per_s", "wait_s", "time"} <= set(steps[0])


def test_last_and_best_checkpoint_are_kept_and_nothing_else(straight):
    best = min(lines(straight, "val"), key=lambda entry: entry["loss"])["step"]
    found = sorted(p.name for p in (straight / "checkpoints").iterdir())
    assert found == sorted({f"step_{best:08d}", "step_00000012"})
    assert json.loads((straight / "result.json").read_text())["best_step"] == best


def test_the_result_is_the_average_not_the_last_weights(straight):
    folder = straight / "checkpoints" / "step_00000012"
    assert result_bytes(straight) == (folder / "ema" / "model.safetensors").read_bytes()
    assert result_bytes(straight) != (folder / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_readers_changes_nothing(straight, tmp_path, workers):
    train(config(tmp_path, workers=workers), toy.toy_data())
    assert result_bytes(tmp_path) == result_bytes(straight)


@pytest.mark.parametrize("cut", [4, 5, 11])
def test_continuing_gives_the_same_bytes(straight, tmp_path, cut):
    train(config(tmp_path, steps=cut), toy.toy_data())
    train(config(tmp_path), toy.toy_data())
    assert result_bytes(tmp_path) == result_bytes(straight)
    assert [e["step"] for e in lines(tmp_path, "step")] == list(range(1, 13))


def test_continuing_with_two_optimisers_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(optim, "_MUON_MIN_SIDE", 16)  # the toy is narrow
    for out, stops in ((tmp_path / "once", (12,)), (tmp_path / "twice", (5, 12))):
        for steps in stops:
            train(replace(config(out, steps=steps), optimizer="muon"), toy.toy_data())
    assert result_bytes(tmp_path / "once") == result_bytes(tmp_path / "twice")


def test_a_finished_run_started_again_is_left_as_it_is(straight, tmp_path):
    train(config(tmp_path), toy.toy_data())
    result = train(config(tmp_path), toy.toy_data())
    assert (result.status, result.step) == ("finished", 12)
    assert result_bytes(tmp_path) == result_bytes(straight)


class Mean(torch.nn.Module):
    """A loss without noise: its gradient is the mean over the windows of a batch."""

    def __init__(self):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(1))
        self.weight = torch.nn.Parameter(torch.ones(8, 3))

    def loss(self, batch, generator):
        shade = batch["image"].float().mean((1, 2, 3)) / 255
        return {"loss": ((shade * self.weight.sum() - 1 + self.shift) ** 2).mean()}


def test_accumulated_small_batches_equal_one_large(tmp_path):
    register_model("mean", lambda: replace(toy.toy_kind(), build=lambda config: Mean()))
    norms = []
    for name, batch, parts in (("one", 8, 1), ("four", 2, 4)):
        run = config(tmp_path / name, steps=3, batch=batch, grad_accumulation=parts)
        train(replace(run, model="mean"), toy.toy_data())
        norms.append([entry["grad_norm"] for entry in lines(tmp_path / name, "step")])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    assert len(norms[0]) == 3


def test_time_limit_stops_with_a_checkpoint(tmp_path):
    result = train(config(tmp_path, max_minutes=1e-9), toy.toy_data())
    assert (result.status, result.step) == ("out_of_time", 1)
    assert Path(result.checkpoint).is_dir()
    assert Path(result.model).is_dir()


def test_init_from_starts_at_those_weights(straight, tmp_path):
    run = config(tmp_path, steps=1, init_from=str(straight / "model"), lr=1e-12)
    train(replace(run, ema=0.0), toy.toy_data())
    old, new = load_file(straight / "model" / "model.safetensors"), load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.allclose(old[name], new[name], atol=1e-9) for name in old)


def test_bf16_runs_and_keeps_fp32_weights(tmp_path):
    train(config(tmp_path, steps=2, precision="bf16"), toy.toy_data())
    assert all(t.dtype == torch.float32 for t in load_file(tmp_path / "model" / "model.safetensors").values())


def test_nan_names_step_and_windows(tmp_path):
    with pytest.raises(NonFiniteLossError, match=r"step \d+, windows .*toy-7"):
        train(config(tmp_path), toy.toy_data(poison=7))


def test_other_options_do_not_continue_a_run(straight):
    with pytest.raises(ConfigError, match="lr"):
        train(replace(config(straight), lr=1e-5), toy.toy_data())


def test_damaged_checkpoint_is_named(tmp_path):
    train(config(tmp_path, steps=4), toy.toy_data())
    path = tmp_path / "checkpoints" / "step_00000004" / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors"):
        train(config(tmp_path), toy.toy_data())


def test_windowless_source_is_refused(tmp_path):
    data = replace(toy.toy_data(), train=[toy.ToyWindows(0)])
    with pytest.raises(DatasetError, match="no window"):
        train(config(tmp_path), data)


def test_unknown_model_and_impossible_option(tmp_path):
    with pytest.raises(ConfigError, match="known:"):
        train(replace(config(tmp_path), model="toi"), toy.toy_data())
    with pytest.raises(ConfigError, match="cannot recompute"):
        train(config(tmp_path, gradient_checkpointing=True), toy.toy_data())


SCRIPT = """
import sys, time; sys.path.insert(0, sys.argv[1])
import toy, test_loop
from traceworld.training import train
step = toy.ToyModel.loss
toy.ToyModel.loss = lambda *a: (time.sleep(0.05), step(*a))[1]  # slow enough to be hit
print(train(test_loop.config(sys.argv[2], workers=1), toy.toy_data()).status)
"""


def launch(out: Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", SCRIPT, str(TESTS), str(out)]
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def wait_for_step(out: Path, step: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        path = out / "log.jsonl"
        if path.exists() and path.read_text().count('"step"') // 2 >= step:
            return
        time.sleep(0.01)
    pytest.fail("the run did not get that far")


def test_sigkill_and_restart_give_the_bytes_of_a_run_that_never_stopped(straight, tmp_path):
    process = launch(tmp_path)
    wait_for_step(tmp_path, 6, process)
    process.kill()
    process.wait()
    assert not (tmp_path / "model").exists()
    result = train(config(tmp_path), toy.toy_data())
    assert result.status == "finished"
    assert result_bytes(tmp_path) == result_bytes(straight)
    assert not list(tmp_path.rglob(".*tmp"))


@pytest.mark.parametrize("target", [os.kill, os.killpg], ids=["process", "group"])
def test_sigterm_ends_cleanly_after_the_step(straight, tmp_path, target):
    process = launch(tmp_path)
    wait_for_step(tmp_path, 2, process)
    target(process.pid, signal.SIGTERM)  # its session leader: process and group have one number
    said, _ = process.communicate(timeout=30)
    assert (process.returncode, said.strip()) == (0, "interrupted")
    assert (tmp_path / "checkpoints").exists()
    train(config(tmp_path), toy.toy_data())
    assert result_bytes(tmp_path) == result_bytes(straight)
