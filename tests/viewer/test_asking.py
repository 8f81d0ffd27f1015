"""A model's words about one picture: what it is asked and given, what is read, drawn and refused."""

import json

import cv2
import numpy as np
import pytest
from robotracer_toys import make

from traceworld.cli import main
from traceworld.errors import ConfigError, DepthError, InvalidInputError, MediaError
from traceworld.models.robotracer.checkpoint import save_robotracer
from traceworld.models.words import PUBLISHED
from traceworld.viewer import asking
from traceworld.viewer.asking import ask_about_picture, drawn

WIDTH, HEIGHT = 160, 120
INTRINSICS = (100.0, 100.0, 80.0, 60.0)
TRACE = "[(500, 500, 2.000), (250, 750, 1.000)]"


class Speaker:
    name = "speaker"
    trace_prompts = {"3D": "3D trace: {task}"}  # noqa: RUF012

    def __init__(self, words=TRACE):
        self.words, self.asked = words, []

    def answer(self, image, question, *, K=None, depth_m=None):
        self.asked.append((image, question, K, depth_m))
        return self.words


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "scene.png"
    cv2.imwrite(str(path), np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    return path


@pytest.fixture
def speaks(monkeypatch):
    def with_words(words=TRACE):
        speaker = Speaker(words)
        monkeypatch.setattr(asking, "load_predictor", lambda name: speaker)
        return speaker

    return with_words


def test_a_trace_is_read_in_pixels_and_metres(picture, speaks):
    speaker = speaks()
    result = ask_about_picture(picture, "Lift the cup", intrinsics=INTRINSICS)
    image, question, K, depth_m = speaker.asked[0]
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert question == result["question"] == "3D trace: Lift the cup."
    assert depth_m is None
    assert result["points_px"] == [[80, 60], [40, 90]]
    assert result["depth_m"] == [2, 1]
    by_hand = [[0, 0, 2], [(40 - 80) / 100, (90 - 60) / 100, 1]]
    np.testing.assert_allclose(result["xyz_cam"], by_hand, atol=1e-4)
    np.testing.assert_allclose(K, [[100, 0, 80], [0, 100, 60], [0, 0, 1]])
    assert result["failure"] is None
    assert result["given"] == {"intrinsics": True, "depth": False}
    json.dumps(result, allow_nan=False)


def test_without_intrinsics_there_are_no_points_in_space(picture, speaks):
    speaks()
    result = ask_about_picture(picture, "Lift the cup")
    assert result["xyz_cam"] is None
    assert result["depth_m"] == [2, 1]


@pytest.mark.parametrize(
    ("form", "question"), [("2D", PUBLISHED["2D"].replace("{task}", "Lift it")), ("raw", "Lift it")]
)
def test_other_forms_and_models_that_name_no_words(picture, speaks, form, question):
    speaker = speaks("[(500, 500)]")
    result = ask_about_picture(picture, "Lift it", form=form, intrinsics=INTRINSICS)
    assert speaker.asked[0][1] == question
    assert result["points_px"] == [[80, 60]]
    assert result["depth_m"] is None
    assert result["xyz_cam"] is None


def test_what_cannot_be_read_is_said(picture, speaks, tmp_path):
    speaks("I would lift it.")
    result = ask_about_picture(picture, "Lift the cup", out=tmp_path / "drawn.png")
    assert result["failure"].startswith("no_points: ")
    assert result["points_px"] == []
    assert cv2.imread(str(tmp_path / "drawn.png")).std() == 0  # nothing is drawn


def test_words_without_a_point_are_shown_as_they_are(picture, speaks, capsys):
    speaks("[/bold] three mugs")
    assert main(["ask", str(picture), "How many?", "--form", "raw"]) == 0
    assert "[/bold] three mugs" in capsys.readouterr().out


def test_depth_beside_the_picture_is_given_in_metres(picture, speaks, tmp_path):
    speaker = speaks()
    depth_mm = np.full((HEIGHT, WIDTH), 1500, np.uint16)
    depth_mm[0] = 0
    cv2.imwrite(str(tmp_path / "depth.png"), depth_mm)
    assert ask_about_picture(picture, "Lift", depth=tmp_path / "depth.png")["given"]["depth"]
    depth_m = speaker.asked[0][3]
    assert np.isnan(depth_m[0]).all()
    np.testing.assert_allclose(depth_m[1:], 1.5)


def test_the_trace_is_drawn_where_it_was_said():
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    px = np.array([[20.0, 60.0], [140.0, 60.0]])
    canvas = drawn(image, px)
    assert canvas.shape == (480, 640, 3)
    lit = canvas.any(-1)
    assert lit[240, 90:550].all()  # the way between, at four times the size
    assert canvas[241, 81].min() > 200  # its start is white
    assert not lit[:200].any()
    assert not lit[280:].any()
    assert not drawn(image, np.zeros((0, 2))).any()


def test_what_cannot_be_asked_is_refused(picture, speaks, tmp_path):
    with pytest.raises(ConfigError, match="traceworld predict"):
        ask_about_picture(picture, "Lift", model="nothing-moves")
    speaks()
    with pytest.raises(InvalidInputError, match="is empty"):
        ask_about_picture(picture, " ")
    with pytest.raises(InvalidInputError, match="intrinsics"):
        ask_about_picture(picture, "Lift", intrinsics=(0.0, 1.0, 1.0, 1.0))
    with pytest.raises(MediaError, match="does not exist"):
        ask_about_picture(tmp_path / "absent.png", "Lift")
    with pytest.raises(DepthError):
        ask_about_picture(picture, "Lift", depth=picture)


def test_the_command_asks_a_checkpoint(picture, tmp_path, capsys):
    folder = save_robotracer(tmp_path / "model", *make("internvl"), {})
    arguments = ["ask", str(picture), "Lift the cup", "--model", str(folder), "--out", str(tmp_path / "drawn.png")]
    assert main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert '"Lift the cup"' in result["question"]
    assert isinstance(result["words"], str)
    assert (result["failure"] is None) == bool(result["points_px"])
    assert cv2.imread(result["picture"]).shape == (480, 640, 3)
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "given beside the picture nothing" in shown
    assert "failure" in shown or " px" in shown
