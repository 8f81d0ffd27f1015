"""Commands of the simulated worlds: sim record, sim corpus (sim demos: `commands.robots`)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg, subcommand

from traceworld.commands.printing import emit, table
from traceworld.commands.robots import SimDemos


@dataclasses.dataclass(frozen=True)
class SimRecord:
    """Render simulated manipulation episodes to ordinary RGB-D folders, with the exact traces beside them."""

    tasks: Positional[tuple[str, ...]]
    """Meta-World tasks, e.g. drawer-open-v3, or `all`, `trained`, `held-out`."""
    out: Path
    """Folder for the recordings."""
    episodes: int = 1
    """Episodes per task."""
    seed: int = 0
    camera: str = "corner"
    """A named camera of the world."""
    moving_camera: bool = False
    """Move the camera along a smooth seeded path."""
    write_poses: bool = False
    """Write cam_from_world into clip.json (else the camera's motion has to be estimated)."""
    width: int = 640
    height: int = 480
    embodiment: str = "sawyer"
    """Who plays: sawyer, bare-gripper, hand-like, other-arm."""
    variety: bool = False
    """Draw colours, patterns, lights and distractors from the seed."""
    workers: int = 1
    json: bool = False
    """Print as JSON."""

    def run(self) -> int:
        from traceworld.sim.record import record_many
        from traceworld.sim.variety import Variety

        result = record_many(
            self.tasks,
            self.episodes,
            self.out,
            seed=self.seed,
            camera=self.camera,
            moving_camera=self.moving_camera,
            write_poses=self.write_poses,
            size=(self.width, self.height),
            embodiment=self.embodiment,
            variety=Variety() if self.variety else None,
            workers=self.workers,
        )
        rows = [dataclasses.asdict(record) for record in result]
        emit(rows, self.json, table(f"sim record → {self.out}", rows))
        return 0


@dataclasses.dataclass(frozen=True)
class SimCorpus:
    """Build a training corpus: exact traces of many simulated episodes, with pictures of some frames."""

    out: Path
    """Dataset folder."""
    tasks: tuple[str, ...] = ("trained",)
    """Meta-World tasks, or `all`, `trained`, `held-out`."""
    episodes: int = 10
    """Episodes per task."""
    seed: int = 0
    embodiments: tuple[str, ...] = ("sawyer",)
    """Who plays, in equal shares: sawyer, bare-gripper, hand-like, other-arm."""
    variety: bool = False
    """Draw colours, patterns, lights and distractors of each episode from the seed."""
    workers: int = 2
    json: bool = False
    """Print as JSON."""

    def run(self) -> int:
        from traceworld.sim.corpus import build_corpus
        from traceworld.sim.variety import Variety

        result = build_corpus(
            self.out,
            self.tasks,
            self.episodes,
            seed=self.seed,
            workers=self.workers,
            embodiments=self.embodiments,
            variety=Variety() if self.variety else None,
        )
        emit(result, self.json, table(f"sim corpus → {self.out}", [result]))
        return 0


@dataclasses.dataclass(frozen=True)
class Sim:
    """Simulated worlds."""

    command: Annotated[
        Annotated[SimRecord, subcommand("record", prefix_name=False)]
        | Annotated[SimCorpus, subcommand("corpus", prefix_name=False)]
        | Annotated[SimDemos, subcommand("demos", prefix_name=False)],
        arg(name=""),
    ]

    def run(self) -> int:
        return self.command.run()
