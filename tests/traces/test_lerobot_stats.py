"""Statistics against numpy, and merging against statistics of everything together."""

import numpy as np
import pytest

from traceworld.traces.lerobot.stats import column_stats, merge_stats, picture_stats, sampled_frames, thinned


def test_column_statistics_are_numpy_s():
    values = np.random.default_rng(0).normal(size=(4000, 3)).astype(np.float32)
    stats = column_stats(values)
    for name, wanted in {
        "min": values.min(0),
        "max": values.max(0),
        "mean": values.mean(0),
        "std": values.std(0),
    }.items():
        np.testing.assert_allclose(stats[name], wanted, rtol=1e-4, atol=1e-6)
    for name, share in {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}.items():
        np.testing.assert_allclose(stats[name], np.quantile(values, share, axis=0), atol=0.08)
    assert stats["count"].tolist() == [4000]


@pytest.mark.parametrize("values", [np.full(9, 2.5), np.array([3.0]), np.zeros(5, bool), np.arange(4)])
def test_degenerate_columns(values):
    stats = column_stats(values)
    assert all(value.shape == (1,) and np.isfinite(value).all() for value in stats.values())
    assert stats["q50"][0] <= values.max()
    if values.min() == values.max():
        assert stats["q01"] == stats["q99"] == values[0]
        assert stats["std"] == 0


def test_merging_equals_statistics_of_everything():
    rng = np.random.default_rng(1)
    parts = [rng.normal(loc, 1 + loc, size=(n, 2)) for loc, n in ((0, 50), (3, 400), (1, 7))]
    merged = merge_stats([{"a": column_stats(part)} for part in parts])["a"]
    whole = column_stats(np.concatenate(parts))
    for name in ("min", "max", "mean", "std", "count"):
        np.testing.assert_allclose(merged[name], whole[name])
    weights = np.array([50, 400, 7]) / 457
    wanted = sum(w * column_stats(part)["q90"] for w, part in zip(weights, parts, strict=True))
    np.testing.assert_allclose(merged["q90"], wanted)


def test_merging_keeps_features_that_only_some_episodes_have():
    merged = merge_stats([{"a": column_stats(np.arange(3.0))}, {"b": column_stats(np.arange(5.0))}])
    assert merged["a"]["count"] == 3
    assert merged["b"]["max"] == 4


def test_picture_statistics_are_per_channel_and_scaled():
    samples = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), np.uint8)
    stats = picture_stats(samples)
    np.testing.assert_allclose(stats["mean"][:, 0, 0], samples.reshape(-1, 3).mean(0) / 255)
    assert stats["max"].shape == (3, 1, 1)
    assert stats["max"].max() <= 1
    assert stats["count"] == 5


def test_sampling_of_frames_and_pixels():
    assert sampled_frames(7).tolist() == list(range(7))
    assert len(sampled_frames(500)) == 105  # 500^0.75
    assert (sampled_frames(500)[0], sampled_frames(500)[-1]) == (0, 499)
    assert thinned(np.zeros((200, 299, 3))).shape == (200, 299, 3)
    assert thinned(np.zeros((480, 640, 3))).shape == (120, 160, 3)
