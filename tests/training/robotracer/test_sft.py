"""Fine-tuning through transformers' Trainer: what is trained, on what, and that a stopped run goes on as if it had not been."""

import dataclasses
import json

import blocks
import pytest
import torch

pytest.importorskip("accelerate", reason="the robotracer extra is not installed; `make test-robotracer`")
pytest.importorskip("transformers")

import robotracer_toys as toys
import short_toys
from safetensors.torch import load_file
from stopping import StopAt

from traceworld.errors import CheckpointError, ConfigError, NonFiniteLossError
from traceworld.models.robotracer.checkpoint import load_robotracer
from traceworld.training.robotracer.examples import Examples
from traceworld.training.robotracer.records import read_records
from traceworld.training.robotracer.sft import train_sft
from traceworld.training.robotracer.stages import SftConfig
from traceworld.training.robotracer.trained_weights import read_trained


class Seen(Examples):
    """Notes which example was asked for in which epoch."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.log = []

    def __getitem__(self, index):
        self.log.append((self.epoch, index))
        return super().__getitem__(index)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return read_records(blocks.write_file(tmp_path_factory.mktemp("blocks"), range(4)))


def config(stage="enhancement", **changes):
    return SftConfig(stage, **{"lr": 1e-3, "batch": 2, "max_steps": 4, "save_every": 2, "log_every": 1, **changes})


def run(records, out, options=None, callbacks=(), seed=0):
    """(result, examples, model) of a run from a fresh model."""
    model, processor = toys.make(seed=seed)
    examples = Seen(records, seed=3)
    return train_sft(model, processor, examples, options or config(), out, callbacks), examples, model


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def straight(records, tmp_path_factory):
    out = tmp_path_factory.mktemp("straight")
    return out, *run(records, out)


def test_a_run_leaves_log_checkpoints_and_a_model(straight):
    out, result, _, model = straight
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    for line in lines[:4]:
        assert line["loss"] == pytest.approx(line["ntp_loss"] + 0.1 * line["scale_loss"], rel=1e-5)
    assert (result.steps, result.examples, result.loss) == (4, 4, lines[3]["loss"])
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    loaded = load_robotracer(result.checkpoint)
    assert loaded.training["stage"] == "enhancement"
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_every_epoch_sees_every_example_with_new_draws(straight):
    _, _, examples, _ = straight
    assert sorted(examples.log) == [(epoch, index) for epoch in (0, 1) for index in range(4)]


def test_a_stopped_run_goes_on_as_if_it_had_not_been(straight, records, tmp_path):
    first, *_ = run(records, tmp_path, callbacks=[StopAt(2)])
    assert first.steps == 2
    result, examples, _ = run(records, tmp_path)
    assert result.steps == 4
    assert {epoch for epoch, _ in examples.log} == {1}
    assert weights(tmp_path).keys() == weights(straight[0]).keys()
    for name, tensor in weights(straight[0]).items():
        assert torch.equal(tensor, weights(tmp_path)[name]), name


def test_muon_in_half_precision_goes_on_as_if_it_had_not_been_stopped(records, tmp_path):
    options = config(optimizer="muon", precision="bf16")
    apart = [dataclasses.replace(record, turns=record.turns * 3, apart=True) for record in records]

    def trained(out, *callbacks):
        model, processor = short_toys.make()
        usual = model.vlm.config._attn_implementation
        train_sft(model, processor, Examples(apart, seed=3, most_apart=2), options, out, callbacks)
        assert model.vlm.config._attn_implementation == usual
        return model.state_dict()

    whole = trained(tmp_path / "whole")
    trained(tmp_path / "cut", StopAt(2))
    again = trained(tmp_path / "cut")
    for name, tensor in whole.items():
        assert torch.equal(tensor, again[name]), name


def test_a_run_is_not_continued_with_other_options(straight, records):
    with pytest.raises(ConfigError, match=r"lr: was 0\.001"):
        run(records, straight[0], config(lr=1e-2))


def test_alignment_trains_the_new_parts_and_leaves_the_base(records, tmp_path):
    before = {name: tensor.clone() for name, tensor in toys.make()[0].state_dict().items()}
    result, _, model = run(records, tmp_path, config("alignment", max_steps=1, warmup=0.0))
    changed = {
        name.split(".")[0] for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert "vlm" not in changed
    assert {"spatial_projector", "scale_projector", "scale_decoder"} <= changed
    stored = load_file(tmp_path / "checkpoint-1" / "model.safetensors")
    assert result.trained_parameters == sum(tensor.numel() for tensor in stored.values())
    assert not any(".vlm." in name for name in stored)


def test_without_weight_the_scale_is_not_learned(records, tmp_path):
    before = {name: tensor.clone() for name, tensor in toys.make()[0].state_dict().items()}
    _, _, model = run(records, tmp_path, config(max_steps=2, scale_loss_weight=0.0))
    decoder = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("scale_decoder")}
    assert all(torch.equal(tensor, before[name]) for name, tensor in decoder.items())


def test_accumulated_batches_are_averaged(records, tmp_path):
    losses = []
    for name, changes in (("one", {"batch": 4}), ("two", {"batch": 2, "grad_accumulation": 2})):
        run(records, tmp_path / name, config(max_steps=1, warmup=0.0, lr=1e-12, scale_loss_weight=0.0, **changes))
        first = json.loads((tmp_path / name / "log.jsonl").read_text().splitlines()[0])
        losses.append(first["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.02)  # means over words of batches of nearly equal length


def test_a_loss_that_is_not_finite_stops_the_run(records, tmp_path):
    model, processor = toys.make()
    with torch.no_grad():
        model.scale_decoder.layers[0].bias.fill_(float("nan"))
    with pytest.raises(NonFiniteLossError, match="step 1"):
        train_sft(model, processor, Examples(records), config(), tmp_path)


def test_checkpoints_of_other_parameters_are_refused(straight, records):
    model, _ = toys.make()
    model.trainable("alignment")
    with pytest.raises(CheckpointError, match="parameters differ"):
        read_trained(model, straight[0] / "checkpoint-4")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_trained(model, straight[0])
