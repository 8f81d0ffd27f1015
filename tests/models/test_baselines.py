"""Baselines against hand computations."""

import numpy as np
import pytest

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.models.baselines import BASELINES, ConstantVelocity, DampedVelocity, NothingMoves
from traceworld.traces.types import Observation

UV = np.array([[0.1, -0.2], [0.5, 0.5], [-0.9, 0.3]])
Z = np.array([1.0, np.nan, 2.0])
VELOCITY = np.array([[0.02, 0.01, -0.03], [0.0, 0.0, 0.0], [-0.01, 0.005, 0.02]])


def observe(history=True, z=Z, depth_m=None, uv=UV):
    anchor = np.concatenate([UV, np.nan_to_num(Z)[:, None]], 1)
    past = anchor[:, None] + VELOCITY[:, None] * np.arange(-8, 0)[None, :, None] if history else None
    return Observation(
        image=np.zeros((10, 20, 3), np.uint8),
        instruction="push",
        depth_m=depth_m,
        keypoints_uv=uv,
        keypoints_z_m=z,
        history_uvz=past,
        clock="arc",
        step=0.01,
    )


@pytest.mark.parametrize("name", BASELINES)
def test_shape_name_and_clock(name):
    predictor = BASELINES[name](horizon=16)
    prediction = predictor.predict(observe(), num_samples=3, seed=5)
    assert predictor.name == name
    assert prediction.uvz.shape == (3, 3, 16, 3)
    assert prediction.valid.all()
    assert (prediction.clock, prediction.step) == ("arc", 0.01)
    assert (prediction.uvz == prediction.uvz[:1]).all(), "no randomness: the samples are equal"
    assert predictor.num_parameters == 0


@pytest.mark.parametrize("name", BASELINES)
def test_without_history_nothing_moves(name):
    uvz = BASELINES[name]().predict(observe(history=False)).uvz
    np.testing.assert_allclose(uvz[0, :, :, :2], np.repeat(UV[:, None], 32, 1), atol=1e-7)
    np.testing.assert_array_equal(uvz[0, :, 0, 2], [1.0, 0.0, 2.0])


def test_steady_motion_is_continued_exactly():
    uvz = ConstantVelocity().predict(observe()).uvz[0]
    expected = np.concatenate([UV, [[1.0], [0.0], [2.0]]], 1)[:, None] + VELOCITY[:, None] * np.arange(1, 33)[:, None]
    np.testing.assert_allclose(uvz, expected, atol=1e-5)


def test_damping_is_a_geometric_series():
    uvz = DampedVelocity().predict(observe()).uvz[0]
    moved = uvz[0, :, 0] - UV[0, 0]
    np.testing.assert_allclose(moved, 0.02 * (1 - 0.85 ** np.arange(1, 33)) / 0.15, rtol=1e-4)
    assert ConstantVelocity(damping=0.0).predict(observe()).uvz[0, 0, 31, 0] == pytest.approx(0.12)


def test_velocity_is_the_least_squares_line_through_the_anchor():
    rng = np.random.default_rng(0)
    observation = observe()
    noisy = observation.history_uvz + rng.normal(0, 0.01, (3, 8, 3))
    noisy[0, 2:5] = np.nan
    noisy[2] = np.nan
    observation = Observation(**{**vars(observation), "history_uvz": noisy})
    step = (
        ConstantVelocity(horizon=1).predict(observation).uvz[0, :, 0]
        - NothingMoves(1).predict(observation).uvz[0, :, 0]
    )
    time = np.arange(-8, 0)
    known = np.isfinite(noisy[0, :, 0])
    for axis in range(3):
        past = noisy[0, known, axis] - [*UV[0], 1.0][axis]
        slope = np.linalg.lstsq(time[known, None], past, rcond=None)[0][0]
        assert step[0, axis] == pytest.approx(slope, abs=1e-6)
    assert (step[2] == 0).all(), "no valid step: still"


def test_z_comes_from_the_depth_map_where_it_is_not_given():
    depth = np.full((10, 20), np.nan)
    depth[7, 15] = 3.5  # pixel of uv (0.5, 0.5)
    uvz = NothingMoves().predict(observe(depth_m=depth)).uvz[0, :, 0]
    np.testing.assert_allclose(uvz[:, 2], [1.0, 3.5, 2.0])


def test_refusals():
    with pytest.raises(InvalidInputError, match="keypoints"):
        NothingMoves().predict(observe(uv=None, z=None, history=False))
    with pytest.raises(ConfigError, match="damping"):
        ConstantVelocity(damping=1.5)
