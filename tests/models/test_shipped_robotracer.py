"""The RoboTracer in the package: that it fits, what its card says, and that it still finds what it is asked to move."""

import json

import numpy as np
import pytest

pytest.importorskip("transformers")

from traceworld.evaluation.tracespatial.runner import run_bench
from traceworld.evaluation.tracespatial.scoring import score_file
from traceworld.models.predictor import WEIGHTS, load_predictor
from traceworld.tracespatial.answers import parse_trace
from traceworld.tracespatial.bench_layout import open_bench

NAME = "robotracer-nano"
FOLDER = WEIGHTS / NAME


@pytest.fixture(scope="module")
def predictor():
    return load_predictor(NAME)


@pytest.fixture(scope="module")
def rows():
    result = json.loads((FOLDER / "result.json").read_text())["result"]
    return {(row["model"], row["input"]): row for row in result}


def test_it_fits_the_package_and_was_made_elsewhere():
    files = [file for file in FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 25_000_000
    for file in files:
        if file.suffix in (".json", ".md"):
            text = file.read_text()
            assert not any(place in text for place in ("/tmp/", "/home/", "/root/"))


def test_the_card_says_what_was_measured(rows):
    card = (FOLDER / "README.md").read_text()
    own = rows[NAME, "RGB + K + depth"]
    assert card.startswith(f"# {NAME}\n")
    low, high = own["interval95"]["success"]
    assert f"{100 * own['success']:.1f} | {100 * low:.1f}–{100 * high:.1f}" in card


@pytest.mark.parametrize("given", ["nothing-moves", "straight-line"])
def test_it_beats_what_knows_where_the_thing_is(rows, given):
    assert rows[NAME, "RGB + K + depth"]["interval95"]["success"][0] > rows[given, "mask"]["interval95"]["success"][1]


def test_geometry_helps(rows):
    with_all, alone = rows[NAME, "RGB + K + depth"], rows[NAME, "RGB"]
    assert with_all["success"] > alone["success"]
    assert with_all["scale_error"] < alone["scale_error"]


def test_the_same_question_has_the_same_answer(predictor):
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    question = predictor.trace_prompts["3D"].replace("{task}", "Put the red mug on top of the blue box.")
    words = predictor.answer(image, question)
    assert parse_trace(words, 3).ok
    assert predictor.answer(image, question) == words


@pytest.mark.render
def test_it_finds_what_it_is_asked_to_move(predictor, tmp_path):
    pytest.importorskip("mujoco")
    from traceworld.tracespatial.bench_maker import make_bench
    from traceworld.tracespatial.sources import SimSource

    make_bench(SimSource(2000, varied=True), tmp_path / "bench", 12, seed=2000)
    bench = open_bench(tmp_path / "bench")
    file = run_bench(bench, predictor, tmp_path / "answers_3D.jsonl", "3D")
    found = score_file(file, bench, "3D", "text")[0]["questions"]
    assert np.median([question["start_distance_m"] for question in found]) < 0.2
