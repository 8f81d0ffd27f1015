"""benchmarks/predict.py at toy sizes: its counts against counts of real runs, its tables, its JSON."""

import json
import time

import predict
import pytest
import torch
from large_run import tiny
from predict import Options, counted_row, main, measured_cells, wasted_report
from roofline import Device, count_work
from subjects import config_of, count_stages, observation, predictor
from torch.nn.attention import SDPBackend, sdpa_kernel
from tracegen_toys import HUB, NANO, words

from traceworld.errors import ConfigError
from traceworld.models.mu0.sizes import mu0_config

DEVICE = Device("toy", 1e9, 1e8, "stated")
STATED = {"peak_tflops": 0.01, "bandwidth_gbs": 1.0}


def run_counted(subject, asked, samples):
    """FLOPs of a prediction that really runs; torch's counter does not know the CPU's fused attention."""
    _, batch = subject._batch(asked)
    with sdpa_kernel(SDPBackend.MATH):
        return count_work(lambda: subject.model.sample(batch, samples, torch.Generator().manual_seed(0)))[0].flops


@pytest.mark.parametrize(("config", "read"), [(tiny(), None), (HUB, words), (NANO, None)], ids=["mu0", "hub", "nano"])
@pytest.mark.parametrize("depth", [True, False])
def test_counts_are_those_of_a_real_run(config, read, depth):
    """Stages counted without running them, against one whole `sample` on the CPU."""
    pytest.importorskip("transformers")
    given = {} if read is None else {"read": read}
    asked = observation(3, depth=depth, history=depth)
    for samples in (1, 3):
        stages = count_stages(config, asked, samples, **given)
        assert stages.times == config.euler_steps
        real = run_counted(predictor(config, **given), asked, samples)
        assert stages.total.flops == pytest.approx(real, rel=0.01)


def test_samples_share_the_prefix():
    config, asked = config_of("nano"), observation(16)
    one, five = (count_stages(config, asked, samples) for samples in (1, 5))
    assert one.prefix == five.prefix
    assert five.denoise.flops == 5 * one.denoise.flops
    assert one.denoise.numbers < five.denoise.numbers < 5 * one.denoise.numbers  # weights are read once for all


def test_weights_count_once_for_each_use():
    """Bytes are at least those of the weights: prefix and tokens once, the expert's in each of the four steps."""
    config = config_of("nano")
    row = counted_row(config, 16, 1, Options(), DEVICE)
    model = predictor(config, "meta").model
    expert = sum(p.numel() for layer in model.expert.layers for p in layer.parameters())
    prefix = sum(p.numel() for name, p in model.prefix.named_parameters() if "embedding" not in name)
    assert 4 * (4 * expert + prefix) < row["bytes"] < 4 * 6 * (4 * expert + prefix)
    half = counted_row(config, 16, 1, Options(precision="bf16"), DEVICE)
    assert half["bytes"] == row["bytes"] / 2
    assert half["flops"] == row["flops"]


def test_the_roofline_is_the_sum_of_stages():
    stages = count_stages(config_of("nano"), observation(16), 1)
    row = counted_row(config_of("nano"), 16, 1, Options(), DEVICE)
    parts = [(work.flops / 1e9, 4 * work.numbers / 1e8) for work in (stages.prefix, stages.denoise)]
    assert row["roofline_ms"] == pytest.approx(1e3 * (max(parts[0]) + 4 * max(parts[1])))


def test_a_report_of_nano(capsys):
    options = Options(keypoints=(2, 3), samples=(1, 2), repeats=1, json=True, **STATED)
    report = main(options)
    assert json.loads(capsys.readouterr().out) == report
    assert report["device"]["flops_per_s"] == 1e10
    (entry,) = report["sizes"]
    assert [(row["keypoints"], row["samples"]) for row in entry["rows"]] == [(2, 1), (2, 2), (3, 1), (3, 2)]
    for row in entry["rows"]:
        assert row["measured_over_roofline"] == pytest.approx(row["measured_ms"] / row["roofline_ms"])
        assert 0 < row["stages_ms"]["denoise"] < row["stages_ms"]["total"]
    assert entry["rows"][0]["over_first_s"] == 1.0
    assert entry["parameters"]["total"] == entry["parameters"]["trainable"] > 1e6


def test_tables_of_counted_sizes(capsys):
    main(Options(size=("nano", "tracegen:nano"), keypoints=(16,), measure=False, **STATED))
    shown = capsys.readouterr().out
    assert "tracegen:nano" in shown
    assert "GFLOP" in shown
    assert "measured" not in shown


def test_measured_time_is_that_of_whole_predictions():
    class Sleeper:
        def predict(self, asked, samples):
            time.sleep(0.01 * samples)
            return type("P", (), {"timing": {"total": 0.01 * samples}})

    one, three = measured_cells(Sleeper(), 4, Options(samples=(1, 3), repeats=2))
    assert one["measured_ms"] >= 10
    assert three["measured_ms"] >= 30
    assert (one["rounds"], three["stages_ms"]["total"]) == (2, 30.0)


def test_the_wasted_report_compares_equal_results(monkeypatch):
    pytest.importorskip("transformers")
    from traceworld.models.mu0.official.switches import official_config

    monkeypatch.setattr(predict, "config_of", lambda size: official_config(tiny()))
    monkeypatch.setattr(predict, "released_words", lambda prompts: words_of(prompts))
    report = wasted_report("large", Options(samples=(1, 3), repeats=1))
    for row in report["rows"]:
        assert row["flops_ratio"] > 1
        assert row["apart"] < 1e-4
        assert row["time_ratio"] == pytest.approx(row["released_ms"] / row["our_ms"])
    assert report["rows"][1]["flops_ratio"] > report["rows"][0]["flops_ratio"]


def words_of(prompts):
    ids = torch.arange(1, 13).expand(len(prompts), -1)
    return ids, torch.ones_like(ids, dtype=torch.bool)


def test_half_precision_runs():
    config = config_of("nano")
    subject = predictor(config, precision="bf16")
    assert {p.dtype for p in subject.model.parameters()} == {torch.bfloat16}
    assert subject.model.s_delta.dtype == torch.float32
    (row,) = measured_cells(subject, 4, Options(samples=(1,), repeats=1, precision="bf16"))
    assert row["measured_ms"] > 0


def test_names_of_sizes():
    assert config_of("mu0:small") == config_of("small") == mu0_config("small")
    assert config_of("tracegen:6x12").decoder.layers == 6
    with pytest.raises(ConfigError, match="did you mean"):
        config_of("tracegen:6x13")
