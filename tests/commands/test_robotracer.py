"""`train robotracer-sft` and `train robotracer-rft`: their options reach the runs."""

from pathlib import Path

import pytest
import tyro

from traceworld.commands.robotracer import TrainRoboTracerRft, TrainRoboTracerSft
from traceworld.errors import CheckpointError, DatasetError
from traceworld.training.robotracer.rewards import RewardConfig
from traceworld.training.robotracer.rft_config import LoraOptions, RftConfig
from traceworld.training.robotracer.stages import SftConfig

DATA = (Path("train.json"),)


def test_a_stage_is_that_of_the_paper_unless_said():
    config = TrainRoboTracerSft(DATA, "base", Path("out"), "alignment").config()
    assert config == SftConfig("alignment", precision="bf16", workers=2)


def test_every_option_of_a_stage_reaches_it():
    given = {
        "lr": 0.5, "batch": 3, "epochs": 2.0, "max_steps": 5, "grad_accumulation": 4, "scale_loss_weight": 0.2, "drop": 0.1,
        "precision": "fp32", "gradient_checkpointing": True, "workers": 1, "save_every": 6, "log_every": 7, "seed": 8,
    }  # fmt: skip
    config = TrainRoboTracerSft(DATA, "base", Path("out"), "enhancement", **given).config()
    assert {name: getattr(config, name) for name in given} == given


def test_reinforcement_is_that_of_the_paper_unless_said():
    assert TrainRoboTracerRft(DATA, Path("m"), Path("out")).config() == RftConfig(precision="bf16")


def test_every_option_of_reinforcement_reaches_it():
    given = {
        "samples": 4, "batch": 2, "grad_accumulation": 2, "epochs": 1.0, "max_steps": 5, "lr": 0.5, "beta": 0.1, "temperature": 0.7,
        "max_new_tokens": 9, "drop": 0.2, "precision": "fp32", "gradient_checkpointing": True, "save_every": 6, "log_every": 7, "seed": 8,
    }  # fmt: skip
    rewards = {"weights": "eq7", "accuracy": "sum", "process_format": "all", "warping": "sum"}
    config = TrainRoboTracerRft(DATA, Path("m"), Path("out"), **given, **rewards, lora_rank=3).config()
    assert {name: getattr(config, name) for name in given} == given
    assert config.rewards == RewardConfig(**rewards)
    assert config.lora == LoraOptions(rank=3, alpha=6)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"train\.json"):
        TrainRoboTracerSft((tmp_path / "train.json",), "base", tmp_path / "out", "alignment").run()
    (tmp_path / "train.json").write_text("[]")
    with pytest.raises((DatasetError, CheckpointError)):
        TrainRoboTracerRft((tmp_path / "train.json",), tmp_path / "model", tmp_path / "out").run()


def test_the_command_line_reads_both():
    words = ["a.json", "b.json", "--model", "base", "--out", "run", "--stage", "alignment", "--lr", "0.1", "--json"]
    stage = tyro.cli(TrainRoboTracerSft, args=words)
    assert (stage.data, stage.config().lr, stage.json) == ((Path("a.json"), Path("b.json")), 0.1, True)
    words = [
        "a.json",
        "--model",
        "m",
        "--out",
        "run",
        "--steps",
        "2",
        "9",
        "--families",
        "trace",
        "reasoning",
        "--beta",
        "0",
    ]
    run = tyro.cli(TrainRoboTracerRft, args=words)
    assert (run.steps, run.families, run.config().beta) == ((2, 9), ("trace", "reasoning"), 0)
