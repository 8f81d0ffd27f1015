"""Trackers: off by default, called as their packages are called, continued where a run is continued."""

import json
import sys
import types
from dataclasses import replace

import pytest
import toy

from traceworld.errors import ConfigError, MissingExtraError
from traceworld.training import TrainConfig, train
from traceworld.training.trackers import Tracker, open_tracker

CONFIG = TrainConfig(
    data=("toy",), out="", model="toy", steps=4, batch=3, workers=0, log_every=2, eval_every=4, checkpoint_every=4
)


class Calls(list):
    """Who was called with what."""


def fake_wandb(calls: Calls) -> types.ModuleType:
    """The parts of wandb that are used, with the signatures of its reference (0.2x): unknown arguments are errors."""
    module = types.ModuleType("wandb")

    class Run:
        def log(self, data, step=None, commit=None):
            calls.append(("log", step, data))

        def finish(self, exit_code=None, quiet=None):
            calls.append(("finish",))

    def init(
        entity=None, project=None, dir=None, id=None, name=None, notes=None, tags=None, config=None, group=None,
        job_type=None, mode=None, force=None, reinit=None, resume=None, resume_from=None, fork_from=None, settings=None,
    ):  # fmt: skip
        calls.append(("init", {"project": project, "id": id, "name": name, "config": config, "resume": resume}))
        return Run()

    module.init = init
    return module


def fake_trackio(calls: Calls) -> types.ModuleType:
    """The parts of trackio that are used, with the signatures of its reference (0.26)."""
    module = types.ModuleType("trackio")

    def init(
        project, name=None, group=None, space_id=None, server_url=None, space_storage=None, dataset_id=None,
        bucket_id=None, config=None, resume="never", settings=None, private=None, embed=True, auto_log_gpu=None,
    ):  # fmt: skip
        calls.append(("init", {"project": project, "id": name, "name": name, "config": config, "resume": resume}))

    module.init = init
    module.log = lambda metrics, step=None: calls.append(("log", step, metrics))
    module.finish = lambda: calls.append(("finish",))
    return module


@pytest.mark.parametrize(("name", "fake"), [("wandb", fake_wandb), ("trackio", fake_trackio)])
def test_curves_arrive_and_a_continued_run_keeps_its_identity(tmp_path, monkeypatch, name, fake):
    calls = Calls()
    monkeypatch.setitem(sys.modules, name, fake(calls))
    run = replace(CONFIG, out=str(tmp_path), trackers=(name,), project="traces")
    train(run, toy.toy_data())
    train(replace(run, steps=6), toy.toy_data())
    kinds = [call[0] for call in calls]
    assert kinds == ["init", "log", "log", "log", "finish", "init", "log", "log", "finish"]
    first, second = (call[1] for call in calls if call[0] == "init")
    assert first["project"] == "traces"
    assert first["resume"] == "allow"
    assert first["id"] == second["id"]
    assert first["config"]["lr"] == CONFIG.lr
    points = [(call[1], sorted(call[2])) for call in calls if call[0] == "log"]
    assert [step for step, _ in points] == [2, 4, 4, 6, 6]
    assert {"train/loss", "train/lr", "train/grad_norm"} <= set(points[0][1])
    assert points[2][1] == ["val/flow", "val/loss"]
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").open()]
    (entry,) = [e for e in logged if e["kind"] == "step" and e["step"] == 2]
    assert calls[1][2]["train/loss"] == entry["loss"]


def test_none_is_used_unless_asked_for(tmp_path, monkeypatch):
    for name in ("wandb", "trackio", "tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it would raise
    assert CONFIG.trackers == ()
    train(replace(CONFIG, out=str(tmp_path)), toy.toy_data())
    assert (tmp_path / "log.jsonl").exists()


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
def test_a_missing_package_is_named_with_its_remedy(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"'{name}' is not installed .*traceworld\[logging\]"):
        train(replace(CONFIG, out=str(tmp_path), trackers=(name,)), toy.toy_data())


def test_unknown_trackers_are_refused():
    with pytest.raises(ConfigError, match="comet"):
        replace(CONFIG, trackers=("comet",))


def test_tensorboard_is_called_as_it_is(tmp_path, monkeypatch):
    calls = Calls()

    class SummaryWriter:
        def __init__(self, log_dir=None, comment="", purge_step=None, max_queue=10, flush_secs=120, filename_suffix=""):
            calls.append(("init", log_dir, purge_step))

        def add_scalar(
            self, tag, scalar_value, global_step=None, walltime=None, new_style=False, double_precision=False
        ):
            calls.append((tag, scalar_value, global_step))

        def close(self):
            calls.append(("close",))

    monkeypatch.setitem(sys.modules, "tensorboard", types.ModuleType("tensorboard"))
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    tracker = open_tracker("tensorboard", tmp_path, CONFIG, 4)
    assert isinstance(tracker, Tracker)
    tracker.log(5, {"train/loss": 0.5})
    tracker.close()
    assert calls == [("init", str(tmp_path / "tensorboard"), 5), ("train/loss", 0.5, 5), ("close",)]


def test_tensorboard_itself(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(replace(CONFIG, out=str(tmp_path), trackers=("tensorboard",)), toy.toy_data())
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [event.step for event in found.Scalars("train/loss")] == [2, 4]
