"""From an observation to absolute traces."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.geometry.bspline import basis
from traceworld.models.mu0.predictor import Mu0Predictor, freeze_past_end
from traceworld.models.predictor import TracePredictor
from traceworld.traces.store import open_dataset
from traceworld.traces.types import Observation
from traceworld.traces.windows import WindowConfig, WindowSet, observation_at

sys.path.insert(0, str(Path(__file__).parents[1] / "traces"))
from trace_clips import swaying_poses, write_dataset


@pytest.fixture
def predictor(tiny_config, build, normalisation):
    return Mu0Predictor(build(tiny_config, normalisation=normalisation), name="tiny")


@pytest.fixture
def observation():
    rng = np.random.default_rng(0)
    return Observation(
        image=rng.integers(0, 256, (60, 80, 3), dtype=np.uint8),
        instruction="open the drawer",
        depth_m=rng.uniform(0.5, 2, (60, 80)).astype(np.float32),
        K=np.array([[80.0, 0, 39.5], [0, 80, 29.5], [0, 0, 1]]),
        keypoints_uv=rng.uniform(-0.9, 0.9, (7, 2)),
        history_uvz=rng.uniform(-0.5, 0.9, (7, 4, 3)),
        part_id=np.arange(7) % 3,
        clock="time",
        step=0.05,
    )


def test_it_is_a_predictor_with_the_promised_shapes(predictor, observation):
    assert isinstance(predictor, TracePredictor)
    prediction = predictor.predict(observation, num_samples=3, seed=1)
    assert prediction.uvz.shape == (3, 7, 8, 3)
    assert prediction.valid.shape == prediction.valid_prob.shape == (3, 7, 8)
    assert (prediction.clock, prediction.step) == ("time", 0.05)
    assert prediction.timing["total"] > prediction.timing["prefix"] > 0
    assert not np.array_equal(prediction.uvz[0], prediction.uvz[1])


def test_permuting_keypoints_permutes_the_prediction(predictor, observation):
    order = np.random.default_rng(1).permutation(7)
    names = ("keypoints_uv", "history_uvz", "part_id")
    shuffled = dataclasses.replace(observation, **{name: getattr(observation, name)[order] for name in names})
    a, b = predictor.predict(observation, 2), predictor.predict(shuffled, 2)
    assert np.abs(a.uvz[:, order] - b.uvz).max() <= 1e-5
    assert np.abs(a.valid_prob[:, order] - b.valid_prob).max() <= 1e-5


def test_the_same_seed_gives_the_same_bytes(predictor, observation):
    a, b = (predictor.predict(observation, 2, seed=5) for _ in range(2))
    assert a.uvz.tobytes() == b.uvz.tobytes()
    assert a.valid_prob.tobytes() == b.valid_prob.tobytes()
    assert a.uvz.tobytes() != predictor.predict(observation, 2, seed=6).uvz.tobytes()


def asked(count, clock="time", depth=True, words="open the drawer", seed=0):
    """An observation of `count` keypoints, of which no two tests share one."""
    rng = np.random.default_rng([seed, count])
    return Observation(
        image=rng.integers(0, 256, (60, 80, 3), dtype=np.uint8),
        instruction=words,
        depth_m=rng.uniform(0.5, 2, (60, 80)).astype(np.float32) if depth else None,
        keypoints_uv=rng.uniform(-0.9, 0.9, (count, 2)),
        history_uvz=rng.uniform(-0.5, 0.9, (count, 4, 3)) if count % 2 else None,
        clock=clock,
        step=0.05 if clock == "time" else 0.02,
    )


@pytest.fixture
def two_clocks(tiny_config, build, normalisation):
    steps = {"time": 0.05, "arc": 0.02}
    scales = {"time": normalisation.s_delta["time"], "arc": (0.5, 0.1, 0.9)}
    return Mu0Predictor(
        build(tiny_config, normalisation=dataclasses.replace(normalisation, s_delta=scales, steps=steps))
    )


def test_many_at_once_are_what_each_is_alone(two_clocks):
    observations = [
        asked(7), asked(1, "arc"), asked(12, depth=False), asked(4, words="push the red puck to the goal on the left"),
    ]  # fmt: skip
    seeds = [5, 6, 5, 9]
    together = two_clocks.predict_many(observations, 2, seeds)
    assert [found.uvz.shape[1] for found in together] == [7, 1, 12, 4]
    for found, observation, seed in zip(together, observations, seeds, strict=True):
        alone = two_clocks.predict(observation, 2, seed)
        assert (found.clock, found.step) == (alone.clock, alone.step)
        assert np.abs(found.uvz - alone.uvz).max() <= 1e-5
        assert np.abs(found.valid_prob - alone.valid_prob).max() <= 1e-5
        sure = np.abs(alone.valid_prob - two_clocks.config.stop_threshold) > 1e-4
        assert np.array_equal(found.valid[sure], alone.valid[sure])
    other = two_clocks.predict(observations[0], 2, seeds[1])  # the tolerance would tell a mixed-up seed
    assert np.abs(together[0].uvz - other.uvz).max() > 1e-3


def test_many_at_once_go_through_the_model_once(two_clocks, monkeypatch):
    calls, encode = [], type(two_clocks.model).encode
    monkeypatch.setattr(
        type(two_clocks.model),
        "encode",
        lambda self, batch, *rest: calls.append(len(batch["image"])) or encode(self, batch, *rest),
    )
    two_clocks.predict_many([asked(3), asked(8)], 3, [0, 1])
    assert calls == [2]
    assert two_clocks.predict_many([], 3, []) == []


def test_many_at_once_are_refused_for_any_of_them(two_clocks):
    with pytest.raises(InvalidInputError, match="2 observations, 1 seeds"):
        two_clocks.predict_many([asked(3), asked(4)], 1, [0])
    with pytest.raises(ConfigError, match="trained on the clock"):
        two_clocks.predict_many([asked(3), dataclasses.replace(asked(4), step=0.3)], 1, [0, 0])


def test_the_server_asks_for_many_at_once_and_each_gets_its_own(two_clocks):
    from traceworld.serving.predict_batches import Asked, predict_together

    wrong = dataclasses.replace(asked(4), step=0.3)
    batch = [Asked(asked(3), 2, 1), Asked(asked(5), 1, 2), Asked(asked(9), 2, 3), Asked(wrong, 2, 4)]
    answers = predict_together(two_clocks)(batch)
    assert isinstance(answers[3], ConfigError)
    for found, one in zip(answers[:3], batch[:3], strict=True):
        assert np.abs(found.uvz - two_clocks.predict(one.observation, one.num_samples, one.seed).uvz).max() <= 1e-5


def test_sample_s_does_not_depend_on_how_many_are_asked_for(predictor, observation):
    many, few = predictor.predict(observation, 5), predictor.predict(observation, 2)
    assert np.abs(many.uvz[:2] - few.uvz).max() < 1e-5


@pytest.mark.parametrize("count", [1, 300])
def test_any_number_of_keypoints(predictor, observation, count):
    bare = Observation(
        observation.image,
        observation.instruction,
        keypoints_uv=np.random.default_rng(2).uniform(-1, 1, (count, 2)),
        step=0.05,
    )
    prediction = predictor.predict(bare)
    assert prediction.uvz.shape == (1, count, 8, 3)


def test_controls_become_absolute_positions(predictor):
    """B-spline × s_Δ + anchor, by hand."""
    rng = np.random.default_rng(0)
    controls = rng.normal(size=(2, 3, 5, 3)).astype(np.float32)
    anchor = rng.normal(size=(3, 3)).astype(np.float32)
    logits = np.full((2, 3, 8), 9.0, np.float32)
    uvz, valid, probability = predictor._decode(controls, logits, anchor, (0.2, 0.3, 0.1))
    matrix = basis(horizon=8, num_controls=5)[1:]
    expected = np.einsum("hd,sndc->snhc", matrix, controls) * [0.2, 0.3, 0.1] + anchor[:, None]
    np.testing.assert_allclose(uvz, expected, atol=1e-6)
    assert valid.all()
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-9.0)), rtol=1e-6)


def test_a_trace_is_frozen_past_its_end():
    uvz = np.arange(2 * 3 * 4 * 3, dtype=np.float32).reshape(2, 3, 4, 3)
    anchor = -np.ones((3, 3), np.float32)
    probability = np.ones((2, 3, 4), np.float32)
    probability[0, 1] = [0.9, 0.4, 0.9, 0.9]  # ends at step 1 and does not come back
    probability[1, 2] = [0.1, 0.9, 0.9, 0.9]  # ends at once
    frozen, valid = freeze_past_end(uvz, anchor, probability, 0.5)
    assert valid[0, 1].tolist() == [True, False, False, False]
    assert np.array_equal(frozen[0, 1], np.repeat(uvz[0, 1, :1], 4, axis=0))
    assert not valid[1, 2].any()
    assert np.array_equal(frozen[1, 2], np.repeat(anchor[2:], 4, axis=0))
    untouched = valid.all(axis=-1)
    assert untouched.sum() == 4
    assert np.array_equal(frozen[untouched], uvz[untouched])


def test_where_z_comes_from(predictor, observation):
    uv = np.array([[-0.99, -0.99], [0.5, 0.5], [0.0, 0.0], [3.0, 0.0]])
    depth = np.full((60, 80), 1.5, np.float32)
    depth[30, 40] = np.nan  # the pixel of (0, 0)
    history = np.full((4, 2, 3), np.nan)
    history[2, 1] = [0.1, 0.1, 0.8]
    asked = dataclasses.replace(
        observation,
        depth_m=depth,
        keypoints_uv=uv,
        keypoints_z_m=np.array([np.nan, 0.7, np.nan, np.nan]),
        history_uvz=history,
        part_id=None,
    )
    anchor, batch = predictor._batch(asked)
    np.testing.assert_allclose(anchor[:, 2], [1.5, 0.7, 0.8, 0.0], atol=1e-6)
    assert batch["anchor_z_known"][0].tolist() == [True, True, False, False]
    np.testing.assert_allclose(batch["anchor_uvz"][0, :, 2], [1.5, 0.7, 0, 0], atol=1e-6)
    assert batch["history_valid"][0].tolist() == [[False] * 4, [False] * 4, [False, False, False, True], [False] * 4]
    np.testing.assert_allclose(batch["history"][0, 2, 3], [0.1, 0.1, 0.0], atol=1e-6)


@pytest.mark.parametrize(("depth", "metric"), [(True, True), (False, True), (False, False)])
def test_prediction_sees_what_training_showed(predictor, tmp_path, depth, metric):
    """The same frame as a training sample and as an observation: with depth, with depth dropped, of a clip without scale."""
    config = WindowConfig(history=4, horizon=8, step=0.05, history_drop_all=0.0, history_drop_each=0.0)
    config = dataclasses.replace(config, depth_drop=0.0 if depth else 1.0, min_keypoints=256)
    options = {"metric": metric, "unknown": 0.1, "poses": swaying_poses(60)}
    folder = write_dataset(tmp_path / "d", clips=1, pictures=(30,), **options)
    size = predictor.config.image_size
    sample = WindowSet(folder, config, s_delta=(1, 1, 1), image_size=size).sample(0)
    clip = open_dataset(folder)[0]
    window = observation_at(clip, 30, config)[3]
    points = [int(np.flatnonzero((window.anchor_uvz[:, :2] == uvz[:2]).all(-1))[0]) for uvz in sample["anchor_uvz"]]
    observation = observation_at(clip, 30, config, points, with_depth=depth or not metric)[0]
    anchor, batch = predictor._batch(observation)
    assert 0 < sample["history_valid"].sum() < sample["history_valid"].size
    assert sample["history"][..., 2].any()
    for name in (
        "history",
        "history_valid",
        "anchor_uvz",
        "anchor_z_known",
        "depth_present",
        "depth_m",
        "K_uv",
        "image",
    ):
        np.testing.assert_allclose(batch[name][0].numpy(), sample[name], atol=1e-6, err_msg=name)
    assert batch["anchor_z_known"].all() == depth
    np.testing.assert_array_equal(anchor[:, 2], sample["anchor_uvz"][:, 2])


def test_a_history_of_image_points_alone_is_a_history(predictor, observation):
    past = observation.history_uvz.copy()
    past[..., 2] = np.nan
    past[2, 0, 0] = np.nan
    _, batch = predictor._batch(dataclasses.replace(observation, depth_m=None, history_uvz=past))
    assert batch["history_valid"][0].sum() == 7 * 4 - 1
    assert not batch["history"][0, ..., 2].any()
    np.testing.assert_allclose(batch["history"][0, 3, :, :2], past[3, :, :2] - observation.keypoints_uv[3], atol=1e-6)


def test_longer_history_keeps_the_latest_steps(predictor, observation):
    longer = np.random.default_rng(3).normal(size=(7, 9, 3))
    _, batch = predictor._batch(dataclasses.replace(observation, history_uvz=longer))
    anchor = np.concatenate([observation.keypoints_uv, batch["anchor_uvz"][0, :, 2:].numpy()], axis=1)
    np.testing.assert_allclose(batch["history"][0], longer[:, -4:] - anchor[:, None], atol=1e-5)


def test_a_depth_map_of_nan_is_no_depth(predictor, observation):
    _, batch = predictor._batch(dataclasses.replace(observation, depth_m=np.full((60, 80), np.nan, np.float32)))
    assert not batch["depth_present"].item()


@pytest.mark.parametrize(("clock", "step"), [("time", 0.1), ("arc", 0.05)])
def test_a_clock_it_was_not_trained_on_is_refused(predictor, observation, clock, step):
    with pytest.raises(ConfigError, match=rf"time with step 0.05, arc with step 0.02, not on {clock} with step {step}"):
        predictor.predict(dataclasses.replace(observation, clock=clock, step=step))


def test_the_other_clock_it_was_trained_on(predictor, observation):
    arc = predictor.predict(dataclasses.replace(observation, clock="arc", step=0.02))
    assert arc.clock == "arc"
    assert not np.array_equal(arc.uvz, predictor.predict(observation).uvz)


def test_bad_requests(predictor, observation):
    with pytest.raises(InvalidInputError, match="no keypoints"):
        predictor.predict(dataclasses.replace(observation, keypoints_uv=None, history_uvz=None, part_id=None))
    with pytest.raises(InvalidInputError, match="0 samples"):
        predictor.predict(observation, num_samples=0)
