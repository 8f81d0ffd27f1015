"""From clip stores to a trained nano model: the real data and the real model through the loop."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from traceworld.errors import CheckpointError, ConfigError, DatasetError
from traceworld.evaluation.forecast import evaluate_forecast
from traceworld.models import load_predictor
from traceworld.models.checkpoint import load_checkpoint
from traceworld.training import TrainConfig, train
from traceworld.training.data import DrawOrder, TrainingWindows, training_batches
from traceworld.training.registry import model_kind
from traceworld.training.sources import open_training_data, windows_of

sys.path.insert(0, str(Path(__file__).parents[1] / "traces"))
from trace_clips import write_dataset


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("store") / "clips", clips=8, N=16)


def config(store, out, **changes) -> TrainConfig:
    return replace(
        TrainConfig(
            data=(str(store),),
            out=str(out),
            steps=20,
            batch=2,
            lr=1e-3,
            workers=0,
            eval_every=10,
            checkpoint_every=10,
            log_every=1,
            val_fraction=0.25,
            val_windows=6,
            arc_weight=0.5,
            keypoints=(2, 12),
            threads=1,
            ema=0.9,
        ),
        **changes,
    )


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    """Twenty steps of the real nano model on a CPU."""
    out = tmp_path_factory.mktemp("run")
    return config(store, out), train(config(store, out))


def test_twenty_steps_lower_the_validation_loss(run):
    used, result = run
    losses = [e["loss"] for e in map(json.loads, (Path(used.out) / "log.jsonl").open()) if e["kind"] == "val"]
    assert result.status == "finished"
    assert losses[-1] < losses[0]
    assert {"flow", "done", "rig"} <= set(result.val)


def test_the_result_is_a_predictor_that_can_be_scored(run, store):
    _, result = run
    predictor = load_predictor(result.model)
    report = evaluate_forecast([predictor], store, num_samples=2, max_clips=2, slots_per_clip=1)
    found = report["models"][predictor.name]
    assert found["parameters"] == result.parameters
    assert np.isfinite(found["no_history"]["metrics"]["topS_ade@32"])


def test_scales_are_in_the_checkpoint_and_kept_when_fine_tuning(run, store, tmp_path):
    _, result = run
    scales = load_checkpoint(result.model).normalisation
    assert set(scales.s_delta) == {"time", "arc"}
    assert scales.steps == {"time": 0.025, "arc": 0.01}
    other = write_dataset(tmp_path / "other", clips=8, N=16, step_s=0.05)
    fresh = open_training_data(config(other, tmp_path), (32, 24))
    assert fresh.normalisation.s_delta["time"] != pytest.approx(scales.s_delta["time"], rel=0.05)
    tuned = train(config(other, tmp_path / "tuned", init_from=result.model, steps=1))
    assert load_checkpoint(tuned.model).normalisation.s_delta == scales.s_delta


def test_clocks_are_mixed_by_their_share(store, tmp_path):
    data = open_training_data(config(store, tmp_path, time_weight=3.0, arc_weight=1.0), (32, 24))
    windows = TrainingWindows(data.train, DrawOrder([len(s) for s in data.train], data.weights, 0), 0, 0.3, 0.01)
    clocks = np.array([int(windows[i]["clock"]) for i in range(240)])
    assert clocks.mean() == pytest.approx(0.25)
    assert [w.clock for w, _ in windows_of(config(store, tmp_path, arc_weight=0.0))] == ["time"]


def test_batches_have_what_the_model_needs(store, tmp_path):
    data = open_training_data(config(store, tmp_path), (32, 24))
    windows = TrainingWindows(data.train, DrawOrder([len(s) for s in data.train], data.weights, 0), 0, 0.3, 0.01)
    (batch,) = training_batches(windows, start=0, count=1, batch=5, workers=0)
    N = batch["present"].shape[1]
    shapes = {"image": (5, 24, 32, 3), "history": (5, N, 8, 3), "future": (5, N, 32, 3), "controls": (5, N, 10, 3)}
    assert {key: tuple(batch[key].shape) for key in shapes} == shapes
    assert all(torch.isfinite(batch[key]).all() for key in ("history", "future", "controls", "anchor_uvz"))
    assert batch["sample_id"][0].startswith("clip-")


def test_validation_clips_are_never_trained_on(store, tmp_path):
    data = open_training_data(config(store, tmp_path), (32, 24))
    names = [{source.place(i)[0].clip_id for i in range(len(source))} for source in (data.train[0], data.val[0])]
    assert names[0]
    assert names[1]
    assert not names[0] & names[1]


def test_no_validation_and_nothing_but_validation(store, tmp_path):
    assert open_training_data(config(store, tmp_path, val_fraction=0.0), (32, 24)).val == []
    with pytest.raises(ConfigError, match="val_fraction"):
        open_training_data(config(store, tmp_path, val_fraction=0.9999), (32, 24))


def test_gradient_checkpointing_gives_the_same_gradients(store, tmp_path):
    norms = []
    for on in (False, True):
        out = tmp_path / str(on)
        train(config(store, out, steps=1, gradient_checkpointing=on, val_fraction=0.0))
        (step,) = [e for e in map(json.loads, (out / "log.jsonl").open()) if e["kind"] == "step"]
        norms.append(step["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_refusals(run, store, tmp_path):
    with pytest.raises(DatasetError):
        train(config(tmp_path / "nowhere", tmp_path / "a"))
    with pytest.raises(ConfigError, match="nano"):
        train(config(store, tmp_path / "b", size="nanoo"))
    with pytest.raises(ConfigError, match="train_vlm"):
        train(config(store, tmp_path / "c", train_vlm=True))
    with pytest.raises(CheckpointError):
        train(config(store, tmp_path / "d", init_from=str(tmp_path)))


def test_backbone_is_the_vlm_only():
    kind = model_kind("mu0")
    assert kind.is_backbone("prefix.vlm.model.text_model.layers.0.weight")
    assert not kind.is_backbone("prefix.depth_stem.weight")


def test_the_model_decides_what_a_window_is_cut_to(store, tmp_path):
    """A released μ0 has other knots than ours: fitted with the wrong ones, its targets would be silently off."""
    from traceworld.geometry.bspline import fit_controls
    from traceworld.models.mu0.config import Mu0Config
    from traceworld.training.registry import _mu0_windows

    released = _mu0_windows(Mu0Config(knots="official", num_controls=10, horizon=32))
    assert released == {"history": 8, "horizon": 32, "num_controls": 10, "knots": "official"}
    samples = {}
    for knots in ("uniform", "official"):
        data = open_training_data(config(store, tmp_path), (64, 48), None, {**released, "knots": knots})
        sample = data.train[0].sample(0, seed=0, epoch=0)
        controls, usable = fit_controls(sample["future"], sample["future_valid"], knots=knots)
        assert usable.any()
        np.testing.assert_allclose(sample["controls"][usable], controls[usable], atol=1e-5)
        samples[knots] = sample["controls"][usable]
    assert np.abs(samples["uniform"] - samples["official"]).max() > 1e-2


def test_a_raw_target_needs_no_controls():
    from traceworld.models.mu0.config import ExpertConfig, Mu0Config
    from traceworld.training.registry import _mu0_windows

    raw = Mu0Config(target="raw", num_controls=16, horizon=16, expert=ExpertConfig(control_group=16))
    assert _mu0_windows(raw) == {"history": 8, "horizon": 16}
