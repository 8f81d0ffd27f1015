"""The forecast benchmark on small stored clips, with predictors whose score is known beforehand."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from traceworld.errors import ConfigError, DatasetError
from traceworld.evaluation.forecast import evaluate_forecast, forecast_tables
from traceworld.evaluation.slots import SlotChoice, choose_slots
from traceworld.traces.store import open_dataset
from traceworld.traces.types import TracePrediction
from traceworld.traces.windows import WindowConfig
from traceworld.traces.writer import DatasetWriter

sys.path.insert(0, str(Path(__file__).parents[1] / "traces"))
from trace_clips import make_clip, write_dataset

CHOICE = SlotChoice(WindowConfig())


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("store") / "clips", clips=5, T=70, N=24)


@pytest.fixture(scope="module")
def slots(store):
    return choose_slots(store, CHOICE)


class Oracle:
    """Knows the future: predicts `share` of the true displacement in sample `good`, nothing in the others."""

    def __init__(self, slots, share=1.0, good=0, name="oracle", relative=False):
        self.truth = {slot.observation.keypoints_uv.tobytes(): slot for slot in slots}
        self.share, self.good, self.name, self.relative, self.seen = share, good, name, relative, []

    def predict(self, observation, num_samples=1, seed=0):
        self.seen.append((observation, num_samples, seed))
        slot = self.truth[observation.keypoints_uv.tobytes()]
        anchor = np.concatenate([observation.keypoints_uv, slot.anchor_z_m[:, None]], 1)[:, None]
        true = np.where(slot.valid[..., None], slot.true_uvz, anchor)
        uvz = np.repeat(np.broadcast_to(anchor, true.shape)[None], num_samples, 0).copy()
        uvz[self.good] += self.share * (true - anchor)
        if self.relative:
            assert observation.keypoints_z_m is None
            assert observation.depth_m is None
            uvz[..., 2] -= slot.anchor_z_m[:, None]
        uvz = uvz.astype(np.float32)
        return TracePrediction(uvz, np.ones(uvz.shape[:3], bool), clock=observation.clock, step=observation.step)


def test_slots_are_moving_points_at_frames_with_pictures(store, slots):
    dataset = open_dataset(store)
    assert len(slots) == 10
    for slot in slots:
        clip = dataset.clip(slot.clip_id)
        assert slot.frame in clip.media.frame_index
        assert 0 < len(slot.valid) <= clip.traces.moving.sum()
        assert slot.valid.any(1).all()
        assert np.abs(slot.observation.keypoints_uv).max() <= 1


def test_nothing_moves_is_the_mean_distance_from_the_anchor(store, slots):
    report = evaluate_forecast([], store)
    per_keypoint = []
    for slot in slots:
        anchor = np.concatenate([slot.observation.keypoints_uv, slot.anchor_z_m[:, None]], 1)
        for k, valid in enumerate(slot.valid):
            per_keypoint.append(np.linalg.norm(slot.true_uvz[k, valid] - anchor[k], axis=-1).mean())
    for setting in ("no_history", "history"):
        found = report["models"]["nothing-moves"][setting]
        assert found["metrics"]["topS_ade@32"] == pytest.approx(np.mean(per_keypoint), rel=1e-5)
        assert found["ratio"]["topS_ade@32"] == 1
        assert found["interval95"]["topS_ade@32"] == [1, 1]
    assert set(report["models"]) == {"nothing-moves", "constant-velocity", "damped-velocity"}
    assert report["keypoints"] == len(per_keypoint)


def test_known_ratios(store, slots):
    report = evaluate_forecast([Oracle(slots, share=0.5)], store, history=(False,))
    ratio = report["models"]["oracle"]["no_history"]["ratio"]
    for key in ("top1_ade@8", "top1_ade@32", "top1_fde@16", "top1_ade_uv@32"):
        assert ratio[key] == pytest.approx(0.5, abs=1e-4), key
    assert report["models"]["oracle"]["no_history"]["interval95"]["top1_ade@32"] == pytest.approx([0.5, 0.5], abs=1e-4)
    late = Oracle(slots, good=3)
    found = evaluate_forecast([late], store, history=(False,))["models"]["oracle"]["no_history"]["ratio"]
    assert found["topS_ade@32"] == pytest.approx(0, abs=1e-5)
    assert found["top1_ade@32"] == pytest.approx(1)


def test_metres_are_metres(store, slots):
    metrics = evaluate_forecast([], store)["models"]["nothing-moves"]["no_history"]["metrics"]
    errors = []
    for slot in slots:
        height, width = slot.observation.image.shape[:2]
        K = slot.K
        for k, valid in enumerate(slot.valid):
            uvz = np.concatenate([[[*slot.observation.keypoints_uv[k], slot.anchor_z_m[k]]], slot.true_uvz[k, valid]])
            px = (uvz[:, :2] + 1) / 2 * [width, height] - 0.5
            xyz = np.concatenate([(px - K[:2, 2]) / [K[0, 0], K[1, 1]], np.ones((len(px), 1))], 1) * uvz[:, 2:]
            errors.append(np.linalg.norm(xyz[1:] - xyz[0], axis=-1).mean())
    assert metrics["top1_ade_m@32"] == pytest.approx(np.mean(errors), rel=1e-5)


def test_what_is_hidden_is_hidden(store, slots):
    oracle = Oracle(slots)
    evaluate_forecast([oracle], store, num_samples=2)
    half = len(slots)
    assert len(oracle.seen) == 2 * half
    for place, (observation, num_samples, _) in enumerate(oracle.seen):
        assert (observation.history_uvz is None) == (place < half)
        assert observation.depth_m is not None
        assert num_samples == 2
    seeds = [seed for _, _, seed in oracle.seen]
    assert seeds[:half] == seeds[half:]
    assert len(set(seeds)) == half


def test_without_depth_z_is_relative_to_the_anchor(store, slots):
    oracle = Oracle(slots, relative=True)
    report = evaluate_forecast([oracle], store, depth=False)
    for setting in ("no_history", "history"):
        assert report["models"]["oracle"][setting]["metrics"]["top1_ade@32"] == pytest.approx(0, abs=1e-5)
        still = report["models"]["nothing-moves"][setting]["metrics"]["top1_ade@32"]
        assert still == pytest.approx(
            evaluate_forecast([], store)["models"]["nothing-moves"][setting]["metrics"]["top1_ade@32"]
        )


def test_without_depth_the_history_is_shown_with_its_motion_along_z(store, slots):
    oracle = Oracle(slots)
    evaluate_forecast([oracle], store, depth=False, history=(True,))
    assert any(np.isfinite(slot.observation.history_uvz).any() for slot in slots)
    for slot, (observation, _, _) in zip(slots, oracle.seen, strict=True):
        assert observation.keypoints_z_m is None
        past = slot.observation.history_uvz
        known = np.isfinite(past).all(-1)
        expected = past - slot.anchor_z_m[:, None, None] * np.array([0, 0, 1])
        np.testing.assert_allclose(observation.history_uvz[known], expected[known], atol=1e-6)
    shown = evaluate_forecast([], store, history=(True,))["models"]["constant-velocity"]["history"]["metrics"]
    hidden = evaluate_forecast([], store, history=(True,), depth=False)["models"]["constant-velocity"]["history"]
    assert hidden["metrics"]["top1_ade@32"] == pytest.approx(shown["top1_ade@32"], rel=1e-4)


def test_same_seed_same_report_other_seed_other_slots(store):
    def figures(**options):
        report = evaluate_forecast([], store, **options)
        for model in report["models"].values():
            for setting in ("no_history", "history"):
                del model[setting]["latency_s"]
        return json.dumps(report, sort_keys=True)

    assert figures(seed=1) == figures(seed=1)
    assert figures(seed=1) != figures(seed=2)


def test_groups_tasks_and_sizes(store, slots):
    report = evaluate_forecast([Oracle(slots)], store, held_out=("task 1",))
    found = report["models"]["nothing-moves"]["history"]
    assert set(found["by_task"]) == {"task 0", "task 1"}
    assert found["by_group"]["held_out"]["keypoints"] == found["by_task"]["task 1"]["keypoints"]
    assert sum(part["keypoints"] for part in found["by_group"].values()) == report["keypoints"]
    all_out = evaluate_forecast([], store, held_out=("task 0", "task 1"))["models"]["nothing-moves"]["history"]
    assert set(all_out["by_group"]) == {"held_out"}
    assert evaluate_forecast([], store, max_clips=2)["clips"] == 2
    assert evaluate_forecast([], store, max_windows=3)["windows"] == 3
    assert evaluate_forecast([], store, keypoints="all")["keypoints"] > report["keypoints"]
    few = evaluate_forecast([], store, max_keypoints=4, horizons=(4, 12))
    assert few["keypoints"] <= 40
    assert few["protocol"]["main"] == "topS_ade@12"


def test_both_clocks(store):
    report = evaluate_forecast([], store, clock="arc")
    assert report["protocol"]["step"] == 0.01
    assert report["models"]["nothing-moves"]["no_history"]["metrics"]["top1_ade@8"] > 0


def test_two_models_of_one_name_and_progress(store, slots):
    told = []
    report = evaluate_forecast(
        [Oracle(slots), Oracle(slots, share=0.0)], store, history=(True,), progress=lambda *now: told.append(now)
    )
    assert len(report["models"]) == 5
    assert told[-1][1:] == (10, 10)


def test_the_report_is_json_and_can_be_shown(store, slots):
    report = evaluate_forecast([Oracle(slots)], store)
    assert json.loads(json.dumps(report)) == report
    console = Console(file=io.StringIO(), width=200)
    console.print(forecast_tables(report))
    shown = console.file.getvalue()
    assert "oracle" in shown
    assert "task 1" in shown


def test_refusals(store, tmp_path):
    with pytest.raises(ConfigError, match="keypoints"):
        evaluate_forecast([], store, keypoints="some")
    writer = DatasetWriter(tmp_path / "bare", source="tests")
    writer.write_item("a", [make_clip()])
    writer.finalise()
    with pytest.raises(DatasetError, match="no window"):
        evaluate_forecast([], tmp_path / "bare")
