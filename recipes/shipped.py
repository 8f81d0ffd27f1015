"""The way of every shipped nano model: simulate, train, pack, score, write the model card.

`mu0_nano.py` and `tracegen_nano.py` give it the model and their defaults. Every stage is resumable: simulation per block of
episodes, training to the last step, the rest is quick.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from clips import episodes_by_task
from stages import finished, machine, minutes_of, once, readable, seconds_per_step, stage, write

import traceworld
from traceworld.errors import ConfigError
from traceworld.evaluation.forecast import evaluate_forecast
from traceworld.models.checkpoint import load_checkpoint, save_checkpoint
from traceworld.sim.corpus import build_corpus
from traceworld.sim.embodiments import SAWYER
from traceworld.sim.tasks import HELD_OUT, TRAINED
from traceworld.sim.variety import Variety
from traceworld.traces.store import open_dataset
from traceworld.training import TrainConfig

WEIGHTS = Path(traceworld.__file__).parent / "models" / "weights"
MOST_BYTES = 25_000_000
"""Of a model inside the package."""
TEST_SEED = 1_000_003
CARRIED = tuple(
    f"{name}-v3"
    for name in (
        "assembly", "basketball", "bin-picking", "box-close", "disassemble", "hammer", "hand-insert",
        "peg-insert-side", "pick-out-of-hole", "pick-place", "pick-place-wall", "push-back", "shelf-place", "stick-pull",
    )
)  # fmt: skip
"""Trained tasks in which a thing is taken and carried: where it goes follows from two places, so they need more examples."""


@dataclass(frozen=True)
class Shipped:
    """A model that goes into the package.

    Attributes:
        name: of its folder. kind, size: for the trainer.
        about: first words of the card.
        history: settings that it is scored in: with and without the points' past.
    """

    name: str
    kind: str
    about: str
    history: tuple[bool, ...]
    size: str = "nano"

    @property
    def recipe(self) -> str:
        return f"recipes/{self.name.replace('-', '_')}.py"


@dataclass(frozen=True)
class ShippedRecipe:
    """
    Attributes:
        out: folder for corpora, run and results.
        corpus: take `train`, `unseen` and `held_out` from the folder of another run instead of simulating them.
        episodes: training episodes per task. carried_episodes: of the tasks of `CARRIED`; None: as of all. test_episodes: of
            each test set.
        tasks: train on these instead of all 45. held_out: and report these apart.
        embodiments: who plays the training episodes, in equal shares (`traceworld.sim.embodiments`). Test episodes are always
            Meta-World as it is, so that figures of different runs compare.
        variety: also draw colours, lights and distractors of the training episodes.
        minutes: of training; the number of steps follows from a measurement on this machine, once.
        steps: fix the number of steps instead.
        batch, lr, optimizer, init_from, warmup, ema, keypoints, arc_weight, seed, precision: see `TrainConfig`.
        sim_workers, workers, threads: processes that simulate, processes that read, threads that train.
        install: put the result into the package.
    """

    out: Path
    corpus: Path | None = None
    episodes: int = 110
    carried_episodes: int | None = 170
    test_episodes: int = 5
    tasks: tuple[str, ...] = TRAINED
    held_out: tuple[str, ...] = HELD_OUT
    embodiments: tuple[str, ...] = (SAWYER,)
    variety: bool = False
    minutes: float = 50.0
    steps: int | None = None
    batch: int = 16
    lr: float = 2e-3
    optimizer: Literal["adamw", "muon"] = "muon"
    init_from: str | None = None
    warmup: int = 200
    ema: float = 0.999
    keypoints: tuple[int, int] = (8, 40)
    arc_weight: float = 0.2
    precision: Literal["fp32", "bf16"] = "bf16"
    seed: int = 0
    sim_workers: int = 2
    workers: int = 1
    threads: int = 2
    install: bool = True


@dataclass(frozen=True)
class Corpora:
    """The clip stores of a run."""

    train: Path
    unseen: Path
    held_out: Path
    minutes: dict[str, float] = field(default_factory=dict)

    @property
    def test(self) -> list[Path]:
        return [self.unseen, self.held_out]


def make(recipe: ShippedRecipe, model: Shipped) -> dict[str, Any]:
    """Run all stages that are not done yet. Returns the figures of the model card."""
    out = recipe.out
    out.mkdir(parents=True, exist_ok=True)
    corpora = corpora_of(recipe)
    data = described(corpora, recipe.held_out)
    config = train_config(recipe, model, corpora.train)
    with stage(out, "train"):
        result = finished(config)
    earlier = origin(recipe.init_from)
    packed = pack(out / model.name, Path(result["model"]), earlier)
    with stage(out, "score"):
        scores = {
            clock: evaluate_forecast(
                [str(packed)], corpora.test, clock=clock, history=model.history, held_out=recipe.held_out
            )
            for clock in (("time", "arc") if recipe.arc_weight > 0 else ("time",))
        }
    figures = {
        "data": data,
        "result": scores,
        "training": {
            "config": config.to_json(),
            "steps": result["step"],
            "val": result["val"],
            "parameters": result["parameters"],
            "started_from": earlier,
        },
        "cost_minutes": {**corpora.minutes, **minutes_of(out)},
        "machine": machine(recipe.threads),
    }
    write(packed / "result.json", json.dumps(figures, indent=1, sort_keys=True) + "\n")
    write(packed / "README.md", card(model, figures))
    readable(packed)
    if recipe.install:
        install(packed, WEIGHTS / model.name)
    return figures


# --- data -------------------------------------------------------------------------------------------------------------


def corpora_of(recipe: ShippedRecipe) -> Corpora:
    """The run's clip stores: simulated as far as they are not there, or those of another run.

    Raises:
        DatasetError: the other run has no such store.
    """
    if recipe.corpus is not None:
        stores = {name: recipe.corpus / name for name in ("train", "unseen", "held_out")}
        spent = minutes_of(recipe.corpus).get("simulate")
        for store in stores.values():
            open_dataset(store)
        return Corpora(**stores, minutes={} if spent is None else {"simulate (in another run)": spent})
    look: dict[str, Any] = {"embodiments": recipe.embodiments, "variety": Variety() if recipe.variety else None}
    episodes: int | dict[str, int]
    with stage(recipe.out, "simulate"):
        for name, tasks, episodes, seed, options in (
            ("train", recipe.tasks, training_episodes(recipe), recipe.seed, look),
            ("unseen", recipe.tasks, recipe.test_episodes, TEST_SEED, {}),
            ("held_out", recipe.held_out, recipe.test_episodes, TEST_SEED, {}),
        ):
            build_corpus(recipe.out / name, tasks, episodes, seed=seed, workers=recipe.sim_workers, **options)
    return Corpora(*(recipe.out / name for name in ("train", "unseen", "held_out")))


def training_episodes(recipe: ShippedRecipe) -> dict[str, int]:
    """How many episodes of each task are trained on."""
    carried = recipe.episodes if recipe.carried_episodes is None else recipe.carried_episodes
    return {task: carried if task in CARRIED else recipe.episodes for task in recipe.tasks}


def described(corpora: Corpora, held_out: tuple[str, ...]) -> dict[str, Any]:
    """What is trained on, as the store says.

    Raises:
        ConfigError: a held-out task is among it.
    """
    train = open_dataset(corpora.train)
    episodes = {task: len(clips) for task, clips in episodes_by_task(train).items()}
    if leaked := sorted(set(episodes) & set(held_out)):
        raise ConfigError(f"holds episodes of the held-out {', '.join(leaked)}", where=str(corpora.train))
    settings = _settings({item["source"] for item in train.manifest})
    return {
        "episodes": episodes,
        "held_out": list(held_out),
        "embodiments": settings.get("embodiments", [SAWYER]),
        "variety": settings.get("variety") is not None,
    }


def _settings(sources: set[str]) -> dict[str, Any]:
    """The corpus options that the manifest of a simulated corpus names (`sim.corpus.source_of`)."""
    kind, mark, settings = min(sources).partition("traceworld sim ")
    if kind or not mark:
        raise ConfigError(f"was not simulated: {min(sources)}", where="corpus", mend="give a run of one of the recipes")
    return json.loads(settings)


# --- training ---------------------------------------------------------------------------------------------------------


def train_config(recipe: ShippedRecipe, model: Shipped, data: Path) -> TrainConfig:
    """The run, with the number of steps that fit into `minutes` on this machine (measured once and written down)."""

    def config(steps: int) -> TrainConfig:
        return TrainConfig(
            data=(str(data),),
            out=str(recipe.out / "run"),
            model=model.kind,
            size=model.size,
            steps=steps,
            batch=recipe.batch,
            optimizer=recipe.optimizer,
            lr=recipe.lr,
            init_from=recipe.init_from,
            warmup=min(recipe.warmup, steps // 4),
            schedule="cosine",
            clip=1.0,
            ema=recipe.ema,
            precision=recipe.precision,
            arc_weight=recipe.arc_weight,
            keypoints=recipe.keypoints,
            moving_share=0.9,
            history_drop_all=0.5,
            depth_drop=0.3,
            val_fraction=0.03,
            eval_every=500,
            checkpoint_every=500,
            seed=recipe.seed,
            workers=recipe.workers,
            threads=recipe.threads,
        )

    if recipe.steps is not None:
        return config(recipe.steps)

    def plan() -> dict[str, Any]:
        seconds = seconds_per_step(config(1), recipe.out / "calibration")
        return {"windows_per_s": recipe.batch / seconds, "steps": max(1, round(60 * recipe.minutes / seconds))}

    return config(once(recipe.out / "plan.json", plan)["steps"])


def pack(folder: Path, model: Path, earlier: dict[str, Any] | None) -> Path:
    """The averaged weights as fp16: what is shipped is what is scored.

    Raises:
        ConfigError: they are too large for the package.
    """
    found = load_checkpoint(model)
    packed = save_checkpoint(
        folder, found.model, found.normalisation, {**found.extra, "started_from": earlier}, dtype="float16"
    )
    size = sum(file.stat().st_size for file in packed.iterdir())
    if size > MOST_BYTES:
        raise ConfigError(f"takes {size / 1e6:.0f} MB, at most {MOST_BYTES / 1e6:.0f} fit", where=str(packed))
    return packed


def install(packed: Path, shipped: Path) -> None:
    """Put a packed model into the package."""
    shutil.copytree(packed, shipped, dirs_exist_ok=True)


def origin(checkpoint: str | None) -> dict[str, Any] | None:
    """What a checkpoint that training starts from says of its own training."""
    if checkpoint is None:
        return None
    extra = load_checkpoint(Path(checkpoint)).extra
    config = {**TrainConfig(data=("",), out="").to_json(), **extra["training"]}  # options that came later
    return {"config": config, "steps": extra["step"], "started_from": extra.get("started_from")}


# --- the model card ---------------------------------------------------------------------------------------------------


def card(model: Shipped, figures: dict[str, Any]) -> str:
    """The model card, from measured figures only."""
    scores, cost, training = figures["result"], figures["cost_minutes"], figures["training"]
    main_key = scores["time"]["protocol"]["main"]
    first = main_key.replace("topS", "top1")
    lines = [
        f"# {model.name}",
        "",
        f"{model.about}, trained from scratch on",
        f"simulated Meta-World episodes. {training['parameters']:,} parameters, stored as float16. Made by `{model.recipe}`.",
        "",
        f"- Data: {data_line(figures['data'])}",
        *(f"- {line}" for line in history(training)),
        f"- Cost on {figures['machine']['cpus']} CPU cores ({figures['machine']['arch']}), minutes: "
        + ", ".join(f"{name} {minutes:.0f}" for name, minutes in cost.items())
        + ".",
        "",
        f'Unseen episodes, moving points, 32 steps, best of 5 and first sample; × = ratio to "nothing moves" '
        f"({main_key}, {first}; 95 % interval over clips).",
        "",
        "| clock | model | history | best of 5 | × | 95 % | first | × | × trained tasks | × held-out tasks |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for clock, report in scores.items():
        for name, entrant in report["models"].items():
            for setting in ("no_history", "history"):
                if setting in entrant:
                    past = "yes" if setting == "history" else "no"
                    lines.append(f"| {clock} | {name} | {past} | {_figures(entrant[setting], main_key, first)} |")
    robots = ", ".join(figures["data"]["embodiments"])
    lines += [
        "",
        f"Limits: seen playing: {robots}; one table, rendered pictures; instructions are one sentence per task; no real video "
        "was seen.",
        "",
    ]
    return "\n".join(lines)


def _figures(found: dict[str, Any], main_key: str, first: str) -> str:
    low, high = found["interval95"][main_key]
    groups = [found["by_group"].get(group, {}).get(f"ratio_{main_key}") for group in ("trained", "held_out")]
    return " | ".join(
        [
            f"{found['metrics'][main_key]:.4f}",
            f"{found['ratio'][main_key]:.3f}",
            f"{low:.3f}–{high:.3f}",
            f"{found['metrics'][first]:.4f}",
            f"{found['ratio'][first]:.3f}",
            *("" if g is None else f"{g:.3f}" for g in groups),
        ]
    )


def data_line(data: dict[str, Any]) -> str:
    """What was trained on and what never was, in words."""
    episodes = data["episodes"].values()
    each = f"{min(episodes)}" if min(episodes) == max(episodes) else f"{min(episodes)} to {max(episodes)}"
    look = " in varied colours, lights and company" if data["variety"] else ""
    return (
        f"{sum(episodes):,} episodes of {len(episodes)} tasks with exact traces ({each} of each), "
        f"played by {', '.join(data['embodiments'])}{look}; never trained on: {', '.join(data['held_out'])}."
    )


def history(training: dict[str, Any]) -> list[str]:
    """One line for each run that the weights went through, the first one first."""
    config = training["config"]
    line = (
        f"Training: {training['steps']} steps of {config['batch']} windows, {config['optimizer']}, learning rate "
        f"{config['lr']:g}, {config['schedule']}; result = average of the weights ({config['ema']:g})."
    )
    earlier = training.get("started_from")
    return [line] if earlier is None else [*history(earlier), f"{line} It started from the weights of the run before."]
