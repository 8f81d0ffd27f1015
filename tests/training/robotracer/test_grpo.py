"""Reinforcement through TRL: both passes see one input, rewards arrive with their weights, and a stopped run goes on."""

import json

import blocks
import pytest
import torch

pytest.importorskip("trl", reason="the robotracer extra is not installed; `make test-robotracer`")
pytest.importorskip("peft", reason="the robotracer extra is not installed; `make test-robotracer`")

import robotracer_toys as toys
from safetensors.torch import load_file
from stopping import StopAt

from traceworld.errors import DatasetError
from traceworld.models.robotracer.checkpoint import load_robotracer
from traceworld.models.robotracer.model import RoboTracer
from traceworld.training.robotracer.examples import Examples
from traceworld.training.robotracer.records import read_records
from traceworld.training.robotracer.rewards import NAMES, RewardConfig
from traceworld.training.robotracer.rft import reward_functions, train_rft
from traceworld.training.robotracer.rft_config import LoraOptions, RftConfig

LORA = LoraOptions(rank=2, alpha=4, targets=r".*(?:language_model|text_model)\..*\.(?:q|v)_proj")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return read_records(blocks.write_file(tmp_path_factory.mktemp("blocks"), range(4)))


def config(**changes):
    """Letters are rewarded (see `letters`), so that a random model has groups of unequal rewards."""
    base = {"samples": 2, "batch": 4, "max_steps": 2, "lr": 1e-2, "max_new_tokens": 6, "save_every": 1}
    return RftConfig(**{**base, **changes})


@pytest.fixture(autouse=True)
def letters(monkeypatch):
    """Reward by the bytes of an answer in place of its meaning: a random model never says a trace."""

    def functions(truth, config):
        def named(name):
            def function(completions, index, **_):
                return [
                    (hash_of(name, text) + int(truth(i).size_px[0] == 0))
                    for text, i in zip(completions, index, strict=True)
                ]

            function.__name__ = name
            return function

        return [named(name) for name in NAMES]

    monkeypatch.setattr("traceworld.training.robotracer.rft.reward_functions", functions)


def hash_of(name, text):
    return sum(map(ord, name + text)) % 7 / 7


class Passes:
    """What the model was given in each pass, as bytes per row."""

    def __init__(self, monkeypatch):
        self.generated, self.scored = [], []
        forward, generate = RoboTracer.forward, RoboTracer.generate

        def watched_generate(model, **batch):
            self.generated += rows_of(batch)
            return generate(model, **batch)

        def watched_forward(model, *args, **batch):
            self.scored.append(rows_of(batch))
            return forward(model, *args, **batch)

        monkeypatch.setattr(RoboTracer, "generate", watched_generate)
        monkeypatch.setattr(RoboTracer, "forward", watched_forward)


def rows_of(batch):
    """Everything but the answer, row by row."""
    geometry, grid = batch["geometry"], batch["image_grid_thw"].prod(-1).tolist()
    pixels = batch["pixel_values"].split(grid)
    rows = []
    for row in range(len(batch["input_ids"])):
        one = geometry.select(torch.tensor([row]))
        parts = [one.image, pixels[row]]
        for name in ("intrinsics", "depth_m", "poses"):
            there = bool(one.present(name))
            parts += [torch.tensor(there)] + ([getattr(one, name)] if there else [])
        rows.append(b"".join(part.detach().cpu().contiguous().numpy().tobytes() for part in parts))
    return rows


def test_generation_and_scoring_see_the_same_input(records, tmp_path, monkeypatch):
    passes = Passes(monkeypatch)
    model, processor = toys.make()
    train_rft(model, processor, Examples(records, drop=0.5, seed=1), config(max_steps=1), tmp_path)
    assert len(passes.generated) == 4  # two questions, two answers each
    assert len(set(passes.generated)) == 2
    reference, trained = passes.scored
    assert reference == passes.generated
    assert sorted(trained) == sorted(passes.generated)  # shuffled by TRL


def test_full_training_changes_the_model_and_measures_from_where_it_began(records, tmp_path):
    model, processor = toys.make()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = train_rft(model, processor, Examples(records), config(), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert lines[1]["kl"] > 1e-6
    assert any(line.get("grad_norm", 0) > 0 for line in lines)
    changed = {
        name.split(".")[0] for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert {"vlm", "spatial_encoder", "spatial_projector"} <= changed
    assert result.steps == 2
    total = sum(w * result.rewards[name] for w, name in zip(config().reward_weights, NAMES, strict=True))
    assert result.reward == pytest.approx(total, rel=1e-4)
    loaded = load_robotracer(result.checkpoint)
    assert loaded.training["method"] == "rft"
    assert torch.equal(loaded.model.vlm.lm_head.weight, model.vlm.lm_head.weight)


def test_a_simple_reward_is_climbed(records, tmp_path, monkeypatch):
    """Share of an answer's bytes that are small letters, about a tenth at the start."""

    def functions(truth, config):
        def share(completions, **_):
            return [sum("a" <= letter <= "z" for letter in text) / 6 for text in completions]

        named = [lambda completions, **_: [0.0] * len(completions) for _ in NAMES]
        for function, name in zip(named, NAMES, strict=True):
            function.__name__ = name
        share.__name__ = NAMES[0]
        return [share, *named[1:]]

    monkeypatch.setattr("traceworld.training.robotracer.rft.reward_functions", functions)
    model, processor = toys.make()
    options = config(samples=8, batch=16, max_steps=25, save_every=25, schedule="constant")
    train_rft(model, processor, Examples(records), options, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    rewards = [line["reward"] for line in lines if "reward" in line]
    assert sum(rewards[-3:]) > 2 * sum(rewards[:3]) > 0, rewards


def test_without_beta_no_reference_is_kept(records, tmp_path, monkeypatch):
    passes = Passes(monkeypatch)
    model, processor = toys.make()
    result = train_rft(model, processor, Examples(records), config(beta=0.0, max_steps=1), tmp_path)
    assert len(passes.scored) == 1
    assert result.kl is None


def test_adapters_alone_are_trained_and_merged_in_the_end(records, tmp_path):
    model, processor = toys.make()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = train_rft(model, processor, Examples(records), config(lora=LORA), tmp_path)
    after = model.state_dict()
    assert after.keys() == before.keys()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed
    assert all(name.endswith(("q_proj.weight", "v_proj.weight")) and "visual" not in name for name in changed)
    stored = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert all("lora_" in name for name in stored)
    assert result.trained_parameters == sum(tensor.numel() for tensor in stored.values())
    assert result.kl > 1e-9
    loaded = load_robotracer(result.checkpoint).model.state_dict()
    assert all(torch.equal(loaded[name], after[name]) for name in changed)


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(records, tmp_path, lora):
    for out, stops in (("once", (None,)), ("twice", (1, None))):
        for stop in stops:
            model, processor = toys.make()
            callbacks = [] if stop is None else [StopAt(stop)]
            train_rft(model, processor, Examples(records), config(lora=lora), tmp_path / out, callbacks)
    once, twice = (load_file(tmp_path / out / "model" / "model.safetensors") for out in ("once", "twice"))
    assert once.keys() == twice.keys()
    for name, tensor in once.items():
        assert torch.equal(tensor, twice[name]), name


def test_a_question_without_a_truth_stops_the_run_at_once(tmp_path):
    file = blocks.write_file(tmp_path / "blocks", [0])
    (entry,) = json.loads(file.read_text())
    entry["conversations"][1]["value"] = "I do not know."
    file.write_text(json.dumps([entry]))
    model, processor = toys.make()
    with pytest.raises(DatasetError, match="no trace"):
        train_rft(model, processor, Examples(read_records(file)), config(), tmp_path / "out")


def test_rewards_as_trl_calls_them(records):
    examples = Examples(records)
    functions = reward_functions(examples.annotation, RewardConfig())
    assert tuple(function.__name__ for function in functions) == NAMES
    right = [record.turns[-1][1] for record in records]
    for function in functions:
        columns = {"prompts": ["?"] * 4, "completion_ids": [[1]] * 4, "trainer_state": None, "index": [0, 1, 2, 3]}
        assert function(completions=right, **columns) == pytest.approx([1.0] * 4)
        assert function(completions=["?"] * 4, **columns) == [0.0] * 4
    points = functions[NAMES.index("points")]
    assert points(completions=right, index=[1, 0, 3, 2])[0] < 1  # each by its own truth
