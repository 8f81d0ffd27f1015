from dataclasses import replace

import numpy as np
import pytest
from trace_clips import EVENTS, make_clip

from traceworld.errors import InvalidInputError
from traceworld.geometry.bspline import decode
from traceworld.traces.batching import (
    NO_INSTRUCTION,
    choose_instruction,
    choose_keypoints,
    collate,
    drop_history,
    point_fields,
    resize_depth,
    resize_picture,
)
from traceworld.traces.cutting import WindowConfig, cut_window

S_DELTA = np.array([0.2, 0.1, 0.05], np.float32)


def window_of(N=40, **options):
    return cut_window(make_clip(N=N, occluded=0, **options), 20, WindowConfig())


def draws(window, config, count=400):
    return [choose_keypoints(window, config, np.random.default_rng(i)) for i in range(count)]


# --- which keypoints --------------------------------------------------------------------------------------------------


def test_the_number_of_keypoints_is_uniform():
    window = window_of(N=40)
    sizes = np.array([len(d) for d in draws(window, WindowConfig(min_keypoints=3, max_keypoints=12), 3000)])
    assert sizes.min() == 3
    assert sizes.max() == 12
    counts = np.bincount(sizes)[3:]
    assert np.abs(counts - 300).max() < 5 * np.sqrt(300)
    all_there_is = [len(d) for d in draws(window, WindowConfig(max_keypoints=256), 600)]
    assert (min(all_there_is), max(all_there_is)) == (1, int(window.eligible.sum()))


def test_no_keypoint_twice_and_only_usable_ones():
    window = window_of(N=40, unknown=0.3)
    config = WindowConfig(max_keypoints=40, min_valid_steps=20)
    usable = set(np.flatnonzero(window.usable(20)))
    assert 0 < len(usable) < 40
    for chosen in draws(window, config):
        assert len(set(chosen)) == len(chosen)
        assert set(chosen) <= usable


def test_moving_points_are_preferred_by_the_share_asked_for():
    window = window_of(N=200)
    for share in (0.0, 0.5, 0.8, 1.0):
        config = WindowConfig(min_keypoints=20, max_keypoints=20, moving_share=share)
        moving = np.mean([window.moving[d].mean() for d in draws(window, config, 200)])
        assert abs(moving - share) < 0.03


def test_one_kind_fills_up_for_the_other():
    window = window_of(N=20)
    count = int(window.eligible.sum())
    config = WindowConfig(min_keypoints=count, max_keypoints=count, moving_share=1.0)
    assert all(len(d) == count for d in draws(window, config, 20))
    only_still = replace(window, moving=np.zeros(20, bool))
    assert all(len(d) == count for d in draws(only_still, config, 20))


def test_small_parts_are_not_starved():
    window = window_of(N=100)
    part = np.zeros(100, np.int32)
    part[:4] = 1  # 4 of 50 moving points
    window = replace(window, part_id=part, eligible=np.ones(100, bool))
    config = WindowConfig(min_keypoints=4, max_keypoints=4, moving_share=1.0)
    small = np.mean([np.isin(d, np.arange(4)).sum() for d in draws(window, config, 500)])
    by_area = np.mean(
        [np.isin(d, np.arange(4)).sum() for d in draws(window, replace(config, part_balanced=False), 500)]
    )
    assert abs(by_area - 4 * 4 / 50) < 0.1
    assert small > 1.3


def test_the_order_is_random():
    window = window_of(N=40)
    first = [d[0] for d in draws(window, WindowConfig(min_keypoints=10, max_keypoints=10, moving_share=0.5))]
    assert 0.4 < window.moving[first].mean() < 0.6


def test_nothing_usable_nothing_chosen():
    assert len(choose_keypoints(window_of(N=0), WindowConfig(), np.random.default_rng(0))) == 0


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_dropout_frequencies_of_appendix_C():
    rng, config, valid = np.random.default_rng(0), WindowConfig(), np.ones((50, 8), bool)
    shown = np.array([drop_history(valid, config, rng)[:, 0] for _ in range(4000)])
    none = ~shown.any(1)
    assert abs(none.mean() - 0.2) < 0.03
    assert abs(shown[~none].mean() - 0.7) < 0.01
    one = drop_history(valid, replace(config, history_drop_all=0.0, history_drop_each=0.5), rng)
    assert (one.all(1) | ~one.any(1)).all()  # a keypoint's history as a whole
    hidden = np.zeros((50, 8), bool)
    assert not drop_history(hidden, config, rng).any()


def test_instructions_are_captions_that_cover_the_frame_or_the_task():
    clip = make_clip(events=EVENTS, task="the task")
    rng = np.random.default_rng(0)
    assert {choose_instruction(clip, 5, rng) for _ in range(60)} == {"reach", "do it", "the task"}
    assert {choose_instruction(clip, 20, rng) for _ in range(60)} == {"push", "do it", "the task"}
    assert choose_instruction(clip, 5, None) == "the task"
    assert choose_instruction(replace(clip, task=" "), 5, None) == "reach"
    assert choose_instruction(make_clip(), 5, rng) == choose_instruction(make_clip(), 5, None) == NO_INSTRUCTION


# --- targets ----------------------------------------------------------------------------------------------------------


def fields_of(window, keypoints, z_known=True, **config):
    return point_fields(
        window,
        keypoints,
        WindowConfig(**config),
        S_DELTA,
        history_valid=window.history_valid[keypoints],
        z_known=z_known,
    )


def test_equations_3_and_4():
    window = window_of(N=12, unknown=0.15)
    keypoints = np.flatnonzero(window.eligible)
    fields = fields_of(window, keypoints)
    anchor = window.anchor_uvz[keypoints]
    for n in range(len(keypoints)):
        for k in range(32):
            expected = (window.future_uvz[keypoints[n], k] - anchor[n]) / S_DELTA
            if not window.future_valid[keypoints[n], k]:
                expected = np.zeros(3)
            np.testing.assert_allclose(fields["future"][n, k], expected, atol=1e-6)
        for k in range(8):
            expected = window.history_uvz[keypoints[n], k] - anchor[n]
            if not window.history_valid[keypoints[n], k]:
                expected = np.zeros(3)
            np.testing.assert_allclose(fields["history"][n, k], expected, atol=1e-6)
    decoded = decode(fields["controls"])
    good = fields["future_valid"] & fields["controls_usable"][:, None] & (np.abs(fields["future"]) < 1.4).all(-1)
    assert np.abs(decoded - fields["future"])[good].mean() < 0.03
    assert all(np.isfinite(value).all() for value in fields.values())


def test_unknown_z_is_not_shown_but_still_taught():
    window = window_of(N=12)
    keypoints = np.flatnonzero(window.eligible)
    known, unknown = fields_of(window, keypoints), fields_of(window, keypoints, z_known=False)
    assert (unknown["anchor_uvz"][:, 2] == 0).all()
    assert not unknown["anchor_z_known"].any()
    assert known["anchor_z_known"].all()
    np.testing.assert_array_equal(known["anchor_uvz"][:, :2], unknown["anchor_uvz"][:, :2])
    np.testing.assert_array_equal(known["future"], unknown["future"])
    np.testing.assert_array_equal(window.anchor_uvz[keypoints, 2], known["anchor_uvz"][:, 2])


def test_permuting_keypoints_permutes_every_field():
    window = window_of(N=20, unknown=0.2)
    keypoints = np.flatnonzero(window.eligible)
    order = np.random.default_rng(0).permutation(len(keypoints))
    straight, shuffled = fields_of(window, keypoints), fields_of(window, keypoints[order])
    for name, value in straight.items():
        np.testing.assert_allclose(value[order], shuffled[name], atol=1e-6, err_msg=name)


def test_too_short_futures_are_not_usable():
    clip = make_clip(T=29, occluded=0)
    window = cut_window(clip, 20, WindowConfig())
    fields = fields_of(window, np.flatnonzero(window.eligible))
    assert fields["future_valid"].sum(1).max() == 8
    assert not fields["controls_usable"].any()
    assert fields_of(window, np.flatnonzero(window.eligible), num_controls=5)["controls_usable"].all()


# --- pictures and batches ---------------------------------------------------------------------------------------------


def test_resizing_keeps_uv_and_does_not_mix_depths():
    image = np.zeros((48, 64, 3), np.uint8)
    image[:, 32:] = 200
    small = resize_picture(image, (16, 12))
    assert small.shape == (12, 16, 3)
    assert (small[:, :8] == 0).all()
    assert (small[:, 8:] == 200).all()
    depth = np.where(image[..., 0] > 0, np.float32(3), np.float32(1))
    depth[0, 0] = np.nan
    assert set(np.unique(resize_depth(depth, (20, 15)))[:2]) == {1, 3}
    assert resize_picture(image, (64, 48)) is image


def sample(n, size=(4, 3)):
    rng = np.random.default_rng(n)
    window = window_of(N=40)
    keypoints = rng.choice(np.flatnonzero(window.eligible), n, replace=False)
    return {
        "image": np.full((*size, 3), n, np.uint8),
        "depth_present": np.bool_(n % 2),
        "instruction": f"number {n}",
        "clock": np.int64(1),
        **fields_of(window, keypoints),
    }


def test_part_ids_may_be_any_numbers():
    """What parts are called does not change what is drawn, and huge numbers do not cost memory."""
    window = window_of(N=40)
    config = WindowConfig(max_keypoints=12)
    renamed = replace(window, part_id=window.part_id * 700_000_000 + 3)
    for first, second in zip(draws(window, config, 50), draws(renamed, config, 50), strict=True):
        np.testing.assert_array_equal(first, second)


def test_collate_pads_to_the_largest():
    samples = [sample(n) for n in (3, 7, 1)]
    batch = collate(samples)
    assert batch["image"].shape == (3, 4, 3, 3)
    assert batch["instruction"] == ["number 3", "number 7", "number 1"]
    assert batch["depth_present"].tolist() == [True, True, True]
    assert batch["present"].sum(1).tolist() == [3, 7, 1]
    assert batch["controls"].shape == (3, 7, 10, 3)
    assert (batch["part_id"][2, 1:] == -1).all()
    for row, one in enumerate(samples):
        n = len(one["present"])
        for name in ("anchor_uvz", "history", "future", "future_valid", "controls", "controls_usable", "moving"):
            np.testing.assert_array_equal(batch[name][row, :n], one[name])
            assert not batch[name][row, n:].any()
            assert batch[name].dtype == one[name].dtype


def test_collate_refuses_what_does_not_fit():
    with pytest.raises(InvalidInputError, match=r"collate\.image.*image_size"):
        collate([sample(2), sample(2, (5, 3))])
    with pytest.raises(InvalidInputError, match="no samples"):
        collate([])
