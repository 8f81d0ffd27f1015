"""The runs of `robotracer_nano.py`: a base that has learned to point, two stages of fine-tuning from it, and reinforcement. Each
goes on where it was stopped."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from traceworld.extras import require
from traceworld.models.robotracer.checkpoint import is_robotracer, load_robotracer
from traceworld.models.robotracer.config import RoboTracerConfig
from traceworld.models.robotracer.nano import NANO, RGB_ONLY, make_nano
from traceworld.training.robotracer.examples import Examples
from traceworld.training.robotracer.pointing import PointingConfig, train_pointing
from traceworld.training.robotracer.records import Record, read_records
from traceworld.training.robotracer.rft import train_rft
from traceworld.training.robotracer.rft_config import RftConfig
from traceworld.training.robotracer.run_folder import RESULT_FOLDER
from traceworld.training.robotracer.sft import train_sft
from traceworld.training.robotracer.stages import SCALE_LOSS_WEIGHT, SftConfig

ALIGNED = 0.05
"""Part of a run's steps in the first stage, in which the spatial encoder learns beside the base that can point."""
QUESTIONS_POINTED = 4
"""Questions about each picture while the base learns to point: few, for more pictures in a step."""
GUIDE = 1.0
"""Weight of guided attention, in the second stage."""
DROP = {"intrinsics": 0.3, "depth_m": 0.3, "poses": 1.0}
"""How often each input is left out, so that any subset works later. The benchmark gives no pose."""
SETTINGS: dict[str, tuple[RoboTracerConfig, float]] = {
    "robotracer-nano": (NANO, SCALE_LOSS_WEIGHT),
    "full": (NANO, SCALE_LOSS_WEIGHT),
    "no-scale-loss": (dataclasses.replace(NANO, scale_loss_weight=0.0), 0.0),
    "rgb-only": (RGB_ONLY, SCALE_LOSS_WEIGHT),
}
"""Run → model and weight of the scale loss."""
_CALIBRATION_STEPS = 10


@dataclass(frozen=True)
class Budget:
    """Steps of the base that all runs share, of `robotracer-nano`, of each variant and of reinforcement; pictures per step,
    questions per picture."""

    pointing_steps: int
    steps: int
    ablation_steps: int
    rft_steps: int
    batch: int
    questions: int
    lr: float
    seed: int

    def of(self, name: str) -> int:
        return self.steps if name == "robotracer-nano" else self.ablation_steps


def stages_of(name: str, budget: Budget) -> dict[str, SftConfig]:
    """The two stages of a run."""
    steps, weight = budget.of(name), SETTINGS[name][1]
    first = max(1, round(ALIGNED * steps))
    common: dict[str, Any] = {
        "lr": budget.lr,
        "batch": budget.batch,
        "optimizer": "muon",
        "precision": "bf16",
        "scale_loss_weight": weight,
        "drop": DROP["depth_m"],
        "seed": budget.seed,
        "save_every": 200,
        "log_every": 20,
    }
    return {
        "alignment": SftConfig("alignment", max_steps=first, schedule="constant", **common),
        "enhancement": SftConfig("enhancement", max_steps=max(1, steps - first), guide=GUIDE, **common),
    }


def pointed(budget: Budget, data: Path, out: Path) -> Path:
    """The base of all runs: new, without a spatial encoder, taught to point. Returns its checkpoint folder."""
    if not is_robotracer(out / RESULT_FOLDER):
        model, processor = make_nano(RGB_ONLY, budget.seed)
        examples = Examples(read_records(data), 1.0, budget.seed, QUESTIONS_POINTED)
        train_pointing(model, processor, examples, pointing_options(budget), out)
    return out / RESULT_FOLDER


def pointing_options(budget: Budget) -> PointingConfig:
    """Four times as many pictures a step as in fine-tuning: there is no answer to spell."""
    return PointingConfig(budget.pointing_steps, lr=budget.lr, batch=4 * budget.batch, seed=budget.seed)


def trained(name: str, budget: Budget, data: Path, base: Path, out: Path) -> Path:
    """Both stages of a run, from a base that can point; returns the checkpoint folder of the second."""
    for stage, config in stages_of(name, budget).items():
        folder = out / stage
        if is_robotracer(folder / RESULT_FOLDER):
            continue
        if stage == "alignment":
            model, processor = make_nano(SETTINGS[name][0], budget.seed, load_robotracer(base).model.vlm)
        else:
            loaded = load_robotracer(out / "alignment" / RESULT_FOLDER)
            model, processor = loaded.model, loaded.processor
        examples = Examples(read_records(data), DROP, budget.seed, budget.questions)
        train_sft(model.train(), processor, examples, config, folder)
    return out / "enhancement" / RESULT_FOLDER


def seconds_of_a_step(budget: Budget, data: Path, trial: Path) -> dict[str, float]:
    """Seconds of a step here, of pointing and of the second stage: medians of a few, in a folder that is removed."""
    times: list[float] = []
    transformers = require("transformers")

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    def taken() -> float:
        found = statistics.median(b - a for a, b in itertools.pairwise(times[2:]))
        times.clear()
        shutil.rmtree(trial, ignore_errors=True)
        return found

    shutil.rmtree(trial, ignore_errors=True)
    records = read_records(data)
    model, processor = make_nano(RGB_ONLY)
    options = pointing_options(dataclasses.replace(budget, pointing_steps=_CALIBRATION_STEPS))
    train_pointing(model, processor, Examples(records, 1.0, 0, QUESTIONS_POINTED), options, trial, [Clock()])
    pointing = taken()
    model, processor = make_nano()
    config = dataclasses.replace(
        stages_of("robotracer-nano", dataclasses.replace(budget, steps=100))["enhancement"],
        max_steps=_CALIBRATION_STEPS,
    )
    train_sft(model, processor, Examples(records, DROP, 0, budget.questions), config, trial, [Clock()])
    return {"pointing": pointing, "fine-tuning": taken()}


def reinforced(start: Path, budget: Budget, data: Path, out: Path) -> Path:
    """GRPO on the 3D traces from a fine-tuned run. Raises MissingExtraError: TRL is not installed."""
    if not is_robotracer(out / RESULT_FOLDER):
        loaded = load_robotracer(start)
        prefix = loaded.model.config.prompts.trace_3d.partition("{task}")[0]
        records = single_traces(read_records(data), prefix)
        config = RftConfig(
            batch=32,
            max_steps=budget.rft_steps,
            lr=1e-4,
            schedule="constant",
            temperature=0.7,
            max_new_tokens=loaded.model.config.max_new_tokens,
            drop=DROP["depth_m"],
            seed=budget.seed,
            save_every=25,
        )
        train_rft(loaded.model, loaded.processor, Examples(records, DROP, budget.seed), config, out)
    return out / RESULT_FOLDER


def single_traces(records: list[Record], prefix: str) -> list[Record]:
    """One record per 3D trace: reinforcement asks one question at a time."""
    return [
        dataclasses.replace(record, turns=(turn,), apart=False)
        for record in records
        for turn in record.turns
        if turn[0].startswith(prefix)
    ]
