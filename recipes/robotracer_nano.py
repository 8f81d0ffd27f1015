"""Make the shipped `robotracer-nano`: simulate TraceSpatial, teach a base to point, fine-tune it in two stages, measure on
TraceSpatial-Sim, write the card.

    python recipes/robotracer_nano.py --out runs/robotracer-nano                       # everything; run it again to go on
    python recipes/robotracer_nano.py --out runs/robotracer-nano --pointing-steps 1882 --steps 3200 --ablation-steps 1000 --variants full no-scale-loss rft --threads 1   # as shipped
    python recipes/robotracer_nano.py --out runs/smoke-robotracer --smoke              # every stage in small, no installation

The model is trained from scratch: InternVL's class of transformers in a small width (`traceworld.models.robotracer.nano`), the
spatial encoder, the scale token and decoder around it. Its base first learns to point for `--pointing-minutes`, which all runs
share (a published base has seen the web; this one has not), and while it is fine-tuned it is shown where to look while it says a
coordinate. From it `robotracer-nano` itself is trained for `--minutes`; each of
`--variants` for `--ablation-minutes`, so that their table compares equals. `rft` goes on from the variant `full` by GRPO. Needs the
extras `sim` and `robotracer`. Scenes of TraceSpatial-Sim have a seed of their own.

Cost: 19 minutes of simulation on two cores (8,000 scenes); on one, a step of pointing takes 0.96 s, of fine-tuning with 64 questions
0.7 s, or 0.95 s while the other core trains as well; 5 minutes of scoring.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from robotracer_card import card, table
from robotracer_scores import scored
from robotracer_training import ALIGNED, GUIDE, Budget, pointed, reinforced, seconds_of_a_step, trained
from stages import keep_options, machine, minutes_of, once, readable, stage, write

import traceworld
from traceworld.errors import ConfigError
from traceworld.models.robotracer.checkpoint import load_robotracer, save_robotracer
from traceworld.models.robotracer.nano import NAME, NANO
from traceworld.tracespatial.bench_maker import make_bench
from traceworld.tracespatial.dataset import BuildConfig, build
from traceworld.tracespatial.questions.asking import Mix
from traceworld.tracespatial.sources import SimSource
from traceworld.training.robotracer.nano_data import FILE, write_nano_data

WEIGHTS = Path(traceworld.__file__).parent / "models" / "weights" / NAME
MOST_BYTES = 25_000_000
BENCH_SEED = 1000
"""Of TraceSpatial-Sim: that of `traceworld tracespatial bench --varied`, which no training set has."""
SIZES = ((192, 144), (160, 160), (144, 192))
"""Of training pictures, px: the model looks at 144×144."""
MIX = Mix({"trace": 24, "referring": 12})
"""Eight traces in three forms and pointing, per scene."""
VARIANTS = ("full", "no-scale-loss", "rgb-only", "rft")
_ENDLESS = 1_000_000_000


@dataclass(frozen=True)
class Recipe:
    """
    Attributes:
        out: folder for data, runs and results.
        scenes: training pictures. bench_scenes: of TraceSpatial-Sim, one question each.
        pointing_minutes: of the base that all runs share.
        minutes: of training `robotracer-nano`; the number of steps follows from a measurement on this machine, once.
        ablation_minutes: of each variant. variants: of `VARIANTS`.
        pointing_steps, steps, ablation_steps, rft_steps: fix the number of steps instead (of reinforcement: always).
        batch: pictures per step. questions: asked about each, apart from one another.
        lr, seed: of all runs.
        sim_workers: processes that simulate. threads: that train.
        install: put the result into the package. smoke: every stage in small, nothing is installed.
    """

    out: Path
    scenes: int = 8000
    bench_scenes: int = 500
    pointing_minutes: float = 30.0
    minutes: float = 90.0
    ablation_minutes: float = 25.0
    variants: tuple[str, ...] = ("full", "no-scale-loss", "rgb-only")
    pointing_steps: int | None = None
    steps: int | None = None
    ablation_steps: int | None = None
    rft_steps: int = 150
    batch: int = 8
    questions: int = 8
    lr: float = 2e-3
    seed: int = 0
    sim_workers: int = 2
    threads: int = 2
    install: bool = True
    smoke: bool = False

    def __post_init__(self):
        if unknown := sorted(set(self.variants) - set(VARIANTS)):
            raise ConfigError(f"no variant '{unknown[0]}'", where="variants", mend=f"of {', '.join(VARIANTS)}")
        if "rft" in self.variants and "full" not in self.variants:
            raise ConfigError("rft goes on from full", where="variants", mend="name full as well")
        if self.seed == BENCH_SEED:
            raise ConfigError("is that of the benchmark", where="seed", mend="take another")


SMOKE: dict[str, Any] = {
    "scenes": 4, "bench_scenes": 2, "pointing_steps": 2, "steps": 3, "ablation_steps": 2, "batch": 2, "questions": 2, "sim_workers": 1, "threads": 1,
    "install": False,
}  # fmt: skip


def make(recipe: Recipe) -> dict[str, Any]:
    """Run all stages that are not done yet. Returns the figures of the model card.

    Raises:
        MissingExtraError: the simulator, accelerate, or (for `rft`) TRL is not installed.
        ConfigError: the folder holds a run with other options, or the model is too large for the package.
    """
    if recipe.smoke:
        recipe = dataclasses.replace(recipe, **SMOKE)
    out = recipe.out
    out.mkdir(parents=True, exist_ok=True)
    decides = ("scenes", "bench_scenes", "batch", "questions", "lr", "seed")
    keep_options(out, {name: getattr(recipe, name) for name in decides})
    torch.set_num_threads(recipe.threads)
    data, bench, sizes = simulated(recipe)
    budget = planned(recipe, data)
    runs = all_runs(recipe, data, budget)
    packed = pack(out / NAME, runs[NAME])
    with stage(out, "score"):
        results = scored(out / "answers", bench, {**runs, NAME: packed})
    figures = {
        "data": sizes,
        "training": {
            **dataclasses.asdict(budget),
            "alignment": ALIGNED,
            "guide": GUIDE,
            "parameters": sum(p.numel() for p in load_robotracer(packed).model.parameters()),
            "options": {name: getattr(recipe, name) for name in decides},
        },
        "result": results,
        "cost_minutes": minutes_of(out),
        "machine": machine(recipe.threads),
    }
    write(packed / "result.json", json.dumps(figures, indent=1, sort_keys=True) + "\n")
    write(packed / "README.md", card(figures))
    if recipe.install:
        shutil.copytree(packed, WEIGHTS, dirs_exist_ok=True)
    return figures


def simulated(recipe: Recipe) -> tuple[Path, Path, dict[str, Any]]:
    """(training file, TraceSpatial-Sim, what they hold)."""
    train, bench = recipe.out / "train", recipe.out / "tracespatial-sim"
    with stage(recipe.out, "simulate"):
        config = BuildConfig(_ENDLESS, recipe.seed, MIX, proposals=8, max_scenes=recipe.scenes)

        def made() -> dict[str, Any]:
            report = build(SimSource(recipe.seed, varied=True, sizes=SIZES), train, config, recipe.sim_workers)
            write_nano_data(train, NANO.prompts)
            return {"scenes": report.scenes, "questions": report.questions}

        def asked() -> dict[str, Any]:
            report = make_bench(SimSource(BENCH_SEED, varied=True), bench, recipe.bench_scenes, seed=BENCH_SEED)
            return {"questions": report.questions, "steps": report.steps, "categories": report.categories}

        sizes = {"train": once(recipe.out / "train.json", made), "bench": once(recipe.out / "bench.json", asked)}
    return train / FILE, bench, sizes


def planned(recipe: Recipe, data: Path) -> Budget:
    """How many steps each run has: as told, or what fits into the minutes here (measured once and written down)."""
    budget = Budget(
        recipe.pointing_steps or 0,
        recipe.steps or 0,
        recipe.ablation_steps or 0,
        recipe.rft_steps,
        recipe.batch,
        recipe.questions,
        recipe.lr,
        recipe.seed,
    )
    if recipe.smoke:
        return dataclasses.replace(budget, rft_steps=1)
    if None not in (recipe.pointing_steps, recipe.steps, recipe.ablation_steps):
        return budget
    seconds = once(
        recipe.out / "plan.json",
        lambda: {"seconds_per_step": seconds_of_a_step(budget, data, recipe.out / "calibration")},
    )["seconds_per_step"]

    def fits(minutes: float, kind: str) -> int:
        return max(1, round(60 * minutes / seconds[kind]))

    return dataclasses.replace(
        budget,
        pointing_steps=recipe.pointing_steps or fits(recipe.pointing_minutes, "pointing"),
        steps=recipe.steps or fits(recipe.minutes, "fine-tuning"),
        ablation_steps=recipe.ablation_steps or fits(recipe.ablation_minutes, "fine-tuning"),
    )


def all_runs(recipe: Recipe, data: Path, budget: Budget) -> dict[str, Path]:
    """Name → checkpoint folder of every run; those that are there are not done again."""
    runs: dict[str, Path] = {}
    with stage(recipe.out, "point"):
        base = pointed(budget, data, recipe.out / "runs" / "pointing")
    for name in (NAME, *(variant for variant in recipe.variants if variant != "rft")):
        with stage(recipe.out, f"train {name}"):
            runs[name] = trained(name, budget, data, base, recipe.out / "runs" / name)
    if "rft" in recipe.variants:
        with stage(recipe.out, "train rft"):
            runs["rft"] = reinforced(runs["full"], budget, data, recipe.out / "runs" / "rft")
    return runs


def pack(folder: Path, checkpoint: Path) -> Path:
    """The weights as fp16: what is shipped is what is scored.

    Raises:
        ConfigError: they are too large for the package.
    """
    found = load_robotracer(checkpoint)
    packed = save_robotracer(folder, found.model, found.processor, found.training, dtype="float16")
    size = sum(file.stat().st_size for file in packed.rglob("*") if file.is_file())
    if size > MOST_BYTES:
        raise ConfigError(f"takes {size / 1e6:.0f} MB, at most {MOST_BYTES / 1e6:.0f} fit", where=str(packed))
    readable(packed)
    return packed


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    print(table(make(tyro.cli(Recipe))["result"]))
