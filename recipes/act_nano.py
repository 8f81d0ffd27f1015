"""Make the shipped `act-nano` and the table it is judged by: demonstrations, policies at one size and budget, rollouts.

    python recipes/act_nano.py --out runs/act-mt10 --section policies-mt10          # everything; run it again to go on
    python recipes/act_nano.py --out runs/act-mt10-few --demos 5 --every 1 --steps 2500 --policies act-nano without-trace --section policies-mt10-few --no-install
    python recipes/act_nano.py --out runs/act-mt10-few --demos 5 --every 1 --steps 2500 --policies diffusion act --section policies-mt10-few-heads --no-install
    python recipes/act_nano.py --out runs/act-mt10-few-paper --demos 5 --every 1 --steps 2500 --scene none --policies act-nano without-trace untrained-mu0 --section policies-mt10-few-paper --no-install
    python recipes/act_nano.py --out runs/act-mt50 --suite mt50 --demos 25 --steps 11000 --episodes 10 --policies act-nano --section policies-mt50 --name act-nano-mt50

Four policies learn from the same demonstrations for as many steps: with traces, its twin of the same size without the trace
expert (`--policies without-injection`: without the injection as well, as in the paper), and heads of the kinds of Diffusion Policy
and ACT on the same stems. `untrained-mu0` is the first on a μ0 of random weights: the prefix of a nano μ0 has learned from traces
alone, so the twin sees by them, too, and only this one has nothing of them. Each then plays the same unseen episodes. Features of the frozen μ0 are computed once and shared. What is
shipped are the averaged weights as float16, with μ0 inside, and the table is made with exactly those.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from results import DOCUMENT, command, publish
from rich.console import Console
from rollout_table import Section, section
from stages import keep_options, machine, minutes_of, readable, stage, write

import traceworld
from traceworld.errors import ConfigError
from traceworld.evaluation.rollout_report import rollout_tables, write_results
from traceworld.evaluation.rollouts import RolloutConfig, evaluate_policy
from traceworld.models.checkpoint import save_checkpoint
from traceworld.models.mu0.model import Mu0Model
from traceworld.policies.action_expert.checkpoint import load_mu0, load_policy_checkpoint, save_policy
from traceworld.policies.action_expert.sizes import SceneUse, TraceUse
from traceworld.sim.demonstrations import DemonstrationConfig, StoredDemonstrations, record_demonstrations
from traceworld.sim.suites import SUITES, metaworld_tasks
from traceworld.training import TrainConfig
from traceworld.training.policies import PolicyTraining, train_policy

SHIPPED = Path(traceworld.__file__).parent / "policies" / "weights"
Contender = Literal["act-nano", "without-trace", "without-injection", "untrained-mu0", "diffusion", "act"]
CONTENDERS: dict[Contender, tuple[str, TraceUse | None]] = {
    "act-nano": ("nano", "expert"),
    "without-trace": ("nano", "self"),
    "without-injection": ("nano", "none"),
    "untrained-mu0": ("nano", "expert"),
    "diffusion": ("nano-diffusion", None),
    "act": ("nano-act", None),
}
MADE_FOR: dict[str, tuple[tuple[str, ...], int]] = {"act-nano": (("mt10",), 50), "act-nano-mt50": (("mt50",), 25)}
"""Suite and demonstrations per task of what is shipped under each name."""
_FREE = (
    "install",
    "device",
    "sim_workers",
    "workers",
    "threads",
    "rollout_workers",
    "policies",
    "videos",
    "section",
    "results",
    "name",
)


@dataclass(frozen=True)
class Recipe:
    """
    Attributes:
        out: folder for demonstrations, features, runs and tables.
        suite: Meta-World suite or tasks. demos: demonstrations per task. noise: of the recorded motion
            (`DemonstrationConfig.action_noise`).
        every: learn from the observation of every so many frames.
        chunk, execute: actions predicted and played.
        policies: which to train and play. scene: whether they read the prefix's finer map; None: as their size says.
        steps, batch, optimizer, lr, warmup, ema, precision, seed: of every training.
        episodes: per task, on seeds of their own. rollout_seed: of these.
        mu0: the frozen μ0.
        device, threads, workers: of training. sim_workers, rollout_workers: processes that record and play.
        videos: film the first so many episodes of each task.
        section: of docs/results.md, written when all policies of the first suite have played; None: none.
        results: that document.
        install: put act-nano into the package. name: what it is called there.
    """

    out: Path
    suite: tuple[str, ...] = ("mt10",)
    demos: int = 50
    noise: float = 0.1
    every: int = 2
    chunk: int = 16
    execute: int = 8
    policies: tuple[Contender, ...] = ("act-nano", "without-trace", "diffusion", "act")
    scene: SceneUse | None = None
    steps: int = 10_000
    batch: int = 32
    optimizer: Literal["adamw", "muon"] = "muon"
    lr: float = 2e-3
    warmup: int = 300
    ema: float = 0.999
    precision: Literal["fp32", "bf16"] = "bf16"
    seed: int = 0
    episodes: int = 20
    rollout_seed: int = 0
    mu0: str = "mu0-nano"
    device: str = "auto"
    threads: int = 2
    workers: int = 1
    sim_workers: int = 2
    rollout_workers: int = 2
    videos: int = 0
    section: Section | None = None
    results: Path = DOCUMENT
    install: bool = True
    name: Literal["act-nano", "act-nano-mt50"] = "act-nano"

    def __post_init__(self):
        suite, demos = MADE_FOR[self.name]
        if self.install and (self.suite, self.demos) != (suite, demos):
            raise ConfigError(
                f"the package has {self.name} from {demos} demonstrations per task of {', '.join(suite)}",
                where=f"suite {', '.join(self.suite)}, demos {self.demos}",
                mend="add --no-install, or --name of what it is",
            )


def main(recipe: Recipe) -> dict[str, Any]:
    """Run all stages that are not done yet. Returns the reports by policy."""
    out = recipe.out
    out.mkdir(parents=True, exist_ok=True)
    options = {name: value for name, value in asdict(recipe).items() if name not in (*_FREE, "out", "episodes")}
    if recipe.scene is None:
        del options["scene"]  # folders that were begun before there was a choice stay good
    keep_options(out, options)
    tasks = metaworld_tasks(recipe.suite)
    with stage(out, "demonstrations"):
        shown = DemonstrationConfig(seed=recipe.seed, action_noise=recipe.noise)
        record_demonstrations(out / "demos", tasks, recipe.demos, shown, workers=recipe.sim_workers)
    demonstrations = StoredDemonstrations(out / "demos", tasks, recipe.demos)
    reports = {}
    for name in recipe.policies:
        folder = trained(recipe, name, demonstrations)
        reports[name] = played(recipe, name, folder, shown)
        write(out / "result.json", json.dumps(figures(recipe, reports), indent=1, sort_keys=True) + "\n")
    if "act-nano" in reports:
        packed = out / "policies" / "act-nano"
        write(packed / "result.json", json.dumps(figures(recipe, reports), indent=1, sort_keys=True) + "\n")
        write(packed / "README.md", card(recipe, figures(recipe, reports)))
        if recipe.install:
            install(packed, recipe.name)
    if recipe.section is not None:
        publish(recipe.results, recipe.section, compared(recipe, demonstrations, reports))
    return reports


def install(packed: Path, name: str) -> None:
    """Put the policy into the package, readable by all."""
    place = SHIPPED / name
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(packed, place)
    readable(place)


def compared(recipe: Recipe, demonstrations: StoredDemonstrations, reports: dict[str, Any]) -> str:
    """The section of the document."""
    note = (
        f"{len(demonstrations)} demonstrations ({recipe.demos} per task, motion noise {recipe.noise:g}), "
        f"every policy {recipe.steps} steps of {recipe.batch} on the same features of the frozen `{recipe.mu0}`; {recipe.episodes} episodes per task on unseen seeds, "
        f"{recipe.execute} of {recipe.chunk} actions played; training seed {recipe.seed}, rollout seed {recipe.rollout_seed}; Wilson "
        "intervals over all episodes."
    )
    if "untrained-mu0" in reports:
        note += " `untrained-mu0` reads features of random weights instead."
    cost = ", ".join(f"{name} {minutes:.0f}" for name, minutes in minutes_of(recipe.out).items())
    by_policy = {name: found[recipe.suite[0]] for name, found in reports.items()}
    return section(by_policy, [note, f"Cost in minutes: {cost}."], command("act_nano"))


def untrained(recipe: Recipe) -> str:
    """Folder of a μ0 of the same config and scales that has learned nothing."""
    folder = recipe.out / "untrained-mu0"
    if not folder.is_dir():
        of = load_mu0(recipe.mu0)
        with torch.random.fork_rng([]):
            torch.manual_seed(recipe.seed)
            save_checkpoint(folder, Mu0Model(of.config, of.normalisation), of.normalisation, {"trained": False})
    return str(folder)


def trained(recipe: Recipe, name: Contender, demonstrations: StoredDemonstrations) -> Path:
    """The finished policy: averaged weights as float16, its μ0 inside."""
    packed = recipe.out / "policies" / name
    if (packed / "config.json").exists():
        return packed
    size, trace = CONTENDERS[name]
    what = PolicyTraining(
        mu0=untrained(recipe) if name == "untrained-mu0" else recipe.mu0,
        size=size,
        chunk=recipe.chunk,
        trace=trace,
        scene=recipe.scene,
        every=recipe.every,
        features=str(recipe.out / "features"),
    )
    config = TrainConfig(
        data=(str(recipe.out / "demos"),),
        out=str(recipe.out / "runs" / name),
        model="policy",
        size=size,
        steps=recipe.steps,
        batch=recipe.batch,
        optimizer=recipe.optimizer,
        lr=recipe.lr,
        weight_decay=0.01,
        clip=1.0,
        warmup=min(recipe.warmup, recipe.steps // 4),
        schedule="cosine",
        ema=recipe.ema,
        precision=recipe.precision,
        seed=recipe.seed,
        workers=recipe.workers,
        threads=recipe.threads,
        device=recipe.device,
        checkpoint_every=1000,
        eval_every=1000,
    )
    with stage(recipe.out, f"train {name}"):
        result = train_policy(config, what, demonstrations)
    if result.status != "finished":
        raise SystemExit(f"training stopped at step {result.step}: run the same command again")
    found = load_policy_checkpoint(result.model)
    return save_policy(packed, found.model, found.extra, dtype="float16")


def played(recipe: Recipe, name: Contender, policy: Path, shown: DemonstrationConfig) -> dict[str, Any]:
    """The reports of its rollouts, by suite or task."""
    rollouts = recipe.out / "rollouts" / name
    view = {"cameras": shown.cameras, "image_size": shown.image_size}
    reports = {}
    with stage(recipe.out, f"play {name}"):
        for env in recipe.suite:
            config = RolloutConfig(
                env if env in SUITES else f"metaworld:{env}",
                episodes=recipe.episodes,
                seed=recipe.rollout_seed,
                execute=recipe.execute,
                videos=recipe.videos,
                env_options=view,
            )
            reports[env] = evaluate_policy(policy, config, rollouts / env, workers=recipe.rollout_workers)
            write_results(rollouts / env, reports[env])
    return reports


def figures(recipe: Recipe, reports: dict[str, Any]) -> dict[str, Any]:
    """All that is known of this run."""
    options = json.loads(json.dumps(asdict(recipe), default=str))
    return {
        "result": reports,
        "options": {
            name: value for name, value in options.items() if name not in ("results", "section", "install", "name")
        },
        "cost_minutes": minutes_of(recipe.out),
        "machine": machine(recipe.threads),
    }


def card(recipe: Recipe, found: dict[str, Any]) -> str:
    """The model card, from measured figures only."""
    lines = [
        f"# {recipe.name}",
        "",
        f"A policy on the frozen `{recipe.mu0}` (arXiv 2606.13769 §3.4, App. B.4), trained on {recipe.demos} scripted",
        f"demonstrations per task of {', '.join(recipe.suite)} (noise on the motion {recipe.noise:g}, the expert's own action as "
        f"what is learnt): {recipe.steps} steps of {recipe.batch}. "
        "Made by `recipes/act_nano.py`.",
        "",
        f"{recipe.episodes} episodes per task on unseen seeds, {recipe.execute} of {recipe.chunk} actions played; "
        "95 % Wilson intervals over all episodes.",
        "",
        "| policy | suite | success | 95 % | mean over groups | ms per chunk |",
        "|---|---|---|---|---|---|",
    ]
    for name, reports in found["result"].items():
        for env, report in reports.items():
            overall, (low, high) = report["overall"], report["overall"]["interval95"]
            by_group = overall["mean_over_groups"]
            groups = "–" if by_group is None else f"{100 * by_group:.1f} %"
            lines.append(
                f"| {name} | {env} | {100 * overall['rate']:.1f} % | {100 * low:.1f}–{100 * high:.1f} "
                f"| {groups} | {report['timing']['act_ms']:.0f} |"
            )
    cost = ", ".join(f"{name} {minutes:.0f}" for name, minutes in found["cost_minutes"].items())
    limits = "Limits: one simulated robot and table, fixed cameras, one sentence per task."
    return "\n".join([*lines, "", f"Cost in minutes ({found['machine']['cpus']} CPU cores): {cost}.", "", limits, ""])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for by_env in main(tyro.cli(Recipe)).values():
        for each in by_env.values():
            Console(width=160).print(rollout_tables(each))
