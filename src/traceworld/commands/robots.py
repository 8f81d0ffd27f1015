"""Commands of robots in simulation: rollout, sim demos."""

from __future__ import annotations

import dataclasses
import json as jsonlib
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from traceworld.commands.printing import emit, table
from traceworld.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Rollout:
    """Let a policy act in simulated worlds and count its successes."""

    policy: str
    """A policy's name or checkpoint folder; `expert` and `random` check the benchmark itself."""
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
    """Give the policy metric depth (Meta-World)."""
    max_steps: int | None = None
    """Steps per episode. Default: Meta-World 400, the others as their benchmark says."""
    robot: Literal["sawyer", "gantry"] = "sawyer"
    """Who acts in Meta-World's tasks."""
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
        given |= {"with_depth": self.depth, "robot": "" if self.robot == "sawyer" else self.robot}
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
            image_size=(self.width, self.height), seed=self.seed, action_noise=self.noise, robot=self.robot, **cameras
        )
        rows = record_demonstrations(self.out, tasks, self.episodes, config, workers=self.workers)
        if self.lerobot is not None:
            from traceworld.traces.lerobot.from_demonstrations import write_lerobot

            stored = StoredDemonstrations(self.out, tasks, self.episodes)
            write_lerobot(stored, self.lerobot, robot_type="metaworld-sawyer")
        emit(rows, self.json, table(f"sim demos → {self.out}", rows))
        return 0 if any(row["demonstrations"] for row in rows) else 1
