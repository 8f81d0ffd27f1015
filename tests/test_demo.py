"""The demo on a tiny made-up RGB-D folder (a textured card slides over a table) with a baseline as the model."""

import io
import json
import shutil

import cv2
import numpy as np
import pytest
from rich.console import Console

from traceworld import demo
from traceworld.errors import ConfigError, InvalidInputError, MediaError
from traceworld.traces.store import open_dataset

pytest.importorskip("plotly", reason="the viewer extra is not installed")

WIDTH, HEIGHT, FRAMES = 240, 180, 40
QUIET = Console(quiet=True)


def write_card(folder, task="slide the card", depth=True):
    """A card at 1 m in front of a wall at 1.5 m; it slides 60 px to the right within a second and a half."""
    rng = np.random.default_rng(0)
    wall = cv2.GaussianBlur(rng.integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8), (0, 0), 2) // 2 + 60
    card = cv2.GaussianBlur(rng.integers(0, 255, (70, 70, 3)).astype(np.uint8), (0, 0), 1.5)
    (folder / "color").mkdir(parents=True)
    (folder / "depth").mkdir()
    for t in range(FRAMES):
        image, depth_mm = wall.copy(), np.full((HEIGHT, WIDTH), 1500, np.uint16)
        x = 40 + round(60 * t / (FRAMES - 1) * 1.5)
        image[60:130, x : x + 70] = card
        depth_mm[60:130, x : x + 70] = 1000
        cv2.imwrite(str(folder / "color" / f"{t:04d}.png"), image)
        cv2.imwrite(str(folder / "depth" / f"{t:04d}.png"), depth_mm)
    K = [[200.0, 0, (WIDTH - 1) / 2], [0, 200.0, (HEIGHT - 1) / 2], [0, 0, 1]]
    about = {
        "task": task, "width": WIDTH, "height": HEIGHT, "color_K": K, "depth_K": K, "depth_unit_m": 0.001,
        "depth_registered": True, "timestamps_s": (np.arange(FRAMES) * 0.04).tolist(),
    }  # fmt: skip
    (folder / "clip.json").write_text(json.dumps(about))
    if not depth:
        (folder / "clip.json").unlink()
        shutil.rmtree(folder / "depth")
    return folder


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    return write_card(tmp_path_factory.mktemp("card") / "card")


@pytest.fixture(scope="module")
def first(card, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "demo"
    return demo.run_demo(card, out, model="constant-velocity", samples=2, console=QUIET), out


def test_it_writes_report_figures_and_picture(first):
    result, out = first
    assert {p.name for p in out.iterdir()} == {"report.html", "report.json", "overlay.png", "clips"}
    assert json.loads((out / "report.json").read_text()) == result
    assert json.dumps(result, allow_nan=False)
    assert (out / "report.html").stat().st_size < 8e6
    still = cv2.imread(str(out / "overlay.png"))
    assert still.shape[1] == 2 * 720 + 8
    assert open_dataset(out / "clips").clip_ids == [result["clip"]["clip_id"]]


def test_its_figures_are_sound(first):
    result, _ = first
    assert result["tracks"] is None
    assert result["instruction"] == {"text": "slide the card", "from": "the input"}
    assert result["clip"]["frames"] == FRAMES
    assert result["clip"]["moving_points"] >= 5
    assert [f["frame"] for f in result["forecasts"]] == [0, 20]
    start, later = result["forecasts"]
    assert not start["history"]
    assert later["history"]
    assert set(later["scores"]) == {"constant-velocity", "nothing-moves"}
    # the card slides evenly: with history constant velocity is nearly right, without it is "nothing moves"
    moving, resting = (later["scores"][name]["topS_ade@16"] for name in ("constant-velocity", "nothing-moves"))
    assert moving < 0.35 * resting
    assert start["scores"]["constant-velocity"] == start["scores"]["nothing-moves"]
    # 16 steps of 25 ms are 0.4 s: the card slides 60 * 1.5 / 1.56 px/s at 1 m and f = 200, on average half of that
    assert resting == pytest.approx(60 * 1.5 / 1.56 * 0.4 / 2 * 17 / 16 / (WIDTH / 2), rel=0.3)
    assert later["scores"]["nothing-moves"]["topS_ade_cm@16"] == pytest.approx(resting * WIDTH / 2 / 200 * 100, rel=0.2)
    assert set(result["timings_s"]) == {"model", "record", "extract", "pictures", "predict", "report", "total"}
    assert result["versions"]["traceworld"] == result["traceworld"]


def test_a_second_run_reuses_the_extraction_and_gives_the_same_figures(first, card):
    result, out = first
    again = demo.run_demo(card, out, model="constant-velocity", samples=2, console=QUIET)
    assert not result["reused"]["extraction"]
    assert again["reused"]["extraction"]
    assert again["forecasts"] == result["forecasts"]
    assert again["clip"] == result["clip"]


def test_plain_pictures_are_stated_to_be_without_scale_and_words(tmp_path):
    folder = write_card(tmp_path / "card", depth=False) / "color"
    result = demo.run_demo(folder, tmp_path / "out", model="nothing-moves", samples=1, console=QUIET)
    assert result["clip"]["metric"] is False
    assert result["instruction"]["text"] == demo.DEFAULT_INSTRUCTION
    assert any("metric: false" in warning for warning in result["warnings"])
    assert any(demo.DEFAULT_INSTRUCTION in warning for warning in result["warnings"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "flat (no depth)" in page
    text = render(demo.summary_table(result))
    assert "metric: false" in text
    assert " cm" not in text


def test_words_given_win_and_empty_ones_are_refused(first):
    clip = open_dataset(first[0]["paths"]["clips"])[0]
    assert demo._instruction(clip, "push it") == ("push it", "given")
    with pytest.raises(InvalidInputError, match="instruction"):
        demo._instruction(clip, "  ")


def test_bad_input_is_named_and_leaves_no_report(tmp_path, card):
    with pytest.raises(MediaError, match=r"nowhere\.mp4"):
        demo.run_demo(tmp_path / "nowhere.mp4", tmp_path / "out", model="nothing-moves", console=QUIET)
    assert not (tmp_path / "out" / "report.html").exists()
    with pytest.raises(ConfigError, match="samples"):
        demo.run_demo(card, tmp_path / "out", model="nothing-moves", samples=0, console=QUIET)


def test_a_film_where_nothing_happens_still_gives_a_report(tmp_path):
    folder = tmp_path / "still"
    folder.mkdir()
    image = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 255, (120, 160, 3)).astype(np.uint8), (0, 0), 2)
    for t in range(12):
        cv2.imwrite(str(folder / f"{t:03d}.png"), image)
    result = demo.run_demo(folder, tmp_path / "out", model="nothing-moves", samples=1, console=QUIET)
    assert (tmp_path / "out" / "report.html").exists()
    assert result["clip"]["moving_points"] == 0
    assert any("moves" in warning or "followed" in warning for warning in result["warnings"])
    assert render(demo.summary_table(result))


def test_the_summary_names_every_predictor(first):
    text = render(demo.summary_table(first[0]))
    for words in ("slide the card", "constant-velocity", "nothing-moves", "with history", "report.html"):
        assert words in text


@pytest.mark.render
def test_exact_traces_score_themselves_perfectly_and_wrong_ones_do_not(tmp_path):
    record = pytest.importorskip("traceworld.sim.record")
    from traceworld.errors import MissingExtraError, RenderingError
    from traceworld.sim.truth import exact_traces, read_truth
    from traceworld.traces.types import Clip, Traces

    try:
        folder = record.record_episode("drawer-open-v3", 7, tmp_path, size=(160, 120), frame_stride=8)
    except (MissingExtraError, RenderingError) as error:
        pytest.skip(str(error))
    film = read_truth(folder)
    grid = np.stack(np.meshgrid(np.arange(10.0, 150, 12), np.arange(10.0, 110, 12)), -1).reshape(-1, 2)
    truth = exact_traces(folder, np.zeros(len(grid), int), grid)
    truth = truth.select(truth.valid.all(0))
    clip = Clip("exact", np.arange(film.num_frames) * 0.1, film.cameras, truth)
    again, scores = demo.compare_with_truth(clip, folder)
    assert scores["all"]["aj"] > 0.99
    assert scores["all"]["oa"] > 0.99
    np.testing.assert_allclose(again.xyz_world, truth.xyz_world, atol=5e-3)
    shifted = Traces(
        truth.xyz_world + np.float32(0.3) * (np.arange(film.num_frames) > 0)[:, None, None].astype(np.float32),
        truth.visible, truth.valid, truth.part_id, truth.moving, truth.query_frame,
    )  # fmt: skip
    _, wrong = demo.compare_with_truth(Clip("wrong", clip.time_s, film.cameras, shifted), folder)
    assert wrong["all"]["aj"] < 0.3
    empty = Clip("none", clip.time_s, film.cameras, Traces.empty(film.num_frames))
    assert demo.compare_with_truth(empty, folder)[1] == {"all": None, "moving": None}


@pytest.mark.render
@pytest.mark.slow
def test_the_whole_demo_on_a_simulated_episode(tmp_path):
    pytest.importorskip("metaworld", reason="the sim extra is not installed")
    result = demo.run_demo(None, tmp_path, model="constant-velocity", console=QUIET)
    assert result["tracks"]["all"]["aj"] > 0.5
    assert len(result["forecasts"]) == 2
    again = demo.run_demo(None, tmp_path, model="constant-velocity", console=QUIET)
    assert again["reused"] == {"recording": True, "extraction": True}
    assert again["tracks"] == result["tracks"]


def render(table):
    stream = io.StringIO()
    Console(file=stream, width=140).print(table)
    return stream.getvalue()
