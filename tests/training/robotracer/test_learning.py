"""That it learns (slow): the scale error of held-out scenes falls in fine-tuning, the reward of held-out scenes rises in
reinforcement. With TRACEWORLD_CURVES=FOLDER the curves are kept there as JSON."""

import dataclasses
import json
import os
from pathlib import Path

import blocks
import numpy as np
import pytest
import torch

pytest.importorskip("trl", reason="the robotracer extra is not installed; `make test-robotracer`")

import robotracer_toys as toys
import short_toys

from traceworld.models.robotracer.nano_words import coarse
from traceworld.training.robotracer.examples import Examples
from traceworld.training.robotracer.records import read_records
from traceworld.training.robotracer.rewards import WEIGHTS, RewardConfig, reward
from traceworld.training.robotracer.rft import train_rft
from traceworld.training.robotracer.rft_config import RftConfig
from traceworld.training.robotracer.sft import train_sft
from traceworld.training.robotracer.stages import SftConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
ANSWER_LENGTH = 48


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """(training, held-out) records."""
    folder = tmp_path_factory.mktemp("blocks")
    return [
        read_records(blocks.write_file(folder / name, range(*seeds)))
        for name, *seeds in (("train", 0, 400), ("held", 1000, 1032))
    ]


def keep(tmp_path, name, curves):
    """Write curves where they are wanted."""
    folder = Path(os.environ.get("TRACEWORLD_CURVES", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(curves, indent=1))


def log_of(out, *names):
    """{name: values} of a run's log, with its steps."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {name: [line[name] for line in lines if names[0] in line] for name in ("step", *names)}


def scale_error(model, processor, records, drop):
    """Mean |log ŝ − log s*|."""
    examples = Examples(records, drop=drop)
    with torch.no_grad():
        batch = processor.training_batch([examples[index] for index in range(len(examples))])
        return float((model(**batch).log_scale - batch["scale_target"].log()).abs().mean())


def mean_reward(model, processor, records, samples=4):
    """Weighted reward of answers drawn at temperature 1, mean over held-out questions."""
    examples = Examples(records, drop=0.0)
    batch = processor.generation_batch([examples[index] for index in range(len(examples))])
    ids = model.generate(**batch, num_answers=samples, temperature=1.0, seed=7, max_new_tokens=ANSWER_LENGTH).ids
    truths = [examples.annotation(index) for index in range(len(examples)) for _ in range(samples)]
    config = RewardConfig()
    totals = [
        reward(text, truth, config).total(WEIGHTS[config.weights])
        for text, truth in zip(processor.decode(ids), truths, strict=True)
    ]
    return float(np.mean(totals))


def test_the_scale_error_of_held_out_scenes_falls(scenes, tmp_path):
    train, held = scenes
    model, processor = toys.make()
    before = {drop: scale_error(model, processor, held, drop) for drop in (0.0, 1.0)}
    config = SftConfig("enhancement", lr=3e-3, batch=8, max_steps=900, log_every=25, save_every=900)
    train_sft(model, processor, Examples(train), config, tmp_path / "run")
    after = {drop: scale_error(model, processor, held, drop) for drop in (0.0, 1.0)}
    curves = log_of(tmp_path / "run", "loss", "ntp_loss", "scale_loss")
    named = {0.0: "all_geometry", 1.0: "picture_alone"}
    figures = {
        f"{when}_{named[drop]}": values[drop]
        for when, values in (("before", before), ("after", after))
        for drop in named
    }
    keep(tmp_path, "sft_scale", {**curves, **figures})
    assert after[0.0] < before[0.0] / 3, figures
    assert curves["scale_loss"][-1] < curves["scale_loss"][0] / 3


def short_answers(records, count):
    """The first records with answers rounded to what has a token."""
    return [
        dataclasses.replace(record, turns=tuple((asked, coarse(answer)) for asked, answer in record.turns))
        for record in records[:count]
    ]


def test_the_reward_of_held_out_scenes_rises(scenes, tmp_path):
    """Fine-tuning is stopped while many answers still have the wrong form: reinforcement is to teach form and points from
    rewards alone."""
    train, held = (short_answers(records, count) for records, count in zip(scenes, (200, 32), strict=True))
    kept = []
    for seed in range(3):
        model, processor = short_toys.make(seed=seed)
        brief = SftConfig("enhancement", lr=3e-3, batch=8, max_steps=160, save_every=160, seed=seed)
        train_sft(model, processor, Examples(train, seed=seed), brief, tmp_path / f"sft{seed}")
        before = mean_reward(model, processor, held)
        config = RftConfig(
            batch=64,
            max_steps=60,
            lr=3e-4,
            max_new_tokens=ANSWER_LENGTH,
            save_every=60,
            seed=seed,
            schedule="constant",
        )
        train_rft(model, processor, Examples(train, seed=seed), config, tmp_path / f"rft{seed}")
        after = mean_reward(model, processor, held)
        names = (
            "reward",
            "kl",
            *(f"rewards/{name}/mean" for name in ("format", "points", "trace", "process_format", "accuracy")),
        )
        kept.append({"seed": seed, "before": before, "after": after, **log_of(tmp_path / f"rft{seed}", *names)})
    keep(tmp_path, "rft_reward", kept)
    rises = [found["after"] / found["before"] - 1 for found in kept]
    assert min(rises) >= 0.3, rises
