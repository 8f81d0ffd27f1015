import json

import cv2
import numpy as np
import pytest

from traceworld.errors import InvalidInputError, MediaError
from traceworld.viewer.prediction import predict_picture


@pytest.fixture
def picture(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "scene.png"
    cv2.imwrite(str(path), cv2.resize(rng.integers(0, 255, (12, 16, 3), np.uint8), (160, 120)))
    return path


def predict(path, **options):
    return predict_picture(path, "open the drawer", model="nothing-moves", **options)


def test_points_are_chosen_spread_and_inside(picture):
    result = predict(picture, num_points=20)
    points = np.array(result["points_px"])
    assert points.shape == (20, 2)
    assert (points >= 0).all()
    assert (points < (160, 120)).all()
    gaps = np.linalg.norm(points[:, None] - points[None], axis=-1) + np.eye(20) * 1e9
    assert gaps.min() > 5
    json.dumps(result, allow_nan=False)


def test_given_points_are_asked_about(picture, tmp_path):
    result = predict(picture, points_px=((79.5, 59.5),), num_samples=2, out=tmp_path / "drawn.png")
    uvz = np.array(result["uvz"])
    assert uvz.shape[:2] == (2, 1)
    np.testing.assert_allclose(uvz[..., :2], 0.0, atol=1e-6)  # the picture's middle, and nothing moves
    assert cv2.imread(str(tmp_path / "drawn.png")) is not None


@pytest.mark.parametrize("point", [(160.0, 5.0), (-1.0, 5.0), (5.0, 120.0)])
def test_a_point_outside_is_refused(picture, point):
    with pytest.raises(InvalidInputError, match="160×120"):
        predict(picture, points_px=(point,))


def test_a_plain_picture_has_no_points(tmp_path):
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((60, 80, 3), np.uint8))
    with pytest.raises(InvalidInputError, match="no corner"):
        predict(tmp_path / "black.png")


def test_missing_and_broken_pictures(tmp_path):
    with pytest.raises(MediaError, match="does not exist"):
        predict(tmp_path / "absent.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(MediaError, match="not a readable picture"):
        predict(tmp_path / "broken.png")


def test_an_empty_instruction_is_refused(picture):
    with pytest.raises(InvalidInputError, match="empty"):
        predict_picture(picture, "  ", model="nothing-moves")
