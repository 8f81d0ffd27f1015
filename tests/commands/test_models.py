"""`train` as a config: what is given wins over the recipe, which wins over the defaults."""

from pathlib import Path

import pytest

from traceworld.cli import main
from traceworld.commands.models import Convert, Train
from traceworld.errors import ConfigError
from traceworld.training.config import TrainConfig


def test_defaults_are_those_of_a_first_run():
    config = Train(data=("a",), out=Path("x")).config()
    assert (config.steps, config.batch, config.workers, config.optimizer) == (1000, 16, 0, "adamw")
    assert (config.time_weight, config.arc_weight) == (0.8, 0.2)
    assert config.recipe is None
    assert config.compile is False


def test_every_option_reaches_the_config():
    given = {
        "model": "tracegen", "size": "4x8", "steps": 7, "batch": 3, "lr": 0.5, "optimizer": "muon", "warmup": 2,
        "schedule": "cosine", "ema": 0.0, "precision": "bf16", "grad_accumulation": 2, "keypoints": (2, 5), "init_from": "w",
        "seed": 9, "workers": 4, "checkpoint_every": 0, "eval_every": 11, "parallel": "fsdp", "compile": True,
        "trackers": ("wandb",),
    }  # fmt: skip
    config = Train(data=("a:2", "b"), out=Path("x"), minutes=1.5, arc_weight=0.25, **given).config()
    stored = config.to_json()
    assert {name: getattr(config, name) for name in given} == given
    assert (config.max_minutes, config.arc_weight, config.time_weight) == (1.5, 0.25, 0.75)
    assert TrainConfig.from_json(stored) == config


def test_what_is_given_wins_over_the_recipe_and_the_recipe_over_the_defaults():
    config = Train(data=("a",), out=Path("x"), recipe="mu0-paper", steps=5).config()
    assert config.steps == 5
    assert (config.batch * config.grad_accumulation, config.size, config.arc_weight, config.time_weight) == (
        24,
        "large",
        1,
        0,
    )
    assert config.recipe == "mu0-paper"


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "mu0"},
        {"kind": "mu0", "stats": Path("s"), "size": "6x12"},
        {"kind": "tracegen"},
        {"kind": "tracegen", "size": "6x12", "keep_backbone": True},
        {"kind": "tracegen", "size": "6x12", "chunk": 8},
        {"kind": "mu0", "stats": Path("s"), "mu0": Path("m")},
        {"kind": "policy"},
        {"kind": "policy", "mu0": Path("m"), "stats": Path("s")},
    ],
)
def test_convert_names_what_each_kind_wants(options):
    with pytest.raises(ConfigError, match=r"wants --[sm]"):
        Convert(source=Path("nowhere"), out=Path("x"), **options).run()


def test_a_missing_release_is_an_error_with_an_exit_code(tmp_path, capsys):
    words = ["convert", "tracegen", str(tmp_path / "no.safetensors"), "--size", "4x8", "--out", str(tmp_path / "out")]
    assert main(words) == 1
    assert "does not exist" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_conditions_on_clips_reach_the_config_from_the_command_line():
    import tyro

    line = ["clips", "--out", "run", "--keep", "visible_fraction>=0.5", "captions!=template"]
    config = tyro.cli(Train, args=line).config()
    assert config.keep == ("visible_fraction>=0.5", "captions!=template")
    assert tyro.cli(Train, args=line[:3]).config().keep == ()
