"""Embedded features: what they tell apart and what they do not."""

from __future__ import annotations

import numpy as np
import pytest

from traceworld.perception.features import EmbeddedFeatures
from traceworld.perception.interfaces import FeatureBackend


@pytest.mark.parametrize(("height", "width"), [(480, 640), (240, 320), (33, 47), (1, 1), (1080, 607)])
def test_grid_covers_any_image(height, width):
    backend = EmbeddedFeatures()
    image = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    features = backend.describe(image)
    columns, rows = backend.grid_size(width, height)
    assert features.shape == (rows, columns, 5)
    assert np.isfinite(features).all()
    assert isinstance(backend, FeatureBackend)


def test_colour_depth_and_texture_each_show():
    image = np.full((480, 640, 3), 120, np.uint8)
    depth = np.full((480, 640), 1.0, np.float32)
    image[:, 160:320] = (200, 60, 60)
    depth[:, 320:480] = 1.4
    image[:, 480:] = np.random.default_rng(0).integers(60, 180, (480, 160, 1), np.uint8)
    features = EmbeddedFeatures().describe(image, depth)
    plain, red, far, rough = (features[30, column] for column in (10, 30, 50, 70))
    for other in (red, far, rough):
        assert np.linalg.norm(other - plain) > 1.0
    assert np.linalg.norm(features[10, 10] - plain) < 1e-3


def test_missing_depth_is_not_nan():
    depth = np.full((48, 64), np.nan, np.float32)
    image = np.zeros((48, 64, 3), np.uint8)
    assert np.isfinite(EmbeddedFeatures().describe(image, depth)).all()
    depth[:, :32] = 2.0
    assert np.isfinite(EmbeddedFeatures().describe(image, depth)).all()
