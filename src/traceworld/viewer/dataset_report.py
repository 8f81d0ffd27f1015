"""A page about a whole dataset: what was done, how good it is, and the clips to look at first (`traceworld report`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from traceworld.errors import MediaError, TraceworldError
from traceworld.traces.media import frames_with_pictures, read_frame
from traceworld.traces.quality import FIGURES, Figure, quality_table, quantiles
from traceworld.traces.store import Dataset
from traceworld.viewer.overlay import overlay_clip
from traceworld.viewer.report import Chart, Fact, Picture, ReportData, Table

WORST = 12
BINS = 24
THUMBNAIL_PX = 320
LOW_IS_BAD = ("visible_fraction", "valid_fraction", "alive_at_end", "moving_fraction")
HIGH_IS_BAD = ("jitter_px", "static_wander_px", "reprojection_px", "alignment_residual")

Quality = Mapping[str, Mapping[str, Figure]]


def dataset_report(dataset: Dataset, worst: int = WORST) -> ReportData:
    """The report of a dataset; write it with `viewer.report.write_report`.

    Args:
        worst: how many of the worst clips are shown with a picture.
    """
    table = quality_table(dataset)
    ranked = worst_clips(table)[:worst]
    return ReportData(
        title=f"Dataset {dataset.path.name}",
        lead=f"{len(table):,} clips in {dataset.path}",
        facts=_facts(dataset, table),
        warnings=_warnings(dataset, table),
        pictures_title="Clips to look at first",
        inputs=[_thumbnail(dataset, clip_id, why) for clip_id, why in ranked],
        charts=_histograms(table),
        tables=[_figure_table(table), *_ledger_tables(dataset)],
        provenance={"counts": dataset.counts, "statistics": dataset.statistics},
    )


def worst_clips(table: Quality) -> list[tuple[str, str]]:
    """Clips by how far their worst figure lies outside of the middle of the dataset, worst first, each with that figure.

    The distance is in quartile ranges of the dataset, so figures of any unit compare; clips within two of them are not listed.
    """
    found: dict[str, tuple[float, str]] = {}
    for figure in (*LOW_IS_BAD, *HIGH_IS_BAD):
        values = {name: float(row[figure]) for name, row in table.items() if isinstance(row[figure], (int, float))}  # type: ignore[arg-type]
        if len(values) < 4:
            continue
        low, middle, high = np.quantile(list(values.values()), [0.25, 0.5, 0.75])
        width = max(float(high - low), 1e-3)
        for name, value in values.items():
            far = float(middle - value if figure in LOW_IS_BAD else value - middle) / width
            if far > max(2.0, found.get(name, (0.0, ""))[0]):
                found[name] = (far, f"{figure} {value:.3g} (median {middle:.3g})")
    return [(name, why) for name, (_, why) in sorted(found.items(), key=lambda item: (-item[1][0], item[0]))]


def _facts(dataset: Dataset, table: Quality) -> list[Fact]:
    status = Counter(row["status"] for row in dataset.manifest)
    frames = sum(float(row["frames"] or 0) for row in table.values())  # type: ignore[arg-type]
    facts = [
        Fact("Inputs", f"{status['ok']:,} ok", f"{status['skipped']:,} skipped, {status['failed']:,} failed"),
        Fact("Clips", f"{len(table):,}", f"{frames:,.0f} frames"),
    ]
    for figure in ("moving_fraction", "visible_fraction", "jitter_px"):
        if found := quantiles(table, figure):
            facts.append(Fact(figure, f"{found['median']:.3g}", f"median; {FIGURES[figure]}"))
    return facts


def _warnings(dataset: Dataset, table: Quality) -> list[str]:
    said = []
    if failed := [row for row in dataset.manifest if row["status"] == "failed"]:
        said.append(f"{len(failed)} inputs failed: see `traceworld jobs status {dataset.path}`.")
    fallback = sum("fallback" in str(row["captions"]) for row in table.values())
    if fallback:
        said.append(f"{fallback} clips have captions of the fallback.")
    if special := Counter(row["status"] for row in table.values() if row["status"] not in ("ok", None)):
        said.append(
            "Clips with a special status: " + ", ".join(f"{n} {name}" for name, n in special.most_common()) + "."
        )
    return said


def _histograms(table: Quality) -> list[Chart]:
    charts = []
    for figure in (*LOW_IS_BAD, *HIGH_IS_BAD):
        values = [float(row[figure]) for row in table.values() if isinstance(row[figure], (int, float))]  # type: ignore[arg-type]
        if not values:
            continue
        counts, edges = np.histogram(values, BINS)
        middles = ((edges[:-1] + edges[1:]) / 2).round(6).tolist()
        charts.append(
            Chart(figure, middles, {"clips": counts.astype(float).tolist()}, FIGURES[figure], "clips", kind="bars")
        )
    return charts


def _figure_table(table: Quality) -> Table:
    columns = ("min", "p5", "median", "p95", "max", "clips")
    rows: list[list[Any]] = []
    for figure in FIGURES:
        if found := quantiles(table, figure):
            rows.append([figure, *(found[column] for column in columns)])
    note = "Train on a part: `traceworld train DATASET --out RUN --keep 'visible_fraction>=0.5'`"
    return Table("Quality figures", ["figure", *columns], rows, note)


def _ledger_tables(dataset: Dataset) -> list[Table]:
    failed = [row for row in dataset.manifest if row["status"] == "failed"]
    by_stage = Counter(row["stage"] for row in failed)
    tables = []
    if failed:
        rows = [
            [stage, number, next(row["error"] for row in failed if row["stage"] == stage)]
            for stage, number in by_stage.most_common()
        ]
        tables.append(Table("Failed inputs", ["stage", "inputs", "one of the errors"], rows, kind="text", wide=True))
    return tables


def _thumbnail(dataset: Dataset, clip_id: str, why: str) -> Picture:
    clip = dataset.clip(clip_id)
    frames = frames_with_pictures(clip)
    try:
        if not frames:
            raise MediaError("has no pictures", where=clip_id)
        frame = frames[len(frames) // 2]
        image = overlay_clip(read_frame(clip, frame), clip, frame, width=THUMBNAIL_PX)
    except TraceworldError as error:  # a report about what is broken must not break on it
        image = np.full((THUMBNAIL_PX * 3 // 4, THUMBNAIL_PX, 3), 200, np.uint8)
        why += f"; no picture: {error}"
    return Picture(image, f"{clip_id}: {why}")


def default_path(dataset: str | Path) -> Path:
    """Where the report of a dataset goes if nobody says: beside it."""
    folder = Path(dataset)
    return folder.parent / f"{folder.name}-report.html"
