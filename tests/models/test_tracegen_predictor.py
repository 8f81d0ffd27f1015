"""From an observation to absolute traces; checkpoints; the trainer."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from tracegen_toys import HUB, NANO, build

from traceworld.errors import ConfigError, InvalidInputError, MissingWeightsError
from traceworld.models import load_predictor
from traceworld.models.checkpoint import load_checkpoint, save_checkpoint
from traceworld.models.normalisation import Normalisation
from traceworld.models.predictor import TracePredictor, predictor_names
from traceworld.models.tracegen.predictor import TraceGenPredictor
from traceworld.traces.types import Observation

SCALES = Normalisation({"time": (0.2, 0.3, 0.1), "arc": (0.4, 0.5, 0.2)}, {"time": 0.05, "arc": 0.02})


@pytest.fixture(scope="module")
def predictor():
    return TraceGenPredictor(build(NANO, normalisation=SCALES), name="tiny")


@pytest.fixture
def observation():
    rng = np.random.default_rng(0)
    return Observation(
        image=rng.integers(0, 256, (60, 80, 3), dtype=np.uint8),
        instruction="open the drawer",
        depth_m=rng.uniform(0.5, 2, (60, 80)).astype(np.float32),
        keypoints_uv=rng.uniform(-0.9, 0.9, (7, 2)),
        clock="time",
        step=0.05,
    )


def test_what_comes_back(predictor, observation):
    assert isinstance(predictor, TracePredictor)
    prediction = predictor.predict(observation, 3, seed=1)
    assert prediction.uvz.shape == (3, 7, 8, 3)
    assert prediction.valid.all()
    assert prediction.step == 0.05
    assert set(prediction.timing) == {"prepare", "prefix", "denoise", "decode", "total"}
    assert not np.array_equal(prediction.uvz[0], prediction.uvz[1])


def test_same_seed_same_bytes(predictor, observation):
    a, b = (predictor.predict(observation, 2, seed=5).uvz.tobytes() for _ in range(2))
    assert a == b != predictor.predict(observation, 2, seed=6).uvz.tobytes()


def test_sample_s_does_not_depend_on_how_many_are_asked_for(predictor, observation):
    many, few = predictor.predict(observation, 5), predictor.predict(observation, 2)
    assert np.abs(many.uvz[:2] - few.uvz).max() < 1e-5


def test_permuting_keypoints_permutes_the_prediction(predictor, observation):
    order = np.random.default_rng(1).permutation(7)
    permuted = dataclasses.replace(observation, keypoints_uv=observation.keypoints_uv[order])
    a, b = (predictor.predict(o, 2, seed=3).uvz for o in (observation, permuted))
    np.testing.assert_allclose(a[:, order], b, atol=1e-5)


def test_increments_become_positions(predictor, observation, monkeypatch):
    """Grid increments of 1 in network units: (s_Δ / 16) per step from where the point is."""
    size = (1, 2, 8, 6, 6, 3)
    monkeypatch.setattr(predictor.model, "sample_from", lambda *args: torch.ones(size))
    uvz = predictor.predict(observation, 2).uvz
    column, row = ((observation.keypoints_uv + 1) / 2 * (80, 60)).astype(int).T
    anchor = np.concatenate([observation.keypoints_uv, observation.depth_m[row, column][:, None]], axis=1)
    steps = np.arange(1, 9)[:, None] * np.array([0.2, 0.3, 0.1]) / 16
    np.testing.assert_allclose(uvz, np.broadcast_to(anchor[:, None] + steps, uvz.shape), atol=1e-5)


def test_between_grid_points_traces_are_interpolated(predictor, observation, monkeypatch):
    field = torch.zeros(1, 1, 8, 6, 6, 3)
    field[:, :, :, 2, 3] = 16.0
    monkeypatch.setattr(predictor.model, "sample_from", lambda *args: field)
    points = predictor.model.grid.uv.reshape(6, 6, 2).numpy().astype(float)
    at, beside, diagonal, far = points[2, 3], points[2, 2], points[3, 4], points[0, 0]
    uv = np.stack([at, (at + beside) / 2, (at + diagonal) / 2, far])
    moved = predictor.predict(dataclasses.replace(observation, keypoints_uv=uv)).uvz[0, :, 0, :2] - uv
    np.testing.assert_allclose(moved, np.outer([1, 0.5, 0.25, 0], [0.2, 0.3]), atol=1e-5)


def test_points_outside_the_picture_stay_and_are_not_valid(predictor, observation):
    uv = np.array([[0.2, 0.1], [1.4, 0.0], [0.0, -1.01]])
    prediction = predictor.predict(dataclasses.replace(observation, keypoints_uv=uv), 2)
    assert prediction.valid[:, 0].all()
    assert not prediction.valid[:, 1:].any()
    np.testing.assert_allclose(prediction.uvz[0, 1:, :, :2], np.repeat(uv[1:, None], 8, 1), atol=1e-6)


def test_without_depth_z_counts_from_the_point(predictor, observation):
    bare = dataclasses.replace(observation, depth_m=None)
    assert np.abs(predictor.predict(bare).uvz[..., 2]).max() < 10
    assert predictor.predict(bare).valid.all()


@pytest.mark.parametrize("clock", [("time", 0.1), ("arc", 0.05)])
def test_a_clock_it_was_not_trained_on_is_refused(predictor, observation, clock):
    with pytest.raises(ConfigError, match=r"was trained on the clock time with step 0\.05, arc with step 0\.02"):
        predictor.predict(dataclasses.replace(observation, clock=clock[0], step=clock[1]))


def test_bad_requests(predictor, observation):
    with pytest.raises(InvalidInputError, match="no keypoints"):
        predictor.predict(dataclasses.replace(observation, keypoints_uv=None))
    with pytest.raises(InvalidInputError, match="0 samples"):
        predictor.predict(observation, num_samples=0)


def test_checkpoint_round_trip(predictor, observation, tmp_path):
    folder = save_checkpoint(tmp_path / "tiny", predictor.model, SCALES, {"steps": 3})
    loaded = load_predictor(folder)
    assert isinstance(loaded, TraceGenPredictor)
    assert loaded.config == NANO
    assert loaded.predict(observation, 2).uvz.tobytes() == predictor.predict(observation, 2).uvz.tobytes()


def test_frozen_encoders_are_named_and_not_stored(tmp_path):
    """Loading needs them from the hub: what is absent is said with licence and command."""
    model = build(HUB)
    lean = save_checkpoint(tmp_path / "lean", model, SCALES)
    whole = save_checkpoint(tmp_path / "whole", model, SCALES, keep_backbones=True)
    record = json.loads((lean / "config.json").read_text())["backbones"]
    assert {path: entry["hub_id"] for path, entry in record.items()} == {
        "condition.dino": "facebook/dinov3-vitl16-pretrain-lvd1689m",
        "condition.siglip": "google/siglip-base-patch16-384",
        "condition.depth_siglip": "google/siglip-base-patch16-384",
        "condition.t5": "google-t5/t5-base",
    }
    assert (lean / "model.safetensors").stat().st_size < (whole / "model.safetensors").stat().st_size
    loaded = load_checkpoint(whole).model
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    with pytest.raises(MissingWeightsError, match=r"licence: Apache-2\.0.*hf download google/siglip"):
        load_checkpoint(lean)


def test_shipped_name(monkeypatch, tmp_path):
    assert "tracegen-nano" in predictor_names()
    monkeypatch.setattr("traceworld.models.predictor.WEIGHTS", tmp_path)
    with pytest.raises(MissingWeightsError, match=r"tracegen-nano.*recipes"):
        load_predictor("tracegen-nano")
