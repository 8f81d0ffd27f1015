"""Closed-loop evaluation: any policy in any environment, seeded, resumable, on several processes.

Protocol: 20 episodes per task on seeds that nothing was trained on, the environment's own step limit (Meta-World: 400),
success in any step, rates with 95 % Wilson intervals. What differs from published protocols is said where the environments are
(`sim.control`, `sim.control_robocasa`, `sim.control_robotwin`). An episode depends on its seed alone, so it does not
matter which process plays it or in which order, and a run that was killed goes on where it was.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from traceworld.errors import ConfigError, TraceworldError
from traceworld.evaluation.execution import ChunkPlayer
from traceworld.evaluation.rollout_play import UNPLAYED, play_together
from traceworld.evaluation.rollout_records import EpisodeRecord, RecordBook
from traceworld.evaluation.rollout_report import summarise
from traceworld.evaluation.rollout_video import VideoSink
from traceworld.policies.policy import Policy
from traceworld.policies.registry import load_policy
from traceworld.sim.control import ControlEnv, MetaworldEnv
from traceworld.sim.control_policies import RandomPolicy, ScriptedExpert
from traceworld.sim.suites import Suite, episode_seed, find_suite, make_env
from traceworld.sim.workers import worker_pool

log = logging.getLogger(__name__)

BUILT_IN = ("expert", "random")


@dataclass(frozen=True)
class RolloutConfig:
    """What is played.

    Attributes:
        env: a suite or an address (`sim.suites.find_suite`).
        episodes: per task; None: as the suite is published.
        seed: of the run; decides the episodes' seeds.
        execute: actions played per chunk; None: as the suite is published, else the whole chunk.
        blend: mix each chunk with what is left of the one before (`execution.ChunkPlayer`).
        latency_ms: injected time from observation to action; inference itself counts as instantaneous.
        videos: film the first so many episodes of every task.
        env_options: of the environment (`sim.suites.make_env`): cameras, image_size, with_depth, max_steps …
        instructions: task → words that replace the environment's.
    """

    env: str
    episodes: int | None = None
    seed: int = 0
    execute: int | None = None
    latency_ms: float = 0.0
    blend: bool = False
    videos: int = 0
    env_options: Mapping[str, Any] = field(default_factory=dict)
    instructions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self):
        if (self.episodes is not None and self.episodes < 1) or self.latency_ms < 0 or self.videos < 0:
            raise ConfigError(
                f"episodes {self.episodes}, latency_ms {self.latency_ms}, videos {self.videos}",
                where="RolloutConfig",
                mend="episodes from 1, the others from 0",
            )

    def options_of(self, address: str) -> dict[str, Any]:
        """What the environment at an address is made with."""
        task = address.partition(":")[2]
        words = {"instruction": self.instructions[task]} if task in self.instructions else {}
        return {**self.env_options, **words}


def evaluate_policy(
    policy: str | Path | Policy,
    config: RolloutConfig,
    out: str | Path | None = None,
    *,
    device: str = "cpu",
    workers: int = 0,
    batch: int = 1,
    on_episode: Callable[[EpisodeRecord], None] | None = None,
) -> dict[str, Any]:
    """Play all episodes that are not played yet; returns the report (`rollout_report.summarise`).

    Args:
        policy: a name or folder for `policies.registry.load_policy`, `expert`, `random`, or a policy itself.
        out: folder of the records and videos; a run that is there already goes on.
        device: where the policy computes.
        workers: processes, each with its own policy and environments; 0: this one.
        batch: environments that a process plays beside each other, so that a policy with `act_batch` answers them at once.
        on_episode: called after every new episode.

    Raises:
        ConfigError: unknown policy or environment, a folder of another run, a policy object with workers.
        MissingExtraError, MissingWeightsError, CheckpointError: something needed is not here.
    """
    if not isinstance(policy, str | Path) and workers > 0:
        raise ConfigError("a policy object stays in its process", where="workers", mend="give its name, or workers=0")
    if batch < 1 or (batch > 1 and str(policy) in BUILT_IN):
        raise ConfigError(f"{batch} for '{policy}'", where="batch", mend="give 1, or a policy with `act_batch`")
    if config.videos and out is None:
        raise ConfigError("videos need a folder", where="videos", mend="give out=")
    suite, folder = find_suite(config.env), None if out is None else Path(out)
    name = str(policy) if isinstance(policy, str | Path) else policy.name
    book = RecordBook(folder, _settings(name, config, suite))
    started = time.monotonic()
    for records in _run(policy, _jobs(suite, config, book.finished(), batch), config, suite, folder, device, workers):
        for record in records:
            book.add(record)
            if on_episode is not None:
                on_episode(record)
    report = summarise(book.records(), suite.name, name, seed=config.seed, latency_ms=config.latency_ms)
    report["run_seconds"] = time.monotonic() - started
    return report


class _Bench:
    """One process's policy and the environments it played last."""

    def __init__(
        self, policy: str | Path | Policy, config: RolloutConfig, suite: Suite, folder: Path | None, device: str
    ):
        self._policy, self._config, self._suite = policy, config, suite
        self._folder, self._device = folder, device
        self._address, self._envs = "", list[ControlEnv]()
        self._loaded: Policy | None = None
        if not isinstance(policy, str | Path):
            self._loaded = policy
        elif str(policy) not in BUILT_IN:
            self._loaded = load_policy(policy, device)

    def play(self, address: str, episodes: Sequence[int]) -> list[EpisodeRecord]:
        """Some episodes of one task, beside each other."""
        envs = self._envs_at(address, len(episodes))
        policy = self._loaded or _built_in(str(self._policy), envs[0])
        seeds = [episode_seed(address, self._config.seed, episode) for episode in episodes]
        films = [self._film(address, episode, env) for episode, env in zip(episodes, envs, strict=True)]
        named: list[dict[str, Any]] = [
            {"env": address, "episode": episode, "seed": seed, "group": self._suite.group_of.get(address, "")}
            for episode, seed in zip(episodes, seeds, strict=True)
        ]
        try:
            played = play_together(envs, policy, seeds, self._player, films)
        except TraceworldError:
            raise  # nothing that another episode would do better
        except Exception as error:
            log.exception("%s, episodes %s", address, episodes)
            return [EpisodeRecord(**name, **UNPLAYED, error=f"{type(error).__name__}: {error}") for name in named]
        finally:
            videos = [None if film is None else film.close() for film in films]
        together = zip(named, played, videos, strict=True)
        return [EpisodeRecord(**name, **found, video=video) for name, found, video in together]

    def close(self) -> None:
        for env in self._envs:
            env.close()
        self._envs = []

    def _envs_at(self, address: str, number: int) -> list[ControlEnv]:
        if self._address != address:
            self.close()
            self._address = address
        options = self._config.options_of(address)
        if cameras := getattr(self._loaded, "cameras", ()):
            options = {"cameras": tuple(cameras)} | options
        if getattr(self._loaded, "wants_depth", False):
            options = {"with_depth": True} | options
        while len(self._envs) < number:
            self._envs.append(make_env(address, **options))
        return self._envs[:number]

    def _player(self, env: ControlEnv) -> ChunkPlayer:
        config = self._config
        return ChunkPlayer(
            execute=self._suite.execute if config.execute is None else config.execute,
            latency_steps=round(config.latency_ms / 1e3 * env.spec.control_hz),
            blend=config.blend,
        )

    def _film(self, address: str, episode: int, env: ControlEnv) -> VideoSink | None:
        if self._folder is None or episode >= self._config.videos:
            return None
        name = f"videos/{address.replace(':', '-')}-{episode:03d}.mp4"
        return VideoSink(self._folder, name, env.spec.control_hz)


def _built_in(name: str, env: ControlEnv) -> Policy:
    """`expert` and `random`, which are made for one environment."""
    if name == "random":
        return RandomPolicy(env.spec)
    if not isinstance(env, MetaworldEnv):
        raise ConfigError("has no script", where=f"expert in {env.task}", mend="Meta-World's tasks have one")
    return ScriptedExpert(env)


Job = tuple[str, tuple[int, ...]]
"""Episodes of one task that are played beside each other."""


def _jobs(suite: Suite, config: RolloutConfig, done: set[tuple[str, int]], batch: int) -> list[Job]:
    """What is left to do."""
    episodes = suite.episodes if config.episodes is None else config.episodes
    jobs: list[Job] = []
    for address in suite.envs:
        left = [episode for episode in range(episodes) if (address, episode) not in done]
        jobs += [(address, tuple(left[first : first + batch])) for first in range(0, len(left), batch)]
    return jobs


def _settings(name: str, config: RolloutConfig, suite: Suite) -> dict[str, Any]:
    """What decides the episodes; more of them, or films of them, are no other run."""
    found = {key: value for key, value in asdict(config).items() if key not in ("episodes", "videos")}
    if config.latency_ms:
        found["latency_rule"] = (
            "chunks enter behind what was played"  # episodes that were played otherwise are another run
        )
    return found | {"policy": name, "execute": suite.execute if config.execute is None else config.execute}


def _run(
    policy: str | Path | Policy,
    todo: list[Job],
    config: RolloutConfig,
    suite: Suite,
    folder: Path | None,
    device: str,
    workers: int,
) -> Iterator[list[EpisodeRecord]]:
    if workers < 1:
        bench = _Bench(policy, config, suite, folder, device)
        try:
            for job in todo:
                yield bench.play(*job)
        finally:
            bench.close()
        return
    with worker_pool(workers, _begin_work, policy, config, suite, folder, device) as pool:
        running = [pool.submit(_work, *job) for job in todo]
        try:
            for future in as_completed(running):
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


_GIVEN: tuple[Any, ...] = ()
_BENCH: _Bench | None = None
"""This worker process's bench, and what it is made of (with its first work: an error there reaches the caller as it is)."""


def _begin_work(*given: Any) -> None:
    global _GIVEN
    _GIVEN = given


def _work(address: str, episodes: tuple[int, ...]) -> list[EpisodeRecord]:
    global _BENCH
    _BENCH = _BENCH or _Bench(*_GIVEN)
    return _BENCH.play(address, episodes)
