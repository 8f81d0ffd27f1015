"""Control apart from prediction: the trace follower on exact traces, in ten Meta-World tasks that were fixed beforehand (MT10).

    python recipes/follower_oracle.py --episodes 20 --out runs/follower-oracle.json
    python recipes/follower_oracle.py --episodes 5 --tasks push pick-place --noise 0.5     # a predictor that errs

The oracle lets the scripted expert play on from the present state and hands out where the asked points go (`sim.oracle`); the
follower sees points, not the expert's actions. Observations are rays, not pictures (`sim.sketch`), so an episode takes one to
five seconds of an idle core. Beside it stands the expert itself on the same seeds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from traceworld.evaluation.execution import ChunkPlayer
from traceworld.evaluation.intervals import wilson_interval
from traceworld.evaluation.rollout_play import play_together
from traceworld.policies.follower.effectors import CartesianEffector
from traceworld.policies.follower.policy import FollowerConfig, TraceFollower
from traceworld.sim.control import METAWORLD_SPEC, MetaworldEnv, test_seed
from traceworld.sim.control_policies import ScriptedExpert
from traceworld.sim.oracle import ExactTraces
from traceworld.sim.sketch import SketchedEnv
from traceworld.sim.suites import MT10


@dataclass(frozen=True)
class FollowerOracle:
    """
    Attributes:
        episodes: of each task, on test seeds.
        tasks: Meta-World tasks.
        seed: of the run.
        noise: standard deviation of the noise on the oracle's expert, in units of a centimetre per step.
        latency_ms: injected between observation and action; chunks are then long enough to bridge it.
        replan_every: control steps between two predictions.
        out: JSON file for the table.
    """

    episodes: int = 20
    tasks: tuple[str, ...] = MT10
    seed: int = 0
    noise: float = 0.0
    latency_ms: float = 0.0
    replan_every: int = 8
    out: Path | None = None


def play_task(task: str, options: FollowerOracle) -> dict[str, Any]:
    """One row of the table."""
    env = MetaworldEnv(task)
    sketch = SketchedEnv(env)
    latency = round(options.latency_ms / 1e3 * env.spec.control_hz)
    # While one chunk is under way another one is asked for, and both bridge the latency.
    config = FollowerConfig(chunk=2 * latency + options.replan_every, replan_every=options.replan_every)
    every = None if latency == 0 else options.replan_every
    won, expert_won, jitter = 0, 0, []
    for episode in range(options.episodes):
        seed = test_seed(options.seed, episode)
        expert = play_together([sketch], ScriptedExpert(env), [seed], lambda _: ChunkPlayer())[0]
        expert_won += bool(expert["success"])
        follower = TraceFollower(
            ExactTraces(env, sketch.camera, action_noise=options.noise), CartesianEffector(METAWORLD_SPEC), config
        )
        played = play_together([sketch], follower, [seed], lambda _: ChunkPlayer(execute=every, latency_steps=latency))[
            0
        ]
        won += bool(played["success"])
        jitter.append(played["jitter"] or 0.0)
    low, high = wilson_interval(won, options.episodes)
    return {
        "task": task,
        "episodes": options.episodes,
        "successes": won,
        "rate": won / options.episodes,
        "low": low,
        "high": high,
        "expert": expert_won / options.episodes,
        "jitter": sum(jitter) / len(jitter),
    }


def main(options: FollowerOracle) -> None:
    rows = []
    for task in options.tasks:
        rows.append(play_task(task, options))
        print(json.dumps(rows[-1]), flush=True)
    won, count = sum(row["successes"] for row in rows), options.episodes * len(rows)
    low, high = wilson_interval(won, count)
    total = {"task": "all", "episodes": count, "successes": won, "rate": won / count, "low": low, "high": high}
    print(json.dumps(total))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"rows": rows, "total": total}, indent=1))


if __name__ == "__main__":
    main(tyro.cli(FollowerOracle))
