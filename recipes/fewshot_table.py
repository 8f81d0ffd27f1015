"""From the cells of the few-shot study to its tables: means over tasks, their intervals, and what they say of the claim.

A cell is one task and one seed of one row; its figure is an error relative to "nothing moves". Each cell has warm-up episodes,
test episodes and a training seed of its own, so the cells of a row are independent but for the pre-trained weights they share.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from results import markdown_table
from scipy.stats import t as student

MAIN, FIRST = "topS_ade@32", "top1_ade@32"
WANTED_GAIN = 0.30
NAMES = {"random": "random", "all": "all", "hand": "hand only", "robots": "other robots only"}


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float

    def apart(self, other: Estimate) -> bool:
        """Whether the two intervals have nothing in common."""
        return self.high < other.low or other.high < self.low


def over_tasks(values: Mapping[str, Sequence[float]]) -> Estimate:
    """Mean over tasks of the means over seeds; each task weighs alike.

    The variance is that of a stratified mean, Σ s²/n over tasks / tasks², with s² between the seeds of one task, so differences
    between tasks do not widen the interval: the study is about these tasks. Student's t, degrees of freedom by Welch and
    Satterthwaite.

    Args:
        values: task → its figure for each seed; two seeds at least.
    """
    means = [float(np.mean(seeds)) for seeds in values.values()]
    parts = [float(np.var(seeds, ddof=1)) / len(seeds) for seeds in values.values()]
    mean, variance = float(np.mean(means)), sum(parts) / len(parts) ** 2
    if variance == 0:
        return Estimate(mean, mean, mean)
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(seeds) - 1) for part, seeds in zip(parts, values.values(), strict=True)
    )
    reach = float(student.ppf(0.975, freedom)) * math.sqrt(variance)
    return Estimate(mean, mean - reach, mean + reach)


def summary(cells: Iterable[Mapping[str, Any]], videos: tuple[int, int], source_tasks: Sequence[str]) -> dict[str, Any]:
    """The two tables of the page and the verdict (JSON-able).

    Args:
        cells: `source`, `videos`, `task`, `seed` and the two figures of each cell.
        videos: few and more of the warm-up.
        source_tasks: tasks of the second table; none: no such table.
    """
    few, more = videos
    cells = list(cells)
    by_warm_up = [
        _row(cells, *row) for row in (("all", 0), ("random", few), ("all", few), ("random", more), ("all", more))
    ]
    sources = ("random", "hand", "robots", "all") if source_tasks else ()
    by_source = [_row(cells, source, few, source_tasks) for source in sources]
    main = {(row["source"], row["videos"]): Estimate(**row["figures"][MAIN]) for row in by_warm_up}
    return {
        "warm_up": by_warm_up,
        "source": by_source,
        "verdict": verdict(main["all", few], main["random", few], main["random", more]),
    }


def _row(
    cells: Sequence[Mapping[str, Any]], source: str, videos: int, tasks: Sequence[str] | None = None
) -> dict[str, Any]:
    """One row of a table, over all tasks that it has or over these."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for cell in sorted(cells, key=lambda cell: (cell["task"], cell["seed"])):
        if (cell["source"], cell["videos"]) == (source, videos) and (tasks is None or cell["task"] in tasks):
            found.setdefault(cell["task"], []).append(cell)
    values = {
        figure: {task: [one[figure] for one in seeds] for task, seeds in found.items()} for figure in (MAIN, FIRST)
    }
    return {
        "source": source,
        "videos": videos,
        "figures": {figure: asdict(over_tasks(by_task)) for figure, by_task in values.items()},
        "by_task": {task: float(np.mean(seeds)) for task, seeds in values[MAIN].items()},
    }


def verdict(pretrained: Estimate, random_few: Estimate, random_more: Estimate) -> dict[str, Any]:
    """Whether few videos after pre-training beat as few, and more, without it.

    `holds`: by at least 30 % of the error against as few, by any amount against more, intervals apart in both.
    """
    against = {
        name: {"gain": 1 - pretrained.mean / other.mean, "apart": pretrained.apart(other)}
        for name, other in (("random_few", random_few), ("random_more", random_more))
    }
    few, more = against["random_few"], against["random_more"]
    holds = few["gain"] >= WANTED_GAIN and few["apart"] and more["gain"] > 0 and more["apart"]
    return {**against, "holds": bool(holds)}


# --- in words ---------------------------------------------------------------------------------------------------------


def section(figures: Mapping[str, Any]) -> str:
    """The generated section: the two tables of the TraceGen page in this study's figure, protocol, cost and verdict."""
    options = figures["options"]
    few, more = options["videos"]
    cost = ", ".join(f"{name} {minutes:.0f}" for name, minutes in figures["cost_minutes"].items())
    by_source = ["", "**Pre-training source**", "", table_of(figures["source"])] if figures["source"] else []
    return "\n".join(
        [
            _pre_training(figures),
            f"Warm-up: one model per task, {options['steps_warmup']} steps of {options['batch_warmup']} windows "
            f"({options['steps_random'] or options['steps_warmup']} from random initialisation). {options['seeds']} seeds, each "
            f"with warm-up episodes, training seed and {options['test_episodes']} test episodes of its own; the pre-trained "
            "weights are the same for all (pre-training seed 0).",
            "",
            f'Error relative to "nothing moves" ({MAIN}, {FIRST}), lower is better; mean over tasks [95 %].',
            "",
            "**Warm-up**",
            "",
            table_of(figures["warm_up"]),
            *by_source,
            "",
            *verdict_lines(figures["verdict"], few, more),
            "",
            f"Cost in minutes on {figures['machine']['cpus']} CPU cores ({figures['machine']['arch']}): {cost}. Command:",
            "",
            "```bash",
            figures["command"],
            "```",
        ]
    )


def _pre_training(figures: Mapping[str, Any]) -> str:
    options = figures["options"]
    model = f"μ0 `{options['size']}`, {figures['parameters']:,} parameters."
    if options.get("shipped"):
        return (
            f"Held-out arm `{options['arm']}`, held-out tasks. Pre-trained: the shipped `{options['shipped']}`, which has seen "
            f"neither (its card says what it has seen). Model: {model}"
        )
    return (
        f"Held-out arm `{options['arm']}`, held-out tasks; pre-training on {figures['pretrain_episodes']:,} episodes of "
        f"{len(options['pretrain_tasks'])} other tasks, in equal shares by {', '.join(figures['sources']['all'])}, "
        f"{figures['pretrain_steps']} steps of {options['batch_pretrain']} windows for every source. Model: {model}"
    )


def verdict_lines(found: Mapping[str, Any], few: int, more: int) -> list[str]:
    """The claim, and whether it holds, as a list."""
    lines = []
    for name, videos in (("random_few", few), ("random_more", more)):
        one = found[name]
        lines.append(
            f"- Pre-trained + {few} videos against random + {videos}: {100 * one['gain']:.0f} % less error; 95 % intervals "
            f"{'apart' if one['apart'] else 'overlap'}."
        )
    holds = "holds" if found["holds"] else "does not hold"
    return [
        *lines,
        f"- The claim (at least {100 * WANTED_GAIN:.0f} % less than random + {few}, less than random + {more}, intervals "
        f"apart) **{holds}**.",
    ]


def table_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of a summary as Markdown: each task's mean over seeds, then the mean over tasks with its interval."""
    tasks = list(rows[0]["by_task"])
    head = ["warm-up", "pre-training", *(task.removesuffix("-v3") for task in tasks), "best of 5", "first"]
    body = [
        [
            f"{row['videos']} videos" if row["videos"] else "none",
            NAMES[row["source"]],
            *(f"{row['by_task'][task]:.3f}" for task in tasks),
            *(_shown(row["figures"][figure]) for figure in (MAIN, FIRST)),
        ]
        for row in rows
    ]
    return markdown_table(head, body)


def _shown(estimate: Mapping[str, float]) -> str:
    return f"{estimate['mean']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
