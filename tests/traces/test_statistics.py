from dataclasses import replace

import numpy as np
import pytest
from trace_clips import make_clip, picture, write_dataset

from traceworld.errors import DatasetError
from traceworld.traces.media import write_pictures
from traceworld.traces.statistics import LogHistogram, compute_statistics, default_statistics, stored_statistics
from traceworld.traces.store import open_dataset
from traceworld.traces.windows import WindowConfig, WindowSet, cut_window
from traceworld.traces.writer import DatasetWriter


@pytest.mark.parametrize("percent", [1, 50, 95, 99])
def test_histogram_percentiles_are_percentiles(percent):
    rng = np.random.default_rng(0)
    for values in (rng.lognormal(-2, 2, 20000), rng.uniform(0.01, 3, 20000), np.abs(rng.normal(size=20000)) + 1e-3):
        histogram = LogHistogram()
        for part in np.split(values, 8):
            histogram.add(part)
        assert abs(histogram.percentile(percent) / np.percentile(values, percent) - 1) < 0.02


def test_histograms_of_strange_values():
    histogram = LogHistogram()
    assert np.isnan(histogram.percentile(50))
    histogram.add(np.array([np.nan, np.inf]))
    assert np.isnan(histogram.percentile(50))
    histogram.add(np.zeros(10))
    assert histogram.percentile(95) == 0
    histogram.add(np.array([1e9]))
    assert histogram.percentile(100) == pytest.approx(1e4)
    weighted = LogHistogram()
    weighted.add(np.array([0.01]), 1.0)
    weighted.add(np.array([1.0]), 9.0)
    assert weighted.percentile(50) == pytest.approx(1.0, rel=0.01)


def by_hand(clips, config, moving_only=True):
    """Eq. 3 over every frame with a picture, with numpy's percentile."""
    moved = []
    for clip in clips:
        for frame in clip.media.frame_index:
            window = cut_window(clip, frame, config)
            for n in np.flatnonzero(window.usable()):
                if window.moving[n] or not moving_only:
                    moved.append(np.abs(window.future_uvz[n] - window.anchor_uvz[n])[window.future_valid[n]])
    return np.percentile(np.concatenate(moved), 95, axis=0)


@pytest.mark.parametrize("clock", ["time", "arc"])
@pytest.mark.parametrize("moving_only", [True, False])
def test_s_delta_is_equation_3(tmp_path, clock, moving_only):
    dataset = open_dataset(write_dataset(tmp_path / "d", clips=3, unknown=0.1))
    config = WindowConfig(clock=clock)
    record = compute_statistics(dataset, config, moving_only=moving_only)["windows"][0]
    np.testing.assert_allclose(record["s_delta"], by_hand(dataset, config, moving_only), rtol=0.02)
    assert record["config"] == {"history": 8, "horizon": 32, "clock": clock, "step": config.step}


def test_static_points_would_make_it_too_small(tmp_path):
    dataset = open_dataset(write_dataset(tmp_path / "d", clips=3))
    moving, everything = (
        compute_statistics(dataset, WindowConfig(), moving_only=m)["windows"][0] for m in (True, False)
    )
    assert (np.array(everything["s_delta"]) < 0.95 * np.array(moving["s_delta"])).all()


def test_finalise_stores_both_clocks(tmp_path):
    dataset = open_dataset(write_dataset(tmp_path / "d", clips=2))
    assert dataset.statistics == default_statistics(dataset)
    assert [record["config"]["clock"] for record in dataset.statistics["windows"]] == ["time", "arc"]
    assert stored_statistics(dataset, WindowConfig(max_keypoints=3))["config"]["clock"] == "time"
    assert stored_statistics(dataset, WindowConfig(step=0.1)) is None


def test_depth_range_of_pictures_else_of_keypoints(tmp_path):
    with_depth = open_dataset(write_dataset(tmp_path / "a", clips=2)).statistics["depth"]
    assert with_depth["source"] == "pictures"
    assert with_depth["p1_m"] == pytest.approx(1.0, rel=0.01)
    assert with_depth["p99_m"] == pytest.approx(1.5, rel=0.01)
    assert with_depth["log_max"] == pytest.approx(np.log(1.5), abs=0.01)
    dataset = open_dataset(write_dataset(tmp_path / "b", clips=2, depth=False))
    without = dataset.statistics["depth"]
    z = np.concatenate([clip.traces.xyz_world[..., 2].ravel() for clip in dataset])
    assert without["source"] == "keypoints"
    assert without["p1_m"] == pytest.approx(np.percentile(z, 1), rel=0.05)
    DatasetWriter(tmp_path / "c").finalise()
    assert open_dataset(tmp_path / "c").statistics["depth"]["source"] == "none"


def test_a_corpus_in_which_nothing_moves(tmp_path):
    writer = DatasetWriter(tmp_path / "d")
    still = make_clip(N=6)
    still = replace(still, traces=replace(still.traces, moving=np.zeros(6, bool)))
    media = write_pictures(tmp_path / "d/media/x", {10: picture(10)}, relative_to=tmp_path / "d")
    writer.write_item("x", [replace(still, media=media)])
    assert writer.finalise()["statistics"]["windows"][0]["s_delta"] is None
    with pytest.raises(DatasetError, match="no moving point"):
        WindowSet(tmp_path / "d").sample(0)
    assert WindowSet(tmp_path / "d", s_delta=[1, 1, 1]).sample(0)["present"].all()


def test_an_axis_without_motion_gets_a_usable_scale(tmp_path):
    flat = make_clip(N=6)
    xyz = flat.traces.xyz_world.copy()
    xyz[..., 2] = 1.0
    flat = replace(flat, traces=replace(flat.traces, xyz_world=xyz))
    scale = compute_statistics([flat], WindowConfig())["windows"][0]["s_delta"]
    assert scale[2] == max(scale[:2])


def test_mixtures_lie_between_their_parts(tmp_path):
    slow = write_dataset(tmp_path / "slow", clips=2, step_s=0.01)
    fast = write_dataset(tmp_path / "fast", clips=2, step_s=0.05)
    apart = [WindowSet(folder).s_delta for folder in (slow, fast)]
    mixed = WindowSet([slow, fast]).s_delta
    assert (np.minimum(*apart) <= mixed * 1.01).all()
    assert (mixed <= np.maximum(*apart) * 1.01).all()
    clocks = WindowSet(slow, [WindowConfig(), WindowConfig(clock="arc")], weights=[1, 0])
    np.testing.assert_allclose(clocks.s_delta, apart[0], rtol=0.02)


def test_of_a_large_corpus_a_spread_of_clips_is_read(tmp_path, monkeypatch):
    from traceworld.traces import statistics

    dataset = open_dataset(write_dataset(tmp_path / "c", clips=9, N=8))
    whole = default_statistics(dataset)
    assert whole["clips"] == 9
    monkeypatch.setattr(statistics, "CLIPS", 3)
    part = default_statistics(dataset)
    ids = sorted(dataset.clip_ids)
    by_id = [dataset.clip(ids[i]) for i in (0, 4, 8)]
    expected = compute_statistics(by_id, [WindowConfig(clock="time"), WindowConfig(clock="arc")])
    assert part == {**expected, "clips": 3}
    assert part != whole
