"""benchmarks/tracegen.py at toy sizes: what it compares, and when it passes."""

import dataclasses
import json

import pytest
import torch
import tracegen
from large_run import tiny
from tracegen import Options, compare, decoder_verdict, padded_words, prediction_verdict, show
from tracegen_toys import REFERENCE, words

pytest.importorskip("transformers")
TOY = dataclasses.replace(REFERENCE, guidance=1.0)


def test_a_whole_comparison(capsys):
    options = Options(rounds=2, keypoints=3)
    found = compare(TOY, {"toy": tiny()}, options, words)
    assert 0 < found["decoder"]["apart"] < 1e-4  # ours and the plain one give the same, if not to the bit
    assert set(found["decoder"]["ratios"]) == {"plain", "plain, written out"}
    prediction = found["predictions"]["toy"]
    assert prediction["tracegen_s"] > 90 * found["medians_s"]["ours"]  # encoders and 100 evaluations
    report = {"size": "toy", "device": "cpu", "threads": 1, "precision": "fp32", "parameters": {"tracegen": 1}, **found}
    assert json.loads(json.dumps(report)) == report
    show(report)
    shown = capsys.readouterr().out
    assert "mu0:toy / TraceGen" in shown
    assert shown.count("pass") + shown.count("FAIL") == 3


def test_the_full_prediction_runs_every_evaluation(monkeypatch):
    evaluations = []
    opened = tracegen.open_gates

    def watched(decoder):
        opened(decoder)
        decoder.register_forward_pre_hook(lambda *_: evaluations.append(1))

    monkeypatch.setattr(tracegen, "open_gates", watched)
    compare(TOY, {}, Options(rounds=1, full=True), words)
    assert len(evaluations) == 2 * (1 + 100)  # a warm-up and a round: of one evaluation, of a whole prediction


@pytest.mark.parametrize(("ours", "ratio"), [([1.0, 1.0, 9.0], 1.0), ([1.3, 1.0, 1.3], 1.3 / 1.1)])
def test_the_decoder_passes_against_the_faster_plain_one(ours, ratio):
    """Medians of ratios within a round: one disturbed round does not count."""
    found = decoder_verdict({"ours": ours, "plain": [1.1, 1.0, 1.1], "plain, written out": [2.0, 2.0, 2.0]}, 0.0)
    assert found["ratios"]["plain"] == pytest.approx(ratio)
    assert found["passed"] is (ratio <= 1)


def test_a_quarter_is_the_limit():
    assert prediction_verdict([1.0, 1.0], [4.0, 4.0], full=True)["passed"]
    assert not prediction_verdict([1.1, 1.0], [4.0, 3.9], full=True)["passed"]
    assert prediction_verdict([3.0], [1.0], full=False)["ratio"] == 3.0


def test_words_are_padded_as_released():
    ids, mask = padded_words(["open", "close"])
    assert ids.shape == mask.shape == (2, 128)
    assert mask.sum(1).tolist() == [12, 12]
    assert torch.equal(ids[0], ids[1])
