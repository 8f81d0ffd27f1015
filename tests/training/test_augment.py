"""Jitter and depth noise: what they keep, how large they are."""

import colorsys

import numpy as np
import pytest

from traceworld.training.augment import _turn_hue, colour_jitter, depth_noise


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)


def test_jitter_is_seeded_and_changes_the_picture(image):
    first, again, other = (colour_jitter(image, 0.3, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert colour_jitter(image, 0.0, np.random.default_rng(1)) is image


def test_black_stays_black_and_grey_stays_grey():
    black = np.zeros((8, 8, 3), np.uint8)
    grey = np.full((8, 8, 3), 100, np.uint8)
    for seed in range(20):
        assert colour_jitter(black, 0.3, np.random.default_rng(seed)).max() == 0
        out = colour_jitter(grey, 0.3, np.random.default_rng(seed)).astype(int)
        assert np.ptp(out) <= 1  # no hue or saturation to change; contrast of a flat picture is nothing
        assert 70 <= out.mean() <= 130  # brightness by a factor in [0.7, 1.3]


def test_jitter_equals_its_formula(image):
    """Step by step on copies, in the order that is drawn."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        factor, turn = rng.uniform(0.7, 1.3, 3).astype(np.float32), rng.uniform(-1, 1) * 0.15
        x = image.astype(np.float32) / 255
        for what in rng.permutation(4):
            grey = (x @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
            x = [
                lambda: x * factor[0],  # noqa: B023
                lambda: grey.mean() + (x - grey.mean()) * factor[1],  # noqa: B023
                lambda: grey + (x - grey) * factor[2],  # noqa: B023
                lambda: _turn_hue(x, turn),  # noqa: B023
            ][what]()
            x = np.clip(x, 0, 1)
        expected = np.round(x * 255).astype(np.uint8)
        np.testing.assert_array_equal(colour_jitter(image, 0.3, np.random.default_rng(seed)), expected)


def test_hue_turn_equals_the_standard_library():
    colours = np.random.default_rng(3).random((50, 1, 3)).astype(np.float32)
    turned = _turn_hue(colours, 0.12)
    for before, after in zip(colours[:, 0], turned[:, 0], strict=True):
        h, s, v = colorsys.rgb_to_hsv(*(float(c) for c in before))
        np.testing.assert_allclose(after, colorsys.hsv_to_rgb((h + 0.12) % 1, s, v), atol=2e-3)


def test_depth_noise_has_the_stated_size_and_leaves_holes():
    depth = np.full((200, 200), 1.5, np.float32)
    depth[:50] = np.nan
    noisy = depth_noise(depth, 0.01, np.random.default_rng(0))
    assert noisy.dtype == np.float32
    assert np.isnan(noisy[:50]).all()
    error = (noisy - depth)[50:]
    assert error.std() == pytest.approx(0.01, rel=0.03)
    assert abs(error.mean()) < 3e-4
    near = depth_noise(np.full((50, 50), 0.005, np.float32), 0.01, np.random.default_rng(0))
    assert (near > 0).all()
