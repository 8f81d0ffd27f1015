"""Reports of `traceworld rollout --out` side by side, into a section of docs/results.md.

    python recipes/rollout_table.py --section follower --runs exact=runs/exact mu0-nano=runs/follow-mu0 tracegen-nano=runs/follow-tracegen
    python recipes/rollout_table.py --section latency --runs 0=runs/late-0 100=runs/late-100 300=runs/late-300 --against 0

A run is NAME=FOLDER, the folder of a rollout (its `results.json` is read, and nothing else). All runs must be of one suite.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from results import DOCUMENT, command, markdown_table, publish

from traceworld.errors import ConfigError, DatasetError
from traceworld.evaluation.rollout_report import PUBLISHED_MT50, RESULTS_FILE, published_mean

Section = Literal[
    "policies-mt10",
    "policies-mt10-few",
    "policies-mt10-few-heads",
    "policies-mt10-few-paper",
    "policies-mt50",
    "follower",
    "latency",
]
GROUPS = ("easy", "medium", "hard", "very-hard")


@dataclass(frozen=True)
class RolloutTable:
    """
    Attributes:
        section: of the document.
        runs: NAME=FOLDER of each rollout, in the order of the table.
        against: name of a run that the others are compared with. None: the second.
        note: a sentence that stands above the table.
        results: the document.
    """

    section: Section
    runs: tuple[str, ...]
    against: str | None = None
    note: str | None = None
    results: Path = DOCUMENT


def main(options: RolloutTable) -> str:
    """Write the section. Returns its text."""
    reports = {name: read_report(Path(folder)) for name, folder in map(named, options.runs)}
    notes = [options.note] if options.note else []
    text = section(reports, notes, command("rollout_table"), against=options.against)
    publish(options.results, options.section, text)
    return text


def named(run: str) -> tuple[str, str]:
    """NAME=FOLDER, taken apart."""
    name, equals, folder = run.partition("=")
    if not equals or not name or not folder:
        raise ConfigError(f"'{run}'", where="runs", mend="write NAME=FOLDER of a rollout")
    return name, folder


def read_report(folder: Path) -> dict[str, Any]:
    """
    Raises:
        DatasetError: no finished rollout is there.
    """
    try:
        return json.loads((folder / RESULTS_FILE).read_text())
    except (OSError, ValueError) as error:
        raise DatasetError(f"holds no readable {RESULTS_FILE}: {error}", where=str(folder)) from error


def section(
    reports: Mapping[str, Mapping[str, Any]], notes: Sequence[str], made_by: str, *, against: str | None = None
) -> str:
    """The section's text: success by task (or by group), cost and motion, and one line per comparison.

    Args:
        reports: name → report, all of one suite. notes: sentences above the table. made_by: the command.
        against: the run that the others are compared with; None: the second, if there is one.

    Raises:
        ConfigError: nothing to show, reports of different suites, no such run.
    """
    suites = {report["suite"] for report in reports.values()}
    if len(suites) != 1:
        raise ConfigError(f"are of {sorted(suites)}", where="runs", mend="give rollouts of one suite")
    names = list(reports)
    base = against or (names[1] if len(names) > 1 else None)
    if base is not None and base not in reports:
        raise ConfigError(f"no run is called '{base}'", where="against", mend=", ".join(names))
    by_group = suites == {"mt50"}
    table = groups_table(reports) if by_group else tasks_table(reports)
    parts = [*notes, table, cost_table(reports)]
    if base is not None:
        parts.append("\n".join(comparison(reports, name, base) for name in names if name != base))
    return "\n\n".join([*parts, f"Command:\n\n```bash\n{made_by}\n```"])


def tasks_table(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Successes of episodes by task; a column per run."""
    tasks = list(next(iter(reports.values()))["by_task"])
    rows = [[short(task), *(_done(report["by_task"].get(task)) for report in reports.values())] for task in tasks]
    rows.append(["all episodes", *(_done(report["overall"]) for report in reports.values())])
    rows.append(["success, % [95 %]", *(_percent(report["overall"]) for report in reports.values())])
    return markdown_table(["task", *reports], rows)


def groups_table(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Success by group of difficulty beside the published rows."""
    rows = []
    for name, report in reports.items():
        found = report["by_group"]
        cells = [f"{100 * found[group]['rate']:.1f}" for group in GROUPS]
        rows.append(
            [f"**{name}**", *cells, f"{100 * report['overall']['mean_over_groups']:.1f}", _percent(report["overall"])]
        )
    for name, published in PUBLISHED_MT50.items():
        values = [published[group] for group in GROUPS]
        rows.append([f"{name} (published)", *(f"{v:.1f}" for v in values), published_mean(published), ""])
    return markdown_table(["policy", *GROUPS, "mean over groups", "all episodes [95 %]"], rows)


def cost_table(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Milliseconds, steps and smoothness."""
    rows = [
        [
            name,
            f"{report['episodes']}",
            _figure(report["timing"]["act_ms"]),
            _figure(report["overall"]["steps_to_success"]),
            _figure(report["motion"]["jitter"]),
            _figure(report["motion"]["waits"]),
        ]
        for name, report in reports.items()
    ]
    return markdown_table(
        ["", "episodes", "ms per chunk", "steps to success", "jitter of actions", "steps without an action"], rows
    )


def comparison(reports: Mapping[str, Mapping[str, Any]], name: str, base: str) -> str:
    """One line: points between two runs, and whether their intervals touch."""
    ours, theirs = reports[name]["overall"], reports[base]["overall"]
    points = 100 * (ours["rate"] - theirs["rate"])
    (low, high), (below, above) = ours["interval95"], theirs["interval95"]
    apart = low > above or high < below
    times = f", {ours['rate'] / theirs['rate']:.2f} ×" if theirs["rate"] else ""
    return f"- {name} against {base}: {points:+.1f} points{times}; 95 % intervals {'apart' if apart else 'overlap'}."


def short(task: str) -> str:
    """`metaworld:reach-v3` → `reach`."""
    return task.partition(":")[2].removesuffix("-v3") or task


def _done(rate: Mapping[str, Any] | None) -> str:
    return "–" if rate is None else f"{rate['successes']}/{rate['episodes']}"


def _percent(rate: Mapping[str, Any]) -> str:
    low, high = rate["interval95"]
    return f"{100 * rate['rate']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    main(tyro.cli(RolloutTable))
