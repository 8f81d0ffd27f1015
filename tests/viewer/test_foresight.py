"""What predictors are asked and how they are scored: checked with predictors whose errors are known."""

import dataclasses

import numpy as np
import pytest
import viewer_scenes as made

from traceworld.errors import ExtractionError
from traceworld.models.baselines import NothingMoves
from traceworld.traces.types import TracePrediction, Traces
from traceworld.viewer import foresight


class Oracle:
    """Says what happens, shifted by so much per sample (uvz)."""

    def __init__(self, question, shifts, name="oracle"):
        self.name, self.question, self.shifts = name, question, shifts

    def predict(self, observation, num_samples=1, seed=0):
        true = np.where(self.question.true_valid[..., None], self.question.true_uvz, self.question.anchor_uvz[:, None])
        uvz = np.stack([true + np.array(shift) for shift in self.shifts[:num_samples]]).astype(np.float32)
        return TracePrediction(uvz, np.ones(uvz.shape[:3], bool), step=observation.step)


def question(frame=0, with_history=False, **changes):
    clip = made.clip_of()
    return clip, foresight.ask(
        clip, frame, made.picture(), made.depth(), "slide the box", with_history=with_history, **changes
    )


def test_the_future_is_the_clips_own_at_the_horizons_steps_between_its_frames():
    clip, asked = question()
    # frames are 50 ms apart, steps 25 ms: every second step is a frame, the others lie half way
    start = clip.traces.xyz_world[0, 0].astype(float)
    for step in (1, 2, 7, 32):
        share = step * 0.025 / (39 * 0.05)
        xyz = start + share * np.array([0.4, 0.0, 0.05])
        uv = (made.pixels(xyz) + 0.5) / [160, 120] * 2 - 1
        np.testing.assert_allclose(asked.true_uvz[0, step - 1], [*uv, xyz[2]], atol=1e-5)
    assert asked.true_valid.all()
    assert asked.scored.sum() == 6
    assert not asked.has_history
    assert asked.observation.history_uvz is None
    np.testing.assert_allclose(asked.observation.keypoints_uv, asked.anchor_uvz[:, :2])
    np.testing.assert_allclose(asked.observation.keypoints_z_m[:6], 1.0, atol=1e-5)


def test_history_is_where_the_points_were_oldest_first():
    clip, asked = question(frame=20, with_history=True)
    assert asked.has_history
    history = asked.observation.history_uvz
    seen = asked.points.tolist().index(3)
    for back in (1, 2, 8):
        share = (20 * 0.05 - back * 0.025) / (39 * 0.05)
        xyz = clip.traces.xyz_world[0, 3].astype(float) + share * np.array([0.4, 0, 0.05])
        np.testing.assert_allclose(history[seen, -back, 2], xyz[2], atol=1e-5)
        np.testing.assert_allclose(history[seen, -back, 0], (made.pixels(xyz)[0] + 0.5) / 80 - 1, atol=1e-5)
    assert 0 not in asked.points  # it is hidden by now


def test_what_lies_past_the_end_of_the_clip_is_unknown_not_invented():
    _, asked = question(frame=36)
    assert asked.true_valid[:, :6].all()
    assert not asked.true_valid[:, 6:].any()
    _, last = question(frame=39)
    assert not last.scored.any()
    given = foresight.answer(last, Oracle(last, [(0, 0, 0)]), made.clip_of(), samples=1, seed=0)
    assert given.scores == {}
    assert foresight.summary(last, [given])["scores"] == {"oracle": {}}


def test_scores_of_known_errors():
    clip, asked = question()
    shifts = [(0.3, 0.0, 0.0), (0.0, 0.4, 0.0), (0.0, 0.0, 0.1)]
    given = foresight.answer(asked, Oracle(asked, shifts), clip, samples=3, seed=0)
    assert given.scores["top1_ade@32"] == pytest.approx(0.3, abs=1e-5)
    assert given.scores["topS_ade@8"] == pytest.approx(0.1, abs=1e-5)
    # 0.3 in u is 24 px; at depth z that is 24 z / 140 metres, with z from 1 m on
    share = np.arange(1, 33) * 0.025 / (39 * 0.05)
    by_hand = (24 * (1 + 0.05 * share) / 140 * 100).mean()
    assert given.scores["top1_ade_cm@32"] == pytest.approx(by_hand, rel=1e-4)
    assert given.curve_cm["first sample"][0] == 0.0
    assert given.curve_cm["first sample"][32] == pytest.approx(24 * (1 + 0.05 * share[-1]) / 140 * 100, rel=1e-4)
    assert given.curve_cm["best sample"][5] == pytest.approx(np.mean(_depth_errors(asked)), rel=0.02)


def _depth_errors(asked):
    """10 cm along the axis, and as much sideways as the ray leans."""
    x = (asked.true_uvz[:6, 4, 0] + 1) * 80 - 0.5 - 79.5
    y = (asked.true_uvz[:6, 4, 1] + 1) * 60 - 0.5 - 59.5
    return 10 * np.sqrt(1 + (x / 140) ** 2 + (y / 140) ** 2)


def test_a_clip_without_scale_has_no_centimetres():
    clip, asked = question()
    free = dataclasses.replace(clip, metric=False)
    given = foresight.answer(asked, Oracle(asked, [(0.1, 0, 0)]), free, samples=1, seed=0)
    assert not [key for key in given.scores if "cm" in key]
    assert given.curve_cm == {}


def test_a_clip_without_scale_is_asked_about_without_depth():
    clip = made.clip_of()
    asked = foresight.ask(
        dataclasses.replace(clip, metric=False), 20, made.picture(), np.ones((120, 160), np.float32), "slide",
        with_history=True,
    )  # fmt: skip
    assert asked.observation.depth_m is None
    assert asked.observation.keypoints_z_m is None
    full = foresight.ask(clip, 20, made.picture(), None, "slide", with_history=True)
    past = full.observation.history_uvz - full.anchor_uvz[:, None] * [0, 0, 1]
    np.testing.assert_allclose(asked.observation.history_uvz, past, atol=1e-6)
    for which in (asked, full):
        given = foresight.answer(which, NothingMoves(), clip, samples=1, seed=0)
        np.testing.assert_allclose(given.prediction.uvz[0, :, 0], which.anchor_uvz, atol=1e-5)


def test_moving_points_are_kept_when_there_are_too_many():
    _, asked = question(max_points=8)
    assert asked.moving.sum() == 6
    assert len(asked.points) == 8
    assert (np.diff(asked.points) > 0).all()


def test_a_frame_where_nothing_is_seen_is_refused():
    clip = made.clip_of()
    traces = clip.traces
    blind = Traces(
        traces.xyz_world, np.zeros_like(traces.visible), traces.valid, traces.part_id, traces.moving, traces.query_frame
    )  # fmt: skip
    with pytest.raises(ExtractionError, match="frame 0"):
        foresight.ask(dataclasses.replace(clip, traces=blind), 0, made.picture(), None, "slide", with_history=False)


def test_the_fan_for_the_3d_view_is_the_prediction_in_metres():
    clip, asked = question()
    given = foresight.answer(asked, Oracle(asked, [(0, 0, 0)]), clip, samples=1, seed=0)
    drawn = foresight.as_forecast(asked, given, clip, name="o", max_points=4)
    assert drawn.xyz_world.shape == (1, 4, 32, 3)
    np.testing.assert_allclose(drawn.xyz_world[0], drawn.true_xyz, atol=1e-5)
    np.testing.assert_allclose(drawn.xyz_world[0, 0, 31], clip.traces.xyz_world[16, 0], atol=1e-5)
