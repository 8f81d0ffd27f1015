"""Start training runs of several ranks in processes of their own, as torchrun would: `launch` them, or be one of them.

A process runs one or more jobs, one after the other; a job is a `TrainConfig` as JSON.
"""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

HERE = Path(__file__).parent
TIMEOUT_S = float(os.environ.get("RANKS_TIMEOUT_S", "240"))
"""For all processes of one start; on a machine that is busy with something else, set it higher."""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def launch(jobs: list[dict], ranks: int = 2, slow_s: float = 0.0) -> list[subprocess.Popen]:
    """One process per rank. `slow_s`: how much longer a step takes, so that it can be hit."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", str(HERE / "ranks.py"), json.dumps(jobs), str(slow_s)],
            env={
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(ranks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]


def finish(processes: list[subprocess.Popen], timeout_s: float = TIMEOUT_S) -> list[tuple[int, str, str]]:
    """Return code, output and errors of each; none is left running."""
    deadline = time.monotonic() + timeout_s
    try:
        said = [p.communicate(timeout=max(1.0, deadline - time.monotonic())) for p in processes]
        return [(p.returncode, *texts) for p, texts in zip(processes, said, strict=True)]
    finally:
        for process in processes:
            process.kill()


class PlainToy(nn.Module):
    """A toy without dropout, with two terms of different denominators, and a part that only some windows use."""

    def __init__(self):
        super().__init__()
        import toy

        width = 3 * toy.h + 3 * toy.D + 1
        self.lift = nn.Linear(width, 32)
        self.blocks = nn.ModuleList(nn.Linear(32, 32) for _ in range(2))
        self.head = nn.Linear(32, 3 * toy.D)
        self.done = nn.Linear(32, toy.H)
        self.rare = nn.Linear(1, 32)
        self.never = nn.Linear(2, 2)
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)

    def loss(self, batch, generator):
        controls = batch["controls"].flatten(2)
        tau = torch.rand((len(controls), 1, 1), generator=generator)
        noise = torch.randn(controls.shape, generator=generator)
        x = tau * noise + (1 - tau) * controls
        hidden = self.lift(torch.cat([batch["history"].flatten(2), x, tau.expand(*x.shape[:2], 1)], -1))
        rows = (batch["image"].float().mean((1, 2, 3)) > 130).nonzero()[:, 0]
        if len(rows):
            hidden = hidden.index_add(0, rows, self.rare(torch.ones(len(rows), hidden.shape[1], 1)))
        for block in self.blocks:
            hidden = hidden + block(hidden.tanh())
        present = batch["present"]
        flow = (self.head(hidden) - (noise - controls)).square().mean(-1)
        flow = (flow * present).sum() / present.sum().clamp(min=1)
        strong = present & (controls.abs().amax(-1) > 1)
        done = nn.functional.softplus(self.done(hidden)).mean(-1)
        done = (done * strong).sum() / strong.sum().clamp(min=1)
        return {"loss": flow + 0.5 * done, "flow": flow, "done": done}


def plain_shares(model, batch):
    strong = batch["present"] & (batch["controls"].flatten(2).abs().amax(-1) > 1)
    return {"flow": (1.0, int(batch["present"].sum())), "done": (0.5, int(strong.sum()))}


def register(slow_s: float = 0.0) -> None:
    """Make `plain` trainable, and `mu0` at a size that takes a moment."""
    import toy

    from traceworld.models.mu0 import config as c
    from traceworld.models.mu0 import sizes
    from traceworld.training.registry import register_model

    class Slow(PlainToy):
        def loss(self, batch, generator):
            time.sleep(slow_s)
            return super().loss(batch, generator)

    kind = replace(
        toy.toy_kind(),
        build=lambda config: Slow() if slow_s else PlainToy(),
        shares=plain_shares,
        units=lambda model: [[block] for block in model.blocks],
        is_backbone=lambda name: False,
    )
    register_model("plain", lambda: kind)
    prefix = c.NanoPrefixConfig(
        image_height=32, image_width=32, stem_channels=(8, 8, 8), width=32, layers=3, heads=2, mlp_hidden=48
    )
    small = replace(
        sizes._SIZES["nano"],
        size="tiny",
        prefix=prefix,
        expert=replace(sizes._SIZES["nano"].expert, width=32, mlp_hidden=48),
        loss=replace(sizes._SIZES["nano"].loss, draws=2),
    )
    sizes._SIZES["tiny"] = small


def run(jobs: list[dict], slow_s: float = 0.0) -> list[str]:
    """Run the jobs in this process; each one's status."""
    import toy

    from traceworld.training import TrainConfig, train

    register(slow_s)
    statuses = []
    for job in jobs:
        if "MASTER_PORT" in os.environ and statuses:  # torchrun's own store outlives a run; here each run has one
            os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)
        config = TrainConfig.from_json(job)
        statuses.append(train(config, toy.toy_data() if config.model == "plain" else None).status)
    return statuses


if __name__ == "__main__":
    faulthandler.dump_traceback_later(TIMEOUT_S, exit=True)
    sys.path[:0] = [str(HERE), str(HERE.parent / "traces")]
    sys.stdout.write(" ".join(run(json.loads(sys.argv[1]), float(sys.argv[2]))))
