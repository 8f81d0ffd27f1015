import json
from types import SimpleNamespace

import pytest
import stages

from traceworld.errors import ConfigError
from traceworld.training import TrainConfig


def test_minutes_add_up_over_restarts_and_failures(tmp_path, monkeypatch):
    clock = iter([0.0, 60.0, 100.0, 220.0, 300.0, 330.0])
    monkeypatch.setattr(stages.time, "monotonic", lambda: next(clock))
    with stages.stage(tmp_path, "train"):
        pass
    with pytest.raises(ValueError, match="power cut"), stages.stage(tmp_path, "train"):
        raise ValueError("power cut")
    with stages.stage(tmp_path, "score"):
        pass
    assert stages.minutes_of(tmp_path) == {"train": 3.0, "score": 0.5}
    assert stages.minutes_of(tmp_path / "nowhere") == {}


def test_what_is_there_is_not_made_again(tmp_path):
    made = []
    path = tmp_path / "deep" / "x.json"
    for _ in range(2):
        assert stages.once(path, lambda: made.append(1) or {"a": [1, 2]}) == {"a": [1, 2]}
    assert made == [1]


def test_nothing_is_left_of_a_result_that_failed(tmp_path):
    with pytest.raises(ZeroDivisionError):
        stages.once(tmp_path / "x.json", lambda: {"a": 1 / 0})
    assert list(tmp_path.iterdir()) == []


def test_a_run_goes_on_with_its_own_options_only(tmp_path):
    first = stages.keep_options(tmp_path, {"steps": 3, "tasks": ("a", "b"), "corpus": tmp_path})
    assert first == {"steps": 3, "tasks": ["a", "b"], "corpus": str(tmp_path)}
    assert stages.keep_options(tmp_path, {"steps": 3, "tasks": ["a", "b"], "corpus": str(tmp_path)}) == first
    with pytest.raises(ConfigError, match=r"steps: was 3 .* now 4"):
        stages.keep_options(tmp_path, {"steps": 4, "tasks": ("a", "b"), "corpus": tmp_path})
    with pytest.raises(ConfigError, match="new"):
        stages.keep_options(tmp_path, {"steps": 3, "tasks": ("a", "b"), "corpus": tmp_path, "new": 1})


def test_seconds_per_step_come_from_a_run_of_this_very_kind_that_leaves_nothing(tmp_path, monkeypatch):
    asked = []

    def train(config):
        asked.append(config)
        (tmp_path / "trial").mkdir()
        return SimpleNamespace(status="finished", samples_per_s=32.0)

    monkeypatch.setattr(stages, "train", train)
    config = TrainConfig(data=("d",), out="run", batch=16, lr=0.5, steps=9, warmup=4, grad_accumulation=2)
    assert stages.seconds_per_step(config, tmp_path / "trial") == 1.0
    assert asked[0].out == str(tmp_path / "trial")
    assert (asked[0].lr, asked[0].batch, asked[0].val_fraction) == (0.5, 16, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_training_is_not_taken_for_a_finished_one(tmp_path, monkeypatch):
    config = TrainConfig(data=("d",), out=str(tmp_path))
    monkeypatch.setattr(stages, "train", lambda config: SimpleNamespace(status="interrupted", step=7))
    with pytest.raises(SystemExit, match="step 7"):
        stages.finished(config)
    with pytest.raises(SystemExit, match="measuring"):
        stages.seconds_per_step(config, tmp_path / "trial")


def test_figures_of_cost_say_what_they_were_measured_on():
    found = stages.machine(2)
    assert found["threads"] == 2
    assert json.loads(json.dumps(found)) == found


def test_what_is_packed_can_be_read_by_all(tmp_path):
    (tmp_path / "inner").mkdir(mode=0o700)
    file = tmp_path / "inner" / "weights"
    file.write_bytes(b"")
    file.chmod(0o600)
    stages.readable(tmp_path)
    assert file.stat().st_mode & 0o777 == 0o644
    assert file.parent.stat().st_mode & 0o777 == 0o755
