"""Commands of robots: rollout, sim demos, train policy."""

from __future__ import annotations

import dataclasses
import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from traceworld.commands.printing import emit, table, tree
from traceworld.errors import ConfigError

if TYPE_CHECKING:
    from traceworld.training.config import TrainConfig
    from traceworld.training.policies import PolicyTraining


@dataclasses.dataclass(frozen=True)
class Rollout:
    """Let a policy act in simulated worlds and count its successes."""

    policy: str
    """A policy's name or checkpoint folder, follow:PREDICTOR, spatial:PREDICTOR, openpi:ADDRESS of a server; `expert` and `random`
    check the benchmark itself."""
    env: str
    """A suite (mt10, mt50, mt50-easy … mt50-very-hard, atomic8, atomic65) or SIMULATOR:TASK, e.g. metaworld:drawer-open."""
    out: Path | None = None
    """Folder for records, videos and tables. The same command goes on with what is there."""
    episodes: int | None = None
    """Per task. Default: as the suite is published (Meta-World 20, RoboCasa 50)."""
    seed: int = 0
    """Decides the episodes; none of their seeds is one that is trained on."""
    execute: int | None = None
    """Actions played of each chunk. Default: as the suite is published, else the whole chunk."""
    latency_ms: float = 0.0
    """Time from observation to action that is injected."""
    blend: bool = False
    """Mix each chunk with what is left of the one before."""
    videos: int = 0
    """Film the first so many episodes of each task."""
    cameras: tuple[str, ...] = ()
    """The scene camera first. Default: those of the policy, else those of the environment."""
    image_size: tuple[int, int] | None = None
    """Width and height of pictures, pixels."""
    depth: bool = False
    """Give the policy metric depth (Meta-World). Policies that need it get it without being asked for."""
    max_steps: int | None = None
    """Steps per episode. Default: Meta-World 400, the others as their benchmark says."""
    robot: Literal["sawyer", "gantry"] = "sawyer"
    """Who acts in Meta-World's tasks."""
    posts: int = 0
    """Distractors on Meta-World's table that may be run into, one of them in the way."""
    instructions: Path | None = None
    """JSON file, task to words: the instructions that the policy was trained with."""
    device: str = "cpu"
    workers: int = 0
    """Processes; 0 plays in this one."""
    batch: int = 1
    """Environments that a process plays beside each other, for policies that answer several at once."""
    json: bool = False
    """Print as JSON."""

    def run(self) -> int:
        from traceworld.evaluation.rollout_report import rollout_tables, write_results
        from traceworld.evaluation.rollouts import RolloutConfig, evaluate_policy

        config = RolloutConfig(
            self.env,
            episodes=self.episodes,
            seed=self.seed,
            execute=self.execute,
            latency_ms=self.latency_ms,
            blend=self.blend,
            videos=self.videos,
            env_options=self._env_options(),
            instructions=_instructions(self.instructions),
        )
        report = evaluate_policy(
            self.policy, config, self.out, device=self.device, workers=self.workers, batch=self.batch
        )
        if self.out is not None:
            write_results(self.out, report)
        emit(report, self.json, None if self.json else rollout_tables(report))
        return 0 if report["errors"] < report["episodes"] else 1

    def _env_options(self) -> dict[str, object]:
        given: dict[str, object] = {"cameras": self.cameras, "image_size": self.image_size, "max_steps": self.max_steps}
        given |= {"with_depth": self.depth, "robot": "" if self.robot == "sawyer" else self.robot, "posts": self.posts}
        return {name: value for name, value in given.items() if value}


def _instructions(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        words = jsonlib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot be read: {error}", where=str(path), mend="give a JSON file, task to words"
        ) from error
    if not isinstance(words, dict) or not all(isinstance(text, str) for text in words.values()):
        raise ConfigError("is not a map from tasks to words", where=str(path))
    return words


@dataclasses.dataclass(frozen=True)
class SimDemos:
    """Record demonstrations of the scripted experts, to learn policies from."""

    tasks: Positional[tuple[str, ...]]
    """Meta-World tasks, e.g. drawer-open, or a suite: mt10, mt50, mt50-easy …"""
    out: Path
    """Folder; the same command goes on with what is there."""
    episodes: int = 50
    """Successful episodes per task."""
    seed: int = 0
    cameras: tuple[str, ...] = ()
    """The scene camera first. Default: the published one and the gripper's."""
    width: int = 192
    height: int = 144
    robot: Literal["sawyer", "gantry"] = "sawyer"
    """Who is shown doing it."""
    noise: float = 0.0
    """Disturb the motion by so much (1 = 1 cm per step); the expert's own action is what is written down."""
    depth: bool = False
    """Keep metric depth of every camera, for policies that are shown it."""
    lerobot: Path | None = None
    """Also write them as a LeRobot v3.0 dataset to this folder."""
    workers: int = 0
    """Processes; 0 records in this one."""
    json: bool = False
    """Print as JSON."""

    def run(self) -> int:
        from traceworld.sim.demonstrations import DemonstrationConfig, StoredDemonstrations, record_demonstrations
        from traceworld.sim.suites import metaworld_tasks

        tasks = metaworld_tasks(self.tasks)
        cameras: dict[str, Any] = {"cameras": self.cameras} if self.cameras else {}
        config = DemonstrationConfig(
            image_size=(self.width, self.height),
            seed=self.seed,
            action_noise=self.noise,
            robot=self.robot,
            depth=self.depth,
            **cameras,
        )
        rows = record_demonstrations(self.out, tasks, self.episodes, config, workers=self.workers)
        if self.lerobot is not None:
            from traceworld.traces.lerobot.from_demonstrations import write_lerobot

            stored = StoredDemonstrations(self.out, tasks, self.episodes)
            write_lerobot(stored, self.lerobot, robot_type="metaworld-sawyer")
        emit(rows, self.json, table(f"sim demos → {self.out}", rows))
        return 0 if any(row["demonstrations"] for row in rows) else 1


@dataclasses.dataclass(frozen=True)
class TrainPolicy:
    """Train a policy on demonstrations: an action expert on a frozen μ0, its twin without traces, or a baseline.

    Goes on where a stopped run was. The result (OUT/model) names its μ0.
    """

    data: Positional[Path]
    """Folder of `traceworld sim demos`, or a LeRobot dataset (v2.0, v2.1, v3.0)."""
    out: Path
    """Run folder: log.jsonl, checkpoints, model."""
    size: Literal["nano", "nano-diffusion", "nano-act", "200m", "400m", "400m-official"] = "nano"
    """nano, 200m, 400m: the action expert; nano-diffusion, nano-act: heads of the kinds of Diffusion Policy and ACT."""
    trace: Literal["expert", "self", "none"] | None = None
    """What is injected: expert: μ0's motion features; self: the prefix's own (the twin without traces, as many
    parameters); none: nothing (the paper's "w/o trace"). Default: as the size says (expert; baselines: none)."""
    scene: Literal["prefix", "none"] | None = None
    """Whether the prefix's map at twice the resolution is read beside the last layer (none: as in the paper). Default: as the
    size says (nano: prefix)."""
    mu0: str = "mu0-nano"
    """The frozen μ0: a name or a checkpoint folder."""
    tasks: tuple[str, ...] = ()
    """Of recorded demonstrations: only these tasks or suites (mt10, …)."""
    demos: int | None = None
    """Of recorded demonstrations: only the first so many of each task."""
    cameras: tuple[str, ...] = ()
    """Of a LeRobot dataset: the scene camera first; NAME=FEATURE renames it, e.g. wrist=observation.images.hand."""
    depth: bool = False
    """Show μ0 metric depth, which the demonstrations must have."""
    chunk: int = 16
    """Actions per chunk."""
    every: int = 1
    """Learn from the observation of every so many frames."""
    val_fraction: float = 0.05
    """Part of the episodes kept out for validation."""
    features: Path | None = None
    """Folder of what μ0 sees in the demonstrations, computed once; runs may share it. Default: OUT/features."""
    no_features: bool = False
    """Let μ0 look at every picture anew, with colour jitter (wants a GPU)."""
    steps: int = 5000
    batch: int = 64
    """Observations per step."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: for wide matrices (with --lr 2e-3 better per step on nano policies; docs/log.md)."""
    lr: float = 5e-4
    weight_decay: float = 0.01
    warmup: int | None = None
    """Steps of linear warm-up. Default: 500, or a quarter of all."""
    schedule: Literal["constant", "cosine"] = "cosine"
    ema: float = 0.999
    """Decay of the moving average of the weights; 0: off."""
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0
    minutes: float | None = None
    """Stop cleanly after so many minutes (a later start goes on)."""
    device: str = "auto"
    workers: int = 0
    """Processes that read data."""
    checkpoint_every: int = 1000
    """Steps."""
    eval_every: int = 1000
    """Steps."""
    json: bool = False
    """Print the report as JSON."""

    def run(self) -> int:
        from traceworld.sim.suites import metaworld_tasks
        from traceworld.training.policies import open_demonstrations, train_policy

        tasks = metaworld_tasks(self.tasks) if self.tasks else None
        demonstrations = open_demonstrations(self.data, tasks=tasks, per_task=self.demos, cameras=self._cameras())
        rows = dataclasses.asdict(train_policy(*self.config(), demonstrations))
        emit(rows, self.json, None if self.json else tree(str(self.out), rows))
        return 0

    def config(self) -> tuple[TrainConfig, PolicyTraining]:
        """What is asked for: the options of the loop, and what is trained.

        Raises:
            ConfigError: two options that exclude each other, or an impossible value.
        """
        from traceworld.training.config import TrainConfig
        from traceworld.training.policies import PolicyTraining

        if self.no_features and self.features is not None:
            raise ConfigError("and no_features exclude each other", where="features", mend="give one of them")
        what = PolicyTraining(
            mu0=self.mu0,
            size=self.size,
            chunk=self.chunk,
            trace=self.trace,
            scene=self.scene,
            every=self.every,
            features=None if self.no_features else str(self.features or self.out / "features"),
            val_fraction=self.val_fraction,
            depth=self.depth,
        )
        loop: tuple[str, ...] = (
            "steps",
            "batch",
            "optimizer",
            "lr",
            "weight_decay",
            "schedule",
            "ema",
            "precision",
            "seed",
            "device",
        )
        loop += ("workers", "checkpoint_every", "eval_every", "size")
        options: dict[str, Any] = {name: getattr(self, name) for name in loop}
        options |= {"data": (str(self.data),), "out": str(self.out), "model": "policy", "clip": 1.0}
        options |= {"max_minutes": self.minutes, "warmup": self.warmup}
        if self.warmup is None:
            options["warmup"] = min(500, self.steps // 4)
        return TrainConfig(**options), what

    def _cameras(self) -> dict[str, str] | tuple[str, ...] | None:
        if not any("=" in camera for camera in self.cameras):
            return self.cameras or None
        named = (camera.partition("=") for camera in self.cameras)
        return {name: feature or name for name, _, feature in named}
