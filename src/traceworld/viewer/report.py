"""One self-contained HTML file about a clip, its traces and what was predicted: opens from disk, needs no network.

Plotly's own script is written into the page, pictures are embedded as JPEG, and the 3D scene is packed
(`viewer/scene.py`). The page's looks are `assets/report.html`, `report.css`, `report.js`.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import UInt8

from traceworld import __version__
from traceworld.errors import InvalidInputError
from traceworld.extras import require
from traceworld.traces.atomic import write_atomically
from traceworld.traces.types import Clip
from traceworld.viewer.overlay import overlay_clip, resize_to_width


@dataclass(frozen=True)
class Fact:
    """One headline figure."""

    label: str
    value: str
    note: str = ""
    tone: Literal["plain", "good"] = "plain"


@dataclass(frozen=True)
class Table:
    """A table; `rows` hold what is shown (numbers are formatted). `strong` names rows (by index) to stress.

    `kind`: `numbers` aligns right, `text` aligns left and wraps.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    strong: Sequence[int] = ()
    kind: Literal["numbers", "text"] = "numbers"
    wide: bool = False


@dataclass(frozen=True)
class Chart:
    """Lines over one axis (`None` or NaN breaks a line), or bars: a histogram, say."""

    title: str
    x: Sequence[float]
    series: Mapping[str, Sequence[float | None]]
    x_label: str
    y_label: str
    note: str = ""
    kind: Literal["lines", "bars"] = "lines"


@dataclass(frozen=True, eq=False)
class Picture:
    """An embedded picture with its caption."""

    image: UInt8[np.ndarray, "H W 3"]
    caption: str


@dataclass(frozen=True, eq=False)
class FilmFrame:
    """One picture of the film beside the 3D view: as recorded, and with the traces drawn on it."""

    frame: int
    plain: UInt8[np.ndarray, "H W 3"]
    drawn: UInt8[np.ndarray, "H W 3"]


@dataclass(frozen=True, eq=False)
class ReportData:
    """Everything a report shows. Parts that are empty leave no trace in the page.

    Attributes:
        title, lead: the heading and the sentence below it.
        facts: headline figures.
        warnings: what the reader must know before believing the figures.
        scene: the 3D view (`viewer.scene.build_scene`).
        film: pictures that follow the slider.
        inputs: the input frames. pictures_title: the heading above them.
        overlays: pictures with traces drawn on them, shown large.
        charts, tables: the numbers.
        provenance: how it was made; shown as JSON in a fold.
    """

    title: str
    lead: str = ""
    facts: Sequence[Fact] = ()
    warnings: Sequence[str] = ()
    scene: Mapping[str, Any] | None = None
    film: Sequence[FilmFrame] = ()
    inputs: Sequence[Picture] = ()
    pictures_title: str = "Input"
    overlays: Sequence[Picture] = ()
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)


def write_report(path: Path, report: ReportData) -> Path:
    """Write the report as one HTML file, atomically.

    Raises:
        MissingExtraError: plotly is not installed.
        InvalidInputError: the report has no title.
    """
    path = Path(path)
    text = render_report(report)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def render_report(report: ReportData) -> str:
    """The report as a string of HTML."""
    if not report.title.strip():
        raise InvalidInputError("is empty", where="ReportData.title")
    film = [{"frame": f.frame, "plain": _jpeg(f.plain, 72), "drawn": _jpeg(f.drawn, 76)} for f in report.film]
    data = {
        "scene": report.scene,
        "film": film,
        "charts": [
            {"x": list(c.x), "series": {k: _plain(v) for k, v in c.series.items()}, "x_label": c.x_label, "y_label": c.y_label, "kind": c.kind}
            for c in report.charts
        ],
    }  # fmt: skip
    has_plots = report.scene is not None or bool(report.charts)
    parts = {
        "version": __version__,
        "title": html.escape(report.title),
        "lead": html.escape(report.lead),
        "css": _asset("report.css"),
        "body": _body(report, film),
        "footer": f"Written by traceworld {html.escape(__version__)}. One file, no network needed.",
        # "<" must not appear inside a script element: it could end it
        "data": json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"),
        "plotly": require("plotly.offline").get_plotlyjs() if has_plots else "",
        "js": _asset("report.js"),
    }
    # The template is cut once, so that text which looks like a slot inside a part stays text.
    pieces = _asset("report.html").split("{{")
    page = [pieces[0]]
    for piece in pieces[1:]:
        name, rest = piece.split("}}", 1)
        page += [parts[name], rest]
    return "".join(page)


def film_of(
    clip: Clip,
    pictures: Mapping[int, UInt8[np.ndarray, "Himg Wimg 3"]],
    *,
    width: int = 480,
) -> list[FilmFrame]:
    """The film of a clip from some of its pictures (frame → picture), with the traces drawn on each."""
    return [
        FilmFrame(frame, resize_to_width(image, width), overlay_clip(image, clip, frame, width=width))
        for frame, image in sorted(pictures.items())
    ]


def _body(report: ReportData, film: Sequence[Mapping[str, Any]]) -> str:
    parts: list[str] = []
    if report.warnings:
        items = "".join(f"<li>{html.escape(w)}</li>" for w in report.warnings)
        parts.append(f'<ul class="warnings" aria-label="Warnings">{items}</ul>')
    if report.facts:
        parts.append(f'<section class="facts">{"".join(map(_fact, report.facts))}</section>')
    if report.scene is not None:
        parts.append(_stage(report.scene, film))
    if report.overlays:
        parts.append("<h2>Traces on the picture</h2>" + _pictures(report.overlays, "wide"))
    if report.inputs:
        parts.append(f"<h2>{html.escape(report.pictures_title)}</h2>" + _pictures(report.inputs, ""))
    if report.charts or report.tables:
        parts.append("<h2>The numbers</h2>")
    if report.charts:
        charts = "".join(
            f'<div class="card chart"><h3>{html.escape(c.title)}</h3><div class="plot" id="chart-{i}"></div>'
            f'<p class="note">{html.escape(c.note)}</p></div>'
            for i, c in enumerate(report.charts)
        )
        parts.append(f'<div class="charts">{charts}</div>')
    if report.tables:
        style = ' style="margin-top:14px"' if report.charts else ""
        parts.append(f'<div class="tables"{style}>{"".join(map(_table, report.tables))}</div>')
    if report.provenance:
        text = html.escape(json.dumps(report.provenance, indent=2, ensure_ascii=False, default=str))
        parts.append(f'<details class="card"><summary>How this was made</summary><pre>{text}</pre></details>')
    return "\n".join(parts)


def _fact(fact: Fact) -> str:
    return (
        f'<div class="card fact {fact.tone}"><div class="label">{html.escape(fact.label)}</div>'
        f'<div class="value">{html.escape(fact.value)}</div><div class="note">{html.escape(fact.note)}</div></div>'
    )


def _stage(scene: Mapping[str, Any], film: Sequence[Mapping[str, Any]]) -> str:
    """The 3D view, the film beside it, the layers and the transport below."""
    forecasts = scene["forecasts"]
    layers = [
        ("cloud", scene["cloud_name"], "linear-gradient(90deg,#c9a27a,#7d93a8)", "dots", True, bool(scene["cloud"])),
        ("moving", "Extracted traces, moving (hollow: hidden)", "linear-gradient(90deg,#3b0f8f,#e8604c,#f0e442)", "", True, True),
        ("still", "Extracted points at rest", "#9aa4b2", "dots", False, True),
        ("truth", "Exact traces (simulator)", "#14a6d6", "", True, bool(scene["truth"])),
        ("samples", "Predicted futures (one colour per sample)", "linear-gradient(90deg,#ff7a28,#fa545c,#ec60aa)", "", True, bool(forecasts)),
        ("future", "What happened after that frame", "#12b874", "", True, any(f["future"] for f in forecasts)),
    ]  # fmt: skip
    boxes = "".join(
        f'<label><input type="checkbox" data-layer="{key}"{" checked" if on else ""}>'
        f'<span class="swatch {shape}" style="background:{colour}"></span>{text}</label>'
        for key, text, colour, shape, on, there in layers
        if there
    )
    choice = ""
    if forecasts:
        options = "".join(f'<option value="{i}">{html.escape(f["name"])}</option>' for i, f in enumerate(forecasts))
        choice = f'<label class="futures">Prediction <select id="forecast">{options}</select></label>'
    picture = ""
    if film:
        picture = (
            f'<figure><img id="film" alt="Picture of the clip with its traces" src="{film[0]["drawn"]}">'
            '<figcaption><span id="film-caption"></span> · '
            '<label><input type="checkbox" id="film-raw"> without traces</label></figcaption></figure>'
        )
    eyes = "".join(
        f'<button type="button" data-eye="{key}">{text}</button>'
        for key, text in (("oblique", "Oblique"), ("front", "Camera"), ("side", "Side"), ("above", "Above"))
    )
    return (
        '<section class="card stage" aria-label="3D view"><div class="views">'
        f'<div class="space"><div id="scene"></div><div class="cameras">{eyes}</div>'
        '<div class="hint">Drag to orbit · right-drag to pan · wheel to zoom</div></div>'
        f'<aside>{picture}<div class="layers">{boxes}</div>{choice}</aside></div>'
        '<div class="transport"><button id="play" type="button">▶ Play</button>'
        '<input id="time" type="range" min="0" max="0" value="0" step="1" aria-label="Time">'
        '<output id="clock" for="time"></output></div></section>'
    )


def _pictures(pictures: Sequence[Picture], style: str) -> str:
    figures = "".join(
        f'<figure class="card"><img loading="lazy" alt="{html.escape(p.caption)}" src="{_jpeg(p.image, 86)}">'
        f"<figcaption>{html.escape(p.caption)}</figcaption></figure>"
        for p in pictures
    )
    return f'<div class="pictures {style}">{figures}</div>'


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(str(c))}</th>" for c in table.columns)
    strong = ' class="strong"'
    rows = "".join(
        f"<tr{strong if i in table.strong else ''}>"
        + "".join(f"<td>{html.escape(show(v))}</td>" for v in row)
        + "</tr>"
        for i, row in enumerate(table.rows)
    )
    style = " ".join(["card", "table", table.kind] + (["wide"] if table.wide else []))
    note = f'<p class="note" style="margin-top:8px">{html.escape(table.note)}</p>' if table.note else ""
    return (
        f'<div class="{style}"><h3>{html.escape(table.title)}</h3><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table>{note}</div>"
    )


def show(value: Any) -> str:
    """A value as a reader wants it: three significant digits, – for nothing."""
    if value is None or (isinstance(value, float | np.floating) and not np.isfinite(value)):
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{int(value):,}"
    if isinstance(value, float | np.floating):
        size = abs(float(value))
        return f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.3f}"
    return str(value)


def _plain(values: Sequence[float | None]) -> list[float | None]:
    return [None if v is None or not np.isfinite(v) else round(float(v), 6) for v in values]


def _jpeg(image: UInt8[np.ndarray, "H W 3"], quality: int) -> str:
    ok, data = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise InvalidInputError("cannot be written as JPEG", where="report picture")
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def _asset(name: str) -> str:
    return (resources.files("traceworld.viewer") / "assets" / name).read_text(encoding="utf-8")
