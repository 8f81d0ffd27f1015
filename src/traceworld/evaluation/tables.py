"""The forecast report as tables, for a terminal and as Markdown: the layout of mu0-paper Tables 1 and 3, ratios, parts.

Each table is made once, as titles, columns and cells, and rendered twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from traceworld.traces.atomic import write_atomically

_TABLE_1 = [(metric, which) for metric in ("ade", "fde", "dtw") for which in ("top1", "topS")]
_GIVEN = {"yes": "✓", "no": "–", "unused": "(✓)", "required": "‡"}
LEGEND = (
    "d, h, K: given depth, history, intrinsics (✓; (✓) given, not looked at; ‡ required, given though the others go without). "
    "fail: answers without usable waypoints, scored as nothing moving, of all answers. † seconds per API answer, else per slot."
)


@dataclass(frozen=True)
class Sheet:
    """One table: `columns` are header lines joined by newlines; the first `left` columns are text."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    left: int = 1


def forecast_tables(report: Mapping[str, Any]) -> Group:
    """The report for a terminal, made for `needed_width` characters."""
    return Group(*(rich_table(sheet) for sheet in sheets(report)), LEGEND)


def needed_width(report: Mapping[str, Any]) -> int:
    """Characters per line with which no cell is cut off."""
    return max(map(_width, sheets(report)))


def _width(sheet: Sheet) -> int:
    cells = [column.split("\n") + [row[number] for row in sheet.rows] for number, column in enumerate(sheet.columns)]
    return sum(max(map(len, each)) + 1 for each in cells) + 2


def forecast_markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    return "\n\n".join([*(markdown_table(sheet) for sheet in sheets(report)), LEGEND]) + "\n"


def write_markdown(path: Path, reports: Sequence[Mapping[str, Any]]) -> None:
    """Write several reports to one Markdown file, atomically. Raises DatasetError if it cannot be written."""
    text = "\n".join(map(forecast_markdown, reports))
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def sheets(report: Mapping[str, Any]) -> list[Sheet]:
    """Ratios; Table 1 and Table 3 in 3D and in 2D; noise seeds, released names; groups and tasks."""
    found = [_ratios(report)]
    for suffix, title in (("", "3D (u, v, z)"), ("_uv", "2D (u, v)")):
        entrants = [row for row in _settings(report) if f"top1_ade{suffix}@{_horizons(report)[0]}" in row[2]["metrics"]]
        found.append(_table_1(report, entrants, suffix, title))
        found.append(_table_3(report, entrants, suffix, title))
    if report["protocol"]["noise_seeds"] > 1:
        found.append(_noise(report))
    if report["protocol"]["name"] == "mu0-paper":
        found += [_released(report, horizon) for horizon in _horizons(report)]
    return [*found, *_parts(report)]


def _settings(report: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    return [
        (name, setting.replace("_", " "), model[setting])
        for name, model in report["models"].items()
        for setting in ("no_history", "history")
        if setting in model
    ]


def _horizons(report: Mapping[str, Any]) -> list[int]:
    return report["protocol"]["horizons"]


def _figure(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _interval(ends: Sequence[float | None] | None, digits: int = 3) -> str:
    return "–" if not ends or None in ends else f"{_figure(ends[0], digits)}–{_figure(ends[1], digits)}"


def _main_of(found: Mapping[str, Any], main: str) -> str:
    """The main figure, in the image plane for those that have no other."""
    return main if main in found["metrics"] else main.replace("@", "_uv@")


def _ratios(report: Mapping[str, Any]) -> Sheet:
    protocol, main = report["protocol"], report["protocol"]["main"]
    unit = "s" if protocol["clock"] == "time" else "image widths"
    title = (
        f"{protocol['name']}: {report['windows']} windows of {report['clips']} clips, {report['keypoints']} "
        f"{protocol['keypoints']} points; {protocol['clock']} clock, step {protocol['step']:g} {unit}; "
        f"S={protocol['num_samples']}"
    )
    first = main.replace("topS", "top1")
    columns = ["model", "history", main, "95 %", "× still", "95 %", first, "× still", main.replace("@", "_m@")]
    rows = []
    for name, setting, found in _settings(report):
        key = _main_of(found, main)
        top1 = key.replace("topS", "top1")
        rows.append(
            [
                name if key == main else f"{name} (2D)",
                setting,
                _figure(found["metrics"][key], 4),
                _interval(found["metrics_interval95"][key]),
                _figure(found["ratio"][key]),
                _interval(found["interval95"][key]),
                _figure(found["metrics"][top1], 4),
                _figure(found["ratio"][top1]),
                _figure(found["metrics"].get(main.replace("@", "_m@")), 4),
            ]
        )
    return Sheet(title, columns, rows, left=2)


def _entrant(name: str, setting: str, found: Mapping[str, Any]) -> list[str]:
    given = found["given"]
    return [name, *(_GIVEN[given[key]] for key in ("depth", "history", "intrinsics"))]


def _seconds(found: Mapping[str, Any]) -> str:
    per_answer = found["usage"].get("seconds_per_answer")
    return f"{found['latency_s']['mean']:.3g}s" if per_answer is None else f"{per_answer:.3g}s †"


def _failures(found: Mapping[str, Any]) -> str:
    usage = found["usage"]
    return f"{usage['failed']}/{usage['answers']}" if "answers" in usage else "–"


def _table_1(report: Mapping[str, Any], entrants: list, suffix: str, title: str) -> Sheet:
    S, horizons = report["protocol"]["num_samples"], _horizons(report)
    columns = ["method", "d", "h", "K"]
    columns += [f"{w.replace('S', str(S))}\n{m.upper()}\n{h}" for m, w in _TABLE_1 for h in horizons]
    rows = [
        [
            *_entrant(name, setting, found),
            *(_figure(found["metrics"][f"{w}_{m}{suffix}@{h}"]) for m, w in _TABLE_1 for h in horizons),
            _seconds(found),
            _failures(found),
        ]
        for name, setting, found in entrants
    ]
    return Sheet(f"Table 1, {title}", [*columns, "time", "fail"], rows, left=4)


def _table_3(report: Mapping[str, Any], entrants: list, suffix: str, title: str) -> Sheet:
    S, horizons = report["protocol"]["num_samples"], _horizons(report)
    columns = ["method", "d", "h", "K"]
    columns += [f"{w.replace('S', str(S))}\nFD\n{h}" for w in ("top1", "topS") for h in horizons]
    rows = [
        [
            *_entrant(name, setting, found),
            *(_figure(found["metrics"][f"{w}_fd{suffix}@{h}"]) for w in ("top1", "topS") for h in horizons),
            _count(report["models"][name]["parameters"]),
        ]
        for name, setting, found in entrants
    ]
    return Sheet(f"Table 3, {title}", [*columns, "params"], rows, left=4)


def _count(parameters: int | None) -> str:
    if parameters is None:
        return "?"
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if parameters >= size:
            return f"{parameters / size:.3g}{unit}"
    return str(parameters)


def _noise(report: Mapping[str, Any]) -> Sheet:
    main, number = report["protocol"]["main"], report["protocol"]["noise_seeds"]
    rows = []
    for name, setting, found in _settings(report):
        for key in found["noise_seeds"]:
            over = found["noise_seeds"][key]
            rows.append([name, setting, key, _figure(over["mean"], 4), _interval(over["interval95"], 4)])
    return Sheet(f"{main} and top-1 over {number} noise seeds", ["model", "history", "figure", "mean", "95 %"], rows, 3)


def _released(report: Mapping[str, Any], horizon: int) -> Sheet:
    entrants = [(name, setting, found["released"][str(horizon)]) for name, setting, found in _settings(report)]
    columns = ["metric", *(f"{name}\n{setting}" for name, setting, _ in entrants)]
    rows = []
    for metric, value in entrants[0][2].items():
        whole = isinstance(value, int)
        rows.append([metric, *(str(f[metric]) if whole else _figure(f[metric], 4) for _, _, f in entrants)])
    return Sheet(f"metrics_{horizon}.json", columns, rows)


def _parts(report: Mapping[str, Any]) -> list[Sheet]:
    """The main ratio per group and task, a column per entrant (the reference is 1 everywhere and left out)."""
    main = report["protocol"]["main"]
    entrants = [row for row in _settings(report) if row[0] != next(iter(report["models"]))]
    if not entrants:
        return []
    columns = ["task", "points", *(f"{name}\n{setting}" for name, setting, _ in entrants)]
    rows = []
    for kind in ("by_group", "by_task"):
        for part, first in entrants[0][2][kind].items():
            cells = []
            for _, _, found in entrants:
                key, numbers = _main_of(found, main), found[kind][part]
                cells.append(f"{_figure(numbers[f'ratio_{key}'])} [{_interval(numbers[f'interval95_{key}'], 2)}]")
            rows.append([part, str(first["keypoints"]), *cells])
    return [Sheet(f"{main} × still [95 %]", columns, rows)]


def rich_table(sheet: Sheet) -> Table:
    """A sheet for a terminal."""
    table = Table(title=sheet.title, title_justify="left", box=SIMPLE_HEAD, padding=0)
    for number, column in enumerate(sheet.columns):
        table.add_column(column, justify="left" if number < sheet.left else "right", no_wrap=number > 0)
    for row in sheet.rows:
        table.add_row(*(cell.replace("[", r"\[") for cell in row))
    return table


def markdown_table(sheet: Sheet) -> str:
    """A sheet as Markdown."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in cells) + " |"

    rule = ["---" if number < sheet.left else "---:" for number in range(len(sheet.columns))]
    return "\n".join([f"**{sheet.title}**", "", line(sheet.columns), line(rule), *(line(row) for row in sheet.rows)])
