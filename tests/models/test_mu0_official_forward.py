"""A converted released checkpoint predicts what a plain reading of the dossier predicts, through the real classes."""

import dataclasses

import numpy as np
import pytest
import torch
from released_forward import Released
from released_mu0 import RELEASED_STATS, Shape, letters, released_tensors, write_released

from traceworld.models.checkpoint import load_checkpoint
from traceworld.models.mu0.conventions import Conventions
from traceworld.models.mu0.model import Mu0Model
from traceworld.models.mu0.noise import keypoint_noise
from traceworld.models.mu0.official.conventions import OfficialConventions
from traceworld.models.mu0.official.convert import convert_official
from traceworld.models.mu0.predictor import Mu0Predictor
from traceworld.traces.types import Observation

S_DELTA = tuple(RELEASED_STATS[f"delta_scale_{axis}"] for axis in "xyz")
LOG_RANGE = RELEASED_STATS["depth_log_min"], RELEASED_STATS["depth_log_max"]
N = 5


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("released")
    released = write_released(folder)
    convert_official(released, folder / "normalizer_stats.json", folder / "mu0", keep_backbone=True)
    predictor = Mu0Predictor(load_checkpoint(folder / "mu0").model)
    predictor.model.prefix.tokenizer = letters
    return predictor, Released(released_tensors(Shape()), Shape(), LOG_RANGE, S_DELTA)


def observe(depth: bool, history: bool, size=(20, 26)) -> Observation:
    """A wide picture, so that squeezing it shows; depth with holes and with values beyond the corpus' range."""
    rng = np.random.default_rng(3)
    depth_m = np.exp(rng.uniform(-1.5, 1.4, size)).astype(np.float32)
    depth_m[3, 4], depth_m[5, 6] = np.nan, 0.0
    uv = rng.uniform(-0.95, 0.95, (N, 2))
    uv[0] = -0.99  # bilinear sampling reaches over the edge
    z = rng.uniform(0.4, 2, N)
    past = np.concatenate([uv, z[:, None]], 1)[:, None] + rng.normal(0, 0.1, (N, 8, 3))
    past[1, :3] = np.nan
    past[2] = np.nan
    return Observation(
        image=rng.integers(0, 256, (*size, 3), dtype=np.uint8),
        instruction="open the drawer",
        depth_m=depth_m if depth else None,
        keypoints_uv=uv,
        keypoints_z_m=z,
        history_uvz=past if history else None,
        clock="arc",
        step=0.05,
    )


@pytest.mark.parametrize("history", [False, True])
@pytest.mark.parametrize("depth", [False, True])
def test_prediction_equals_the_plain_forward(converted, depth, history):
    predictor, reference = converted
    seen = observe(depth, history)
    ours = predictor.predict(seen, num_samples=2, seed=4)
    anchor = np.concatenate([seen.keypoints_uv, seen.keypoints_z_m[:, None]], 1)
    past = None if seen.history_uvz is None else np.nan_to_num(seen.history_uvz - anchor[:, None], nan=0.0)
    ids, mask = letters(["Task: open the drawer\n"])
    padding = 48 - ids.shape[1]
    noise = torch.from_numpy(keypoint_noise(anchor[:, :2].astype(np.float32), 2, 10, seed=4))
    for sample in range(2):
        trace, valid = reference.predict(
            torch.from_numpy(seen.image),
            None if seen.depth_m is None else torch.from_numpy(seen.depth_m),
            torch.nn.functional.pad(ids[0], (0, padding)),
            torch.nn.functional.pad(mask[0], (0, padding)),
            torch.from_numpy(anchor).float(),
            None if past is None else torch.from_numpy(past).float(),
            noise[sample],
        )
        assert np.abs(ours.uvz[sample] - trace.numpy()).max() < 1e-4
        assert np.abs(ours.valid_prob[sample] - valid.numpy()).max() < 1e-4
    assert ours.uvz.std(axis=0).max() > 0.01  # the samples differ, so the noise matters
    assert ours.valid_prob.std() > 0.01


def test_what_is_given_matters(converted):
    """Guards the comparison above: none of its cases is the same by accident."""
    predictor, _ = converted
    traces = [predictor.predict(observe(depth, history)).uvz for depth in (0, 1) for history in (0, 1)]
    for i, a in enumerate(traces):
        for b in traces[:i]:
            assert np.abs(a - b).max() > 1e-3


def test_a_trace_is_not_frozen_at_its_end(converted):
    """Dossier fact 10: the head hides the tail in pictures; the trace goes on."""
    predictor, _ = converted
    prediction = predictor.predict(observe(False, False), num_samples=4)
    ended = ~prediction.valid[..., -1]
    assert ended.any()
    last_steps = prediction.uvz[..., -1, :] - prediction.uvz[..., -2, :]
    assert (np.abs(last_steps[ended]) > 0).any(axis=-1).all()


CHANGES = [
    {"knots": "uniform"},
    {"prefix.attention": "causal"},
    {"prefix.embedding_scale": "none"},
    {"prefix.rope_base": None},
    {"prefix.prompt": "{}"},
    {"prefix.depth_lora_alpha": 8.0},
    {"expert.history_scale": "s_delta"},
    {"expert.history_time": "clean"},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_a_wrong_switch_would_be_seen(converted, change, monkeypatch):
    """The tolerance of the comparison is far below what any of the switches does."""
    predictor, _ = converted
    seen = observe(True, True)
    config = dataclasses.replace(predictor.config, compat="none")
    for path, value in change.items():
        *part, name = path.split(".")
        changed = {name: value}
        if part:
            changed = {part[0]: dataclasses.replace(getattr(config, part[0]), **changed)}
        config = dataclasses.replace(config, **changed)
    monkeypatch.setattr("traceworld.models.mu0.model.conventions_of", lambda config: OfficialConventions((32, 32)))
    other = Mu0Model(config, predictor.model.normalisation)
    other.load_state_dict(predictor.model.state_dict())
    other.prefix.tokenizer = letters
    assert np.abs(Mu0Predictor(other).predict(seen).uvz - predictor.predict(seen).uvz).max() > 1e-3


@pytest.mark.parametrize("convention", ["observed_picture", "rgb", "dino_rgb", "depth_picture", "history_shown"])
def test_a_wrong_convention_would_be_seen(converted, convention, monkeypatch):
    predictor, _ = converted
    seen = observe(True, True, size=(70, 90))  # shrinks: averaging and picking pixels differ
    right = predictor.predict(seen).uvz
    ours = getattr(Conventions(), convention)
    monkeypatch.setattr(OfficialConventions, convention, lambda self, *args: ours(*args))
    assert np.abs(predictor.predict(seen).uvz - right).max() > 1e-3
