"""Assumed intrinsics."""

import math

import pytest

from traceworld.errors import ConfigError
from traceworld.perception.intrinsics import assumed_K


@pytest.mark.parametrize(("width", "height"), [(640, 480), (480, 640), (1000, 1000)])
def test_the_longer_side_spans_the_field_of_view(width, height):
    K = assumed_K(width, height, 60.0)
    longer = max(width, height)
    assert 2 * math.degrees(math.atan(longer / 2 / K[0, 0])) == pytest.approx(60)
    assert K[0, 0] == K[1, 1]
    assert (K[0, 2], K[1, 2]) == ((width - 1) / 2, (height - 1) / 2)


def test_wide_pixels_have_a_shorter_focal_length_in_pixels():
    K = assumed_K(720, 576, 60.0, pixel_aspect=64 / 45)
    assert K[1, 1] / K[0, 0] == pytest.approx(64 / 45)
    assert 2 * math.degrees(math.atan(720 / 2 / K[0, 0])) == pytest.approx(60)


@pytest.mark.parametrize("fov", [0.0, -10.0, 180.0])
def test_impossible_angles(fov):
    with pytest.raises(ConfigError):
        assumed_K(640, 480, fov)
