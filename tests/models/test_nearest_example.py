"""Retrieval of the nearest training window, against what was stored and a plain search."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from traceworld.errors import ConfigError, DatasetError
from traceworld.models import load_predictor
from traceworld.models.baselines import NearestExample
from traceworld.models.baselines.nearest import Examples, held, nearest_offsets, picture_vector, word_vector
from traceworld.traces.batching import resize_picture
from traceworld.traces.store import open_dataset
from traceworld.traces.types import Observation
from traceworld.traces.windows import WindowConfig, observation_at

sys.path.insert(0, str(Path(__file__).parents[1] / "traces"))
from trace_clips import write_dataset

CONFIG = WindowConfig()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("nearest") / "clips", clips=4, T=60, N=16, unknown=0.05)


def asked(store, clip="clip-2", frame=20):
    return observation_at(open_dataset(store).clip(clip), frame, CONFIG)


def test_a_stored_window_is_answered_with_what_happened(store):
    observation, true_uvz, valid, _ = asked(store)
    predictor = NearestExample(store)
    prediction = predictor.predict(observation, num_samples=3)
    anchor = np.concatenate([observation.keypoints_uv, observation.keypoints_z_m[:, None]], 1)
    np.testing.assert_allclose(prediction.uvz[0][valid], true_uvz[valid], atol=1e-5)
    expected = anchor[:, None] + held(true_uvz - anchor[:, None], valid)
    np.testing.assert_allclose(prediction.uvz[0], expected, atol=1e-5)
    assert not np.allclose(prediction.uvz[0], prediction.uvz[1])
    assert predictor.clip_ids == {f"clip-{i}" for i in range(4)}
    assert (prediction.clock, prediction.step) == (observation.clock, observation.step)


def test_the_same_question_gets_the_same_answer_and_order_does_not_matter(store):
    observation, *_ = asked(store)
    one = NearestExample(store, max_windows=5, seed=1).predict(observation, 2, seed=1).uvz
    np.testing.assert_array_equal(one, NearestExample(store, max_windows=5, seed=1).predict(observation, 2, seed=9).uvz)
    order = np.arange(len(observation.keypoints_uv))[::-1]
    turned = replace(
        observation,
        keypoints_uv=observation.keypoints_uv[order],
        keypoints_z_m=observation.keypoints_z_m[order],
        history_uvz=None,
        part_id=None,
    )
    again = NearestExample(store, max_windows=5, seed=1).predict(turned, 2).uvz
    np.testing.assert_allclose(again, one[:, order], atol=1e-6)


def test_the_search_is_the_plain_one():
    rng = np.random.default_rng(0)
    W, M, N, H = 7, 5, 3, 4
    uv = rng.uniform(-1, 1, (W, M, 2)).astype(np.float32)
    uv[2, 3:] = np.nan
    offset = rng.normal(size=(W, M, H, 3)).astype(np.float32)
    images = rng.integers(0, 255, (W, 18, 24, 3)).astype(np.uint8)
    texts = ["open the drawer", "close the drawer", "push", "pull it", "open", "lift the lid", "open the drawer"]
    examples = Examples(
        np.stack([picture_vector(image) for image in images]), np.stack([word_vector(t) for t in texts]), uv, offset
    )
    query = Observation(
        rng.integers(0, 255, (36, 48, 3)).astype(np.uint8), "open drawer", keypoints_uv=rng.uniform(-1, 1, (N, 2))
    )
    costs, answers = [], []
    small = resize_picture(query.image, (24, 18)).astype(float)
    small = (small - small.reshape(-1, 3).mean(0)).ravel()
    for w in range(W):
        picture = images[w].astype(float)
        picture = (picture - picture.reshape(-1, 3).mean(0)).ravel()
        words, own = set(texts[w].split()), {"open", "drawer"}
        cost = 1 - picture @ small / np.linalg.norm(picture) / np.linalg.norm(small)
        cost += 1 - len(words & own) / np.sqrt(len(words) * len(own))
        pairs = [
            min((np.linalg.norm(q - p), m) for m, p in enumerate(uv[w]) if np.isfinite(p[0]))
            for q in query.keypoints_uv
        ]
        costs.append(cost + np.mean([distance for distance, _ in pairs]))
        answers.append(np.stack([offset[w, m] for _, m in pairs]))
    found = nearest_offsets(examples, query, 9)
    order = np.argsort(costs)
    for sample in range(9):
        np.testing.assert_array_equal(found[sample], answers[order[min(sample, W - 1)]])


def test_words_decide_between_equal_pictures(store):
    vectors = [word_vector(text) for text in ("Open the drawer!", "open THE drawer", "close the window")]
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert vectors[0] @ vectors[2] == pytest.approx(1 / 3)
    assert (word_vector("?!") == 0).all()
    assert (picture_vector(np.full((3, 4, 3), 7, np.uint8)) == 0).all()


def test_steps_that_are_unknown_hold_the_last_one():
    future = np.arange(1, 5, dtype=float)[None, :, None] * np.ones((2, 1, 3))
    valid = np.array([[True, False, True, False], [False, False, False, True]])
    np.testing.assert_array_equal(held(future, valid)[..., 0], [[1, 1, 3, 3], [0, 0, 0, 4]])


def test_other_clocks_and_refusals(store, tmp_path):
    observation, *_ = asked(store)
    predictor = NearestExample(store)
    predictor.predict(replace(observation, clock="arc", step=0.01))
    assert list(predictor._examples) == [("arc", 0.01)]
    with pytest.raises(DatasetError):
        NearestExample(tmp_path / "nothing").predict(observation)
    assert load_predictor(f"nearest-example:{store}").corpus == [str(store)]
    with pytest.raises(ConfigError, match="corpus"):
        load_predictor("nearest-example:")
    with pytest.raises(ConfigError, match="nearest-example:"):
        load_predictor("nearest-example")
