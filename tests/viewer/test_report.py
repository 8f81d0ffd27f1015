"""The report file: one file, no network, nothing of the data can break out of it."""

import html.parser
import json
import re

import numpy as np
import pytest
import viewer_scenes as made

from traceworld.errors import InvalidInputError
from traceworld.viewer import report as reports

pytest.importorskip("plotly", reason="the viewer extra is not installed")


class Page(html.parser.HTMLParser):
    """Collects tags with their attributes and the text of the data script; knows which tags are left open."""

    VOID = frozenset({"meta", "link", "img", "input", "br"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.data, self.words = [], [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        inside, attrs = self.open[-1] if self.open else ("", {})
        if attrs.get("id") == "report-data":
            self.data += data
        elif inside not in ("script", "style"):
            self.words.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = reports.write_report(tmp_path_factory.mktemp("r") / "new" / "report.html", made.report())
    return path, Page(path.read_text("utf-8"))


def test_it_is_one_file_that_asks_for_nothing_else(page):
    path, parsed = page
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    assert not parsed.open, "a tag is left open"
    for tag, attrs in parsed.tags:
        for name in ("src", "href", "srcset", "data", "poster"):
            if name in attrs:
                assert attrs[name].startswith("data:"), f"<{tag} {name}={attrs[name][:60]}>"
    assert not [t for t in parsed.tags if t[0] in ("iframe", "object", "embed", "base")]
    assert not re.search(
        r"@import|url\(", (reports.resources.files("traceworld.viewer") / "assets" / "report.css").read_text()
    )
    assert path.stat().st_size < 8e6


def test_it_shows_every_part(page):
    _, parsed = page
    words = " ".join(parsed.words)
    for part in (
        "Slide the box",
        "0.712",
        "made-up model",
        "Extraction",
        "how it went",
        "Traces on the picture",
        "1,234",
    ):
        assert part in words, part
    ids = {attrs.get("id") for _, attrs in parsed.tags}
    assert {"scene", "time", "play", "clock", "film", "forecast", "theme", "chart-0"} <= ids
    layers = {attrs["data-layer"] for _, attrs in parsed.tags if "data-layer" in attrs}
    assert layers == {"cloud", "moving", "still", "truth", "samples", "future"}


def test_its_data_is_json_with_the_scene_and_pictures(page):
    data = json.loads(page[1].data)
    assert data["scene"]["points"] == 14
    assert data["film"][1]["drawn"].startswith("data:image/jpeg;base64,/9j/")
    assert data["film"][1]["drawn"] != data["film"][1]["plain"]
    assert data["charts"][0]["series"]["b"] == [2.0, 3.0, None]


def test_text_cannot_break_out_of_the_page():
    wild = "</script><script>alert(1)</script> <b>&amp; {{js}} \u2028"
    data = reports.ReportData(
        title=wild, lead=wild, warnings=[wild], facts=[reports.Fact(wild, wild, wild)],
        tables=[reports.Table(wild, [wild], [[wild]], note=wild)],
        charts=[reports.Chart(wild, [0.0], {wild: [1.0]}, wild, wild, wild)],
        inputs=[reports.Picture(made.picture(), wild + '" onload="x')], provenance={wild: wild},
    )  # fmt: skip
    parsed = Page(reports.render_report(data))
    assert wild in "".join(parsed.words)
    assert not [1 for _, attrs in parsed.tags if "onload" in attrs]
    assert len([t for t in parsed.tags if t[0] == "script"]) == 4
    assert json.loads(parsed.data)["charts"][0]["series"] == {wild: [1.0]}


def test_a_report_without_plots_is_small_and_empty_parts_leave_nothing():
    text = reports.render_report(reports.ReportData(title="Only words", lead="Nothing was found."))
    assert len(text) < 60_000
    parsed = Page(text)
    assert {"h2", "table", "img", "section"}.isdisjoint(tag for tag, _ in parsed.tags)
    with pytest.raises(InvalidInputError, match="title"):
        reports.render_report(reports.ReportData(title=" "))


def test_the_layers_follow_what_is_known():
    data = made.report(truth=False, forecast=False)
    parsed = Page(reports.render_report(data))
    assert {attrs["data-layer"] for _, attrs in parsed.tags if "data-layer" in attrs} == {"cloud", "moving", "still"}


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (float("nan"), "–"), (True, "yes"), (1234, "1,234"), (np.float32(0.5), "0.500"), (12.34, "12.3"),
     (1234.5, "1234"), (np.int64(7), "7"), ("words", "words")],
)  # fmt: skip
def test_values_are_shown_as_a_reader_wants_them(value, text):
    assert reports.show(value) == text


def test_the_same_report_has_the_same_bytes():
    assert reports.render_report(made.report()) == reports.render_report(made.report())
