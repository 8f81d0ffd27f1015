"""How long act-nano takes for a chunk of actions, its share of a 10 Hz budget, and what its motion feature costs beside a prediction.

    python benchmarks/policy.py                            # seconds on a CPU
    python benchmarks/policy.py --policy runs/act/act-nano --execute 1 --threads 1 --json

`act` is a whole `ActionExpertPolicy.act`, from pictures in memory to actions in memory. `trace_feature` is one Euler step of the
trace expert with all it needs of the keypoints, on a prefix that is there, since the policy reads that prefix anyway;
`prediction` is a whole `Mu0Predictor.predict` for the same keypoints, prefix included; `share_of_prediction` is their ratio, and
`share_with_prefix` the same with the prefix counted on both sides. Without installed weights they are random: time does not
depend on what they are.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from roofline import in_turns

from traceworld.errors import MissingWeightsError
from traceworld.models.mu0.predictor import Mu0Predictor
from traceworld.policies.action_expert.checkpoint import load_mu0
from traceworld.policies.action_expert.model import PolicyModel
from traceworld.policies.action_expert.normalisation import ActionScales
from traceworld.policies.action_expert.policy import ActionExpertPolicy
from traceworld.policies.action_expert.sizes import policy_config
from traceworld.policies.registry import load_policy
from traceworld.sim.control import METAWORLD_SPEC
from traceworld.traces.robot import RobotObservation
from traceworld.traces.types import Observation

BUDGET_HZ = 10.0


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        policy: name or folder; a size of `action_expert.sizes` when that is not installed.
        mu0: of a size.
        execute: actions played per chunk.
        robots: also measure so many at once (`act_batch`); 1: do not.
        width, height: of the pictures, px.
        repeats: rounds of which the median counts; budget_s: seconds for the rounds.
        threads: torch threads; 0 leaves torch's choice.
        device: cpu or cuda.
        json: print one JSON object instead of a table.
    """

    policy: str = "act-nano"
    mu0: str = "mu0-nano"
    execute: int = 8
    robots: int = 8
    width: int = 192
    height: int = 144
    repeats: int = 20
    budget_s: float = 60.0
    threads: int = 0
    device: str = "cpu"
    json: bool = False


def policy_of(options: Options) -> ActionExpertPolicy:
    """The installed policy, or one of its size with random weights."""
    try:
        found = load_policy(options.policy, options.device)
        assert isinstance(found, ActionExpertPolicy), f"{options.policy} is no action expert"
        return found
    except MissingWeightsError:
        config = policy_config(options.policy.removeprefix("act-"), 4, METAWORLD_SPEC.dim)
        scales = ActionScales.unit(4, METAWORLD_SPEC)
        model = PolicyModel(config, load_mu0(options.mu0), scales).to(options.device)
        return ActionExpertPolicy(model, f"{options.policy} (random weights)")


def observation(options: Options, policy: ActionExpertPolicy, seed: int = 0) -> RobotObservation:
    """Pictures of noise."""
    rng = np.random.default_rng(seed)
    names = policy.cameras or ("scene", policy.config.gripper.camera)
    images = {name: rng.integers(0, 256, (options.height, options.width, 3), dtype=np.uint8) for name in names}
    state = np.zeros(policy.config.state_dim, np.float32)
    return RobotObservation(images, state, "open the top drawer of the cabinet")


def measure(options: Options) -> dict[str, Any]:
    """The figures, in milliseconds unless a name says otherwise."""
    if options.threads:
        torch.set_num_threads(options.threads)
    policy = policy_of(options)
    seen = observation(options, policy)
    frozen = policy.model.frozen
    glance = policy.glance(seen)
    batch = frozen._batch([glance])
    noise = torch.from_numpy(glance["noise"])[None].to(policy.model.device)
    asked = Observation(
        image=seen.images[seen.scene_camera],
        instruction=seen.instruction,
        keypoints_uv=glance["query_uv"],
        clock=frozen.clock,
        step=frozen.mu0.normalisation.steps[frozen.clock],
    )
    predictor = Mu0Predictor(frozen.mu0)
    many = [observation(options, policy, seed) for seed in range(options.robots)]
    with torch.no_grad():
        prefix = frozen.mu0.encode(batch)
        runs = {
            "act": lambda: policy.act(seen),
            "prefix": lambda: frozen.mu0.encode(batch),
            "trace_feature": lambda: frozen.trace_features(batch, prefix, noise),
            "prediction": lambda: predictor.predict(asked),
        }
        if options.robots > 1:
            runs["act_batch"] = lambda: policy.act_batch(many, range(options.robots))
        spent = in_turns(runs, options.repeats, options.budget_s, options.device)
    ms = {name: 1e3 * statistics.median(each) for name, each in spent.items()}
    stages = policy.act(seen).timing
    parts = list(policy.model.parameters())
    report: dict[str, Any] = {
        "policy": policy.name,
        "parameters": sum(p.numel() for p in parts),
        "trained_parameters": sum(p.numel() for p in parts if p.requires_grad),
        "threads": torch.get_num_threads(),
        "device": options.device,
        **{f"{name}_ms": value for name, value in ms.items()},
        **{f"stage_{name}_ms": 1e3 * value for name, value in stages.items() if name != "total"},
        "act_p95_ms": 1e3 * float(np.quantile(spent["act"], 0.95)),
        "control_steps_per_s": options.execute / ms["act"] * 1e3,
        "share_of_10_hz": ms["act"] / 1e3 * BUDGET_HZ / options.execute,
        "share_of_10_hz_asked_every_step": ms["act"] / 1e3 * BUDGET_HZ,
        "share_of_prediction": ms["trace_feature"] / ms["prediction"],
        "share_with_prefix": (ms["trace_feature"] + ms["prefix"]) / ms["prediction"],
    }
    if options.robots > 1:
        report["batched_ms_per_robot"] = ms["act_batch"] / options.robots
    return report


def main(options: Options) -> dict[str, Any]:
    """Measure, print, and return what was printed."""
    report = measure(options)
    if options.json:
        print(json.dumps(report))
        return report
    sheet = Table(title=f"{report['policy']}, {options.execute} of a chunk played")
    sheet.add_column("figure")
    sheet.add_column("value", justify="right")
    for name, value in report.items():
        sheet.add_row(name, f"{value:,.3f}" if isinstance(value, float) else str(value))
    Console(width=100).print(sheet)
    return report


if __name__ == "__main__":
    main(tyro.cli(Options))
