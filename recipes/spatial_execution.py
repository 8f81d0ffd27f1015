"""Spatial traces carried out among distractors: what a trace that keeps clear is worth, apart from who sees and says it.

    python recipes/spatial_execution.py --out runs/spatial.json --section              # ten episodes of each of six tasks
    python recipes/spatial_execution.py --episodes 2 --tasks push pick-place           # a try

Posts stand on the table, one of them in the straight way where there is room (`sim.posts`). The planned trace goes around them as
TraceSpatial plans its traces (RRT*, the whole hand as the moving box), the straight one does not; both are carried out by
`policies.follower.spatial`. Observations are rays, not pictures (`sim.sketch`).
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from results import DOCUMENT, command, markdown_table, publish

from traceworld.errors import ExtractionError
from traceworld.evaluation.execution import ChunkPlayer
from traceworld.evaluation.intervals import wilson_interval
from traceworld.evaluation.rollout_play import play_together
from traceworld.policies.follower.effectors import CartesianEffector
from traceworld.policies.follower.planned_trace import PlannedTraces
from traceworld.policies.follower.spatial import SpatialTracePolicy
from traceworld.sim.control import METAWORLD_SPEC, MetaworldEnv, test_seed
from traceworld.sim.sketch import SketchedEnv

TASKS = ("pick-place", "push", "push-back", "sweep", "coffee-push", "coffee-pull")
_STRIDE_PX = 5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SpatialExecution:
    """
    Attributes:
        episodes: of each task, on test seeds. tasks: Meta-World tasks whose thing can be grasped.
        posts: distractors. seed: of the run.
        out: JSON file for all episodes.
        section: write the section `spatial` of docs/results.md.
    """

    episodes: int = 10
    tasks: tuple[str, ...] = TASKS
    posts: int = 4
    seed: int = 0
    out: Path | None = None
    section: bool = False


def play_task(task: str, options: SpatialExecution) -> list[dict[str, Any]]:
    """Every episode with both traces."""
    env = MetaworldEnv(task, posts=options.posts)
    sketch = SketchedEnv(env, stride=_STRIDE_PX)
    rows = []
    for episode in range(options.episodes):
        for straight in (True, False):
            source = PlannedTraces(env, straight)
            row = {"task": task, "episode": episode, "trace": source.name, "success": False, "touched": False}
            policy = SpatialTracePolicy(source, CartesianEffector(METAWORLD_SPEC))
            try:
                played = play_together([sketch], policy, [test_seed(options.seed, episode)], lambda _: ChunkPlayer())[0]
                row |= {"success": bool(played["success"]), "touched": bool(env.touched)}
            except ExtractionError as error:  # no way was found: the episode has failed
                row["error"] = str(error)
            posts = env.world.posts
            rows.append(row | {"between": posts is not None and posts.between})
    return rows


def summary(rows: list[dict[str, Any]], options: SpatialExecution) -> str:
    """The section: by task, over all, and over those episodes in which a post stands in the way."""
    table = []
    parts = [(task, [row for row in rows if row["task"] == task]) for task in options.tasks]
    parts += [("all", rows), ("all with a post in the way", [row for row in rows if row["between"]])]
    for name, part in parts:
        cells = [name, str(len(part) // 2)]
        for trace in ("straight", "planned"):
            mine = [row for row in part if row["trace"] == trace]
            clean = sum(row["success"] and not row["touched"] for row in mine)
            cells += [share(sum(row["success"] for row in mine), len(mine)), share(clean, len(mine))]
            cells.append(share(sum(row["touched"] for row in mine), len(mine)))
        table.append(cells)
    head = ["task", "episodes", "straight: success", "clean", "touched", "planned: success", "clean", "touched"]
    note = (
        f"{options.posts} posts on the table, {options.episodes} episodes of each task on unseen seeds (run {options.seed}), percent "
        "[95 %, Wilson]. Clean: done, and no post was ever touched."
    )
    return "\n".join([note, "", markdown_table(head, table), "", "```bash", command("spatial_execution"), "```"])


def share(count: int, total: int) -> str:
    """Percent with its interval."""
    if not total:
        return "–"
    low, high = wilson_interval(count, total)
    return f"{100 * count / total:.0f} [{100 * low:.0f}–{100 * high:.0f}]"


def main(options: SpatialExecution) -> list[dict[str, Any]]:
    """All episodes; writes what it was asked to write."""
    rows: list[dict[str, Any]] = []
    for task in options.tasks:
        rows += play_task(task, options)
        log.info("%s: %d episodes", task, options.episodes)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(rows, indent=1))
    if options.section:
        publish(DOCUMENT, "spatial", summary(rows, options))
    return rows


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    given = tyro.cli(SpatialExecution)
    print(summary(main(given), given))
