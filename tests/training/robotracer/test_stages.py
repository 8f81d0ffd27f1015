"""The paper's constants, and options that cannot be."""

import pytest

from traceworld.errors import ConfigError
from traceworld.training.robotracer.rewards import RewardConfig
from traceworld.training.robotracer.rft import trainer_options as rft_options
from traceworld.training.robotracer.rft_config import LoraOptions, RftConfig
from traceworld.training.robotracer.sft import trainer_options as sft_options
from traceworld.training.robotracer.stages import STAGES, SftConfig


def test_the_stages_are_those_of_the_paper():
    found = {name: (s.lr, s.weight_decay, s.warmup, s.epochs, s.batch) for name, s in STAGES.items()}
    assert found == {"alignment": (1e-4, 0.0, 0.03, 1.0, 7), "enhancement": (5e-5, 0.0, 0.03, 1.0, 6)}
    assert SftConfig("alignment").scale_loss_weight == 0.1


def test_a_stage_reaches_the_trainer_as_it_is():
    options = sft_options(SftConfig("enhancement"))
    named = (
        "learning_rate",
        "weight_decay",
        "warmup_steps",
        "num_train_epochs",
        "max_steps",
        "per_device_train_batch_size",
    )
    assert [options[name] for name in named] == [5e-5, 0.0, 0.03, 1.0, -1, 6]
    given = sft_options(
        SftConfig("alignment", lr=1.0, batch=2, epochs=3.0, warmup=0.5, max_steps=9, schedule="constant")
    )
    assert [given[name] for name in named] == [1.0, 0.0, 0.5, 3.0, 9, 2]
    assert given["lr_scheduler_type"] == "constant_with_warmup"


def test_reinforcement_is_that_of_the_paper():
    options = rft_options(RftConfig())
    assert (options["num_generations"], options["num_train_epochs"]) == (8, 2.0)
    assert (options["loss_type"], options["scale_rewards"]) == ("grpo", "group")
    assert options["beta"] > 0
    assert options["reward_weights"] == [1.0, 1.0, 1.0, 0.25, 0.25]
    plain = rft_options(RftConfig(rewards=RewardConfig(weights="eq7"), scale_rewards=False, max_steps=3, beta=0.0))
    assert plain["reward_weights"] == [1.0, 1.0, 0.0, 0.25, 0.25]
    assert (plain["scale_rewards"], plain["max_steps"], plain["beta"]) == ("none", 3, 0.0)


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 0.0},
        {"batch": 0},
        {"drop": 1.5},
        {"warmup": -0.1},
        {"scale_loss_weight": -1.0},
        {"lr": float("nan")},
        {"epochs": 0.0},
    ],
)
def test_impossible_stages_are_refused(change):
    with pytest.raises(ConfigError):
        SftConfig("alignment", **change)


@pytest.mark.parametrize(
    "change",
    [{"samples": 1}, {"beta": -0.1}, {"temperature": 0.0}, {"drop": -0.1}, {"max_new_tokens": 0}, {"lr": -1.0}],
)
def test_impossible_reinforcement_is_refused(change):
    with pytest.raises(ConfigError):
        RftConfig(**change)


@pytest.mark.parametrize("change", [{"rank": 0}, {"alpha": 0}, {"dropout": 1.0}])
def test_impossible_adapters_are_refused(change):
    with pytest.raises(ConfigError):
        LoraOptions(**change)
