"""Depth images on disk: formats, sentinels, units."""

import numpy as np
import pytest
from PIL import Image

from traceworld.errors import DepthError
from traceworld.perception.depth_files import (
    median_depth,
    read_depth_file,
    resize_nearest,
    settle_unit,
    to_metres,
    valid_fraction,
)


def test_formats_come_back_as_stored(tmp_path):
    stored = np.arange(12, dtype=np.uint16).reshape(3, 4) * 700
    Image.fromarray(stored).save(tmp_path / "a.png")
    Image.fromarray(stored).save(tmp_path / "b.tiff")
    Image.fromarray(stored.astype(np.float32) / 1000).save(tmp_path / "c.tiff")
    np.save(tmp_path / "d.npy", stored.astype(np.float32) / 1000)
    assert np.array_equal(read_depth_file(tmp_path / "a.png"), stored)
    assert np.array_equal(read_depth_file(tmp_path / "b.tiff"), stored)
    assert np.array_equal(read_depth_file(tmp_path / "c.tiff"), stored.astype(np.float32) / 1000)
    assert np.array_equal(read_depth_file(tmp_path / "d.npy"), stored.astype(np.float32) / 1000)


def test_arrays_that_would_run_code_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DepthError, match="cannot be read"):
        read_depth_file(tmp_path / "a.npy")


def test_missing_file(tmp_path):
    with pytest.raises(DepthError, match="cannot be read"):
        read_depth_file(tmp_path / "nothing.png")


def test_sentinels_become_nan():
    raw = np.array([[0, 65535, 1000, 1234]], np.uint16)
    np.testing.assert_allclose(to_metres(raw, 0.001), [[np.nan, np.nan, 1.0, 1.234]], rtol=1e-6)
    assert np.isnan(to_metres(raw, 0.001, invalid=1234.0)[0, 3])
    floats = np.array([[np.nan, np.inf, -1.0, 0.0, 65535.0, 2.0]], np.float32)
    np.testing.assert_array_equal(np.isnan(to_metres(floats, 1.0)), [[True, True, True, True, False, False]])


@pytest.mark.parametrize(
    ("values", "declared", "unit_m", "warns"),
    [
        (np.full((4, 4), 900, np.uint16), 0.001, 0.001, False),
        (np.full((4, 4), 900, np.uint16), None, 0.001, True),
        (np.full((4, 4), 900, np.uint16), 1.0, 0.001, True),
        (np.full((4, 4), 9000, np.uint16), 0.0001, 0.0001, False),
        (np.full((4, 4), 0.9, np.float32), 0.001, 1.0, True),
        (np.full((4, 4), 0.9, np.float32), None, 1.0, True),
    ],
)
def test_unit(values, declared, unit_m, warns):
    found, warning = settle_unit([values], declared, None, "clip")
    assert found == unit_m
    assert (warning is not None) == warns


@pytest.mark.parametrize("declared", [0.0, -1.0, float("nan")])
def test_a_unit_that_is_none(declared):
    with pytest.raises(DepthError, match="is no unit"):
        settle_unit([np.full((4, 4), 900, np.uint16)], declared, None, "clip")


def test_small_figures():
    depth_m = np.array([[1.0, np.nan], [3.0, 2.0]], np.float32)
    assert valid_fraction(depth_m) == 0.75
    assert median_depth([depth_m]) == 2.0
    assert np.isnan(median_depth([]))
    assert resize_nearest(depth_m, 2, 2) is depth_m
    bigger = resize_nearest(depth_m, 4, 4)
    assert bigger.shape == (4, 4)
    assert set(np.unique(bigger[np.isfinite(bigger)])) == {1.0, 2.0, 3.0}
