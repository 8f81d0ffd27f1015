"""Several processes do what one does: the same gradients, the same run however it is cut, killed or continued."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ranks
import torch
import toy
from safetensors.torch import load_file

from traceworld.errors import ConfigError
from traceworld.training import TrainConfig
from traceworld.training.data import collate, pad_keypoints, rows_of
from traceworld.training.distributed import World, join_world
from traceworld.training.draws import RowsOfDraw
from traceworld.training.run import start_run
from traceworld.training.step import _check

sys.path.insert(0, str(Path(__file__).parents[1] / "traces"))
from trace_clips import write_dataset

PLAIN = TrainConfig(
    data=("toy",),
    out="",
    model="plain",
    steps=5,
    batch=6,
    lr=3e-3,
    workers=0,
    checkpoint_every=100,
    eval_every=100,
    log_every=1,
    ema=0.9,
    threads=1,
)
MU0 = replace(
    PLAIN,
    model="mu0",
    size="tiny",
    batch=5,
    lr=1e-3,
    val_fraction=0.25,
    val_windows=5,
    arc_weight=0.3,
    keypoints=(2, 12),
)


def job(config: TrainConfig, out: Path, **changes) -> dict:
    return replace(config, out=str(out), **changes).to_json()


def lines(out: Path, kind: str = "step") -> list[dict]:
    return [e for e in map(json.loads, (out / "log.jsonl").read_text().splitlines()) if e["kind"] == kind]


def weights(out: Path, step: int = 5) -> dict[str, torch.Tensor]:
    folder = out / "checkpoints" / f"step_{step:08d}"
    found = {
        f"{part}.{name}": tensor
        for part in ("model", "ema")
        for name, tensor in load_file(folder / part / "model.safetensors").items()
    }
    return found | {f"optimizer.{n}": t for n, t in load_file(folder / "optimizer.safetensors").items()}


def largest_difference(a: Path, b: Path) -> float:
    first, second = weights(a), weights(b)
    assert set(first) == set(second)
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of one process and of two, by name: all in one start of two processes."""
    base = tmp_path_factory.mktemp("runs")
    store = write_dataset(base / "store", clips=8, N=16)
    mu0 = replace(MU0, data=(str(store),))
    alone = [
        job(PLAIN, base / "plain"),
        job(PLAIN, base / "accumulated", grad_accumulation=3),
        job(mu0, base / "mu0"),
        job(PLAIN, base / "alone-then-two", steps=3),
    ]
    ranks.run(alone)
    together = [
        job(PLAIN, base / "plain-ddp"),
        job(PLAIN, base / "plain-fsdp", parallel="fsdp"),
        job(PLAIN, base / "accumulated-ddp", grad_accumulation=3),
        job(PLAIN, base / "accumulated-fsdp", grad_accumulation=3, parallel="fsdp"),
        job(mu0, base / "mu0-ddp"),
        job(mu0, base / "mu0-fsdp", parallel="fsdp", gradient_checkpointing=True),
        job(PLAIN, base / "cut", steps=2),
        job(PLAIN, base / "cut"),
        job(PLAIN, base / "alone-then-two", parallel="fsdp"),
        job(PLAIN, base / "two-then-alone", steps=3, parallel="fsdp"),
    ]
    for code, said, errors in ranks.finish(ranks.launch(together)):
        assert (code, said.split()) == (0, ["finished"] * len(together)), errors[-3000:]
    ranks.run([job(PLAIN, base / "two-then-alone")])
    return base


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("plain", "plain-ddp"),
        ("plain", "plain-fsdp"),
        ("accumulated", "accumulated-ddp"),
        ("accumulated", "accumulated-fsdp"),
        ("mu0", "mu0-ddp"),
        ("mu0", "mu0-fsdp"),
    ],
)
def test_two_ranks_equal_one_process_with_the_whole_batch(runs, one, two):
    """Weights, their average and the optimiser's moments after five steps, and every term of every step's loss. The terms
    have different denominators on the two ranks, batches differ in their number of keypoints, and one part of the model is
    used only by some windows: none of it may show."""
    assert largest_difference(runs / one, runs / two) <= 1e-5
    for kind in ("step", "val"):
        for a, b in zip(lines(runs / one, kind), lines(runs / two, kind), strict=True):
            assert a.keys() == b.keys()
            for name in {"loss", "flow", "done", "rig", "grad_norm"} & a.keys():
                assert b[name] == pytest.approx(a[name], rel=2e-5, abs=1e-6), name


def test_every_term_is_at_work_in_these_runs(runs):
    assert all(entry["rig"] > 0 for entry in lines(runs / "mu0"))
    assert all(entry["done"] > 0 for entry in lines(runs / "plain"))
    moments = load_file(runs / "plain" / "checkpoints" / "step_00000005" / "optimizer.safetensors")
    assert "exp_avg:rare.weight" in moments
    assert "exp_avg:never.weight" not in moments  # no gradient on any rank: the optimiser has never seen it


def test_continuing_on_two_ranks_gives_the_same_bytes(runs):
    for part in ("model", "ema"):
        file = Path("checkpoints") / "step_00000005" / part / "model.safetensors"
        assert (runs / "cut" / file).read_bytes() == (runs / "plain-ddp" / file).read_bytes()
    assert [e["loss"] for e in lines(runs / "cut")] == [e["loss"] for e in lines(runs / "plain-ddp")]


@pytest.mark.parametrize("name", ["alone-then-two", "two-then-alone"])
def test_any_number_of_processes_continues_any_checkpoint(runs, name):
    assert largest_difference(runs / "plain", runs / name) <= 1e-5
    assert [e["step"] for e in lines(runs / name)] == [1, 2, 3, 4, 5]


def test_only_the_first_rank_writes(runs):
    assert sorted(p.name for p in (runs / "plain-ddp").iterdir()) == [
        "checkpoints",
        "log.jsonl",
        "model",
        "result.json",
    ]
    (start,) = lines(runs / "plain-ddp", "start")
    assert (start["ranks"], start["config"]["batch"]) == (2, 6)
    assert len(lines(runs / "plain-ddp")) == 5


def wait_for_step(out: Path, step: int, processes: list[subprocess.Popen]) -> None:
    deadline = time.monotonic() + ranks.TIMEOUT_S
    while time.monotonic() < deadline and all(p.poll() is None for p in processes):
        if (out / "log.jsonl").exists() and any(e["step"] >= step for e in lines(out)):
            return
        time.sleep(0.02)
    pytest.fail(f"did not get to step {step}: {ranks.finish(processes, 5)}")


@pytest.mark.slow
def test_a_killed_rank_ends_the_others_and_the_run_goes_on_as_if_nothing_had_been(tmp_path):
    straight, out = tmp_path / "straight", tmp_path / "out"
    long = replace(PLAIN, steps=40, checkpoint_every=3)
    broken = ranks.launch([job(long, out)], slow_s=0.1)
    wait_for_step(out, 5, broken)
    broken[1].kill()
    killed = time.monotonic()
    (code, _, errors), _ = ranks.finish(broken)
    assert time.monotonic() - killed < ranks.TIMEOUT_S / 4
    assert code not in (0, None)
    assert "RankLostError: rank 0: another of the 2 ranks died" in errors
    assert not (out / "model").exists()

    stopped = ranks.launch([job(long, out)], slow_s=0.1)
    wait_for_step(out, lines(out)[-1]["step"] + 3, stopped)
    stopped[1].send_signal(signal.SIGTERM)  # to one of them
    ended = ranks.finish(stopped)
    assert [(code, said.strip()) for code, said, _ in ended] == [(0, "interrupted")] * 2, ended
    result = json.loads((out / "result.json").read_text())
    assert result["status"] == "interrupted"
    assert result["step"] < 40
    assert result["checkpoint"].endswith(f"{result['step']:08d}")

    ended = ranks.finish(ranks.launch([job(long, out), job(long, straight)]))
    assert [(code, said.strip()) for code, said, _ in ended] == [(0, "finished finished")] * 2, ended
    curve = [[(e["step"], e["loss"], e["grad_norm"]) for e in lines(run)] for run in (straight, out)]
    assert [step for step, *_ in curve[0]] == list(range(1, 41))
    assert curve[0] == curve[1]
    assert (out / "model/model.safetensors").read_bytes() == (straight / "model/model.safetensors").read_bytes()


@pytest.mark.slow
def test_torchrun_starts_the_command_line(tmp_path):
    store = write_dataset(tmp_path / "store", clips=8, N=16)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]
    command += [str(ranks.free_port()), "-m", "traceworld.cli", "train", str(store), "--out", str(tmp_path / "run")]
    command += ["--steps", "2", "--batch", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "finished"
    assert lines(tmp_path / "run", "start")[0]["ranks"] == 2


# --- the parts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("total", "size"), [(6, 2), (5, 2), (7, 3), (2, 3), (1, 4)])
def test_rows_are_shared_without_gap_or_repetition(total, size):
    rows = [rows_of(total, rank, size) for rank in range(size)]
    assert [n for r in rows for n in range(r.first, r.first + r.count)] == list(range(total))
    assert all(len(r.read) >= 1 and r.read.start >= 0 and r.read.stop <= total for r in rows)
    assert max(r.count for r in rows) - min(r.count for r in rows) <= 1


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 1, 4)])
@pytest.mark.parametrize("draw", [torch.rand, torch.randn])
def test_drawn_rows_are_those_of_the_whole_batch(draw, shape):
    whole = draw((7, *shape[1:]), generator=torch.Generator().manual_seed(5))
    following = draw((7, 2), generator=(generator := torch.Generator().manual_seed(6)))
    generator.manual_seed(6)
    with RowsOfDraw(generator, 2, 3, 7):
        first = draw((3, 2), generator=generator)
        assert draw(4).shape == (4,)  # other draws are left alone
        generator.manual_seed(5)
        tuples, sizes = draw(shape, generator=generator), None
        generator.manual_seed(5)
        sizes = draw(*shape, generator=generator)
    assert torch.equal(first, following[2:5])
    assert torch.equal(tuples, whole[2:5])
    assert torch.equal(sizes, whole[2:5])


def test_a_draw_that_has_no_rows_is_refused():
    generator = torch.Generator()
    with RowsOfDraw(generator, 0, 3, 6):
        with pytest.raises(ConfigError, match="no row for each of the 3 windows"):
            torch.randn((4, 2), generator=generator)
        with pytest.raises(ConfigError, match="randperm"):
            torch.randperm(3, generator=generator)


def test_padding_later_equals_padding_together():
    samples = [toy.ToyWindows(9).sample(i, seed=0, epoch=0) for i in range(6)]
    whole, parts = collate(samples), [collate(samples[:2]), collate(samples[2:])]
    most = whole["present"].shape[1]
    padded = [pad_keypoints(part, most) for part in parts]
    for key, value in whole.items():
        if isinstance(value, torch.Tensor):
            np.testing.assert_array_equal(torch.cat([part[key] for part in padded]).numpy(), value.numpy(), key)


def test_terms_that_are_not_the_loss_are_refused():
    parts = {"loss": torch.tensor(2.0), "flow": torch.tensor(1.5), "done": torch.tensor(1.0)}
    _check(parts, {"flow": 1.0, "done": 0.5})
    with pytest.raises(ConfigError, match="shares"):
        _check(parts, {"flow": 1.0})


def test_a_batch_smaller_than_the_world_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="6 windows cannot be shared by 8 ranks"):
        start_run(replace(PLAIN, model="toy"), tmp_path, toy.toy_data(), World(0, 8))


@pytest.mark.parametrize("option", [{"compile": True}, {"optimizer": "muon"}])
def test_what_fsdp_cannot_is_refused(tmp_path, monkeypatch, option):
    monkeypatch.setattr(World, "gather", lambda self, numbers: np.array([numbers] * self.size, float))
    config = replace(PLAIN, model="toy", parallel="fsdp", **option)
    with pytest.raises(ConfigError, match=f"{next(iter(option))}: is not supported with parallel='fsdp'"):
        start_run(config, tmp_path, toy.toy_data(), World(0, 2))


def test_half_of_torchruns_variables_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="RANK"), join_world("cpu"):
        pass


def test_one_process_is_a_world_of_its_own():
    with join_world("cpu") as world:
        assert world.leads
        np.testing.assert_array_equal(world.gather([1, 2.5]), [[1, 2.5]])
        assert world.any(True, False) == [True, False]
        assert world.gather_objects("x") == ["x"]
        with world.leader_first():
            world.wait()
    with pytest.raises(ConfigError, match="no device"), join_world("toaster"):
        pass
