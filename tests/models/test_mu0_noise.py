"""Noise that follows its keypoint."""

import numpy as np

from traceworld.models.mu0.noise import keypoint_noise

UV = np.random.default_rng(0).uniform(-1, 1, (400, 2))


def test_it_is_standard_gaussian_and_uncorrelated():
    noise = keypoint_noise(UV, 8, 10, seed=3).astype(np.float64)
    assert noise.shape == (8, 400, 10, 3)
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    assert abs((noise**4).mean() - 3) < 0.1
    flat = noise.reshape(8 * 400, 30)
    correlation = np.corrcoef(flat.T) - np.eye(30)
    assert np.abs(correlation).max() < 0.08
    between_samples = np.corrcoef(noise.reshape(8, -1)) - np.eye(8)
    assert np.abs(between_samples).max() < 0.05


def test_permuting_keypoints_permutes_it():
    order = np.random.default_rng(1).permutation(len(UV))
    assert np.array_equal(keypoint_noise(UV, 2, 10, 0)[:, order], keypoint_noise(UV[order], 2, 10, 0))


def test_more_samples_or_keypoints_leave_the_first_ones_alone():
    all_of_it = keypoint_noise(UV, 5, 10, 0)
    assert np.array_equal(all_of_it[:2], keypoint_noise(UV, 2, 10, 0))
    assert np.array_equal(all_of_it[:, :7], keypoint_noise(UV[:7], 5, 10, 0))


def test_seeds_places_and_coordinates_are_told_apart():
    base = keypoint_noise(UV, 1, 10, 0)
    assert not np.array_equal(base, keypoint_noise(UV, 1, 10, 1))
    assert not np.array_equal(base, keypoint_noise(UV, 1, 10, -1))
    assert not np.array_equal(base, keypoint_noise(UV[:, ::-1], 1, 10, 0))
    assert not np.array_equal(base, keypoint_noise(UV + 1e-5, 1, 10, 0))
