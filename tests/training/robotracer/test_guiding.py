"""Guided attention: who shall look where, the loss against a loop, and that heads learn to look."""

import json
import re

import blocks
import numpy as np
import pytest
import torch

pytest.importorskip("accelerate", reason="the robotracer extra is not installed; `make test-robotracer`")
pytest.importorskip("transformers")

import robotracer_toys as toys
import short_toys

from traceworld.errors import ConfigError
from traceworld.models.robotracer.processor import Example
from traceworld.training.robotracer.examples import Examples
from traceworld.training.robotracer.guiding import LAYERS, Guide
from traceworld.training.robotracer.records import read_records
from traceworld.training.robotracer.sft import train_sft
from traceworld.training.robotracer.stages import SftConfig

TRACE = ("3D trace: Put it there.", "[(100, 200, 0.50), (300, 700, 0.70), (990, 1000, 1.50)]")
POINT = ("2D: Point to the mug.", "[(500, 250)]")
CELLS = {"(100": 0, "(300": 2, "(990": 3, "(500": 1}  # of a picture of two by two cells


@pytest.fixture(scope="module")
def tiny():
    return short_toys.make()


@pytest.fixture
def batch(tiny):
    picture = np.random.default_rng(0).integers(0, 255, (42, 56, 3), dtype=np.uint8)
    said = [Example(picture, (TRACE, POINT), apart=True), Example(picture, (POINT, ("Why?", "Because.")), apart=True)]
    return tiny[1].training_batch(said)


def expected(tokenizer, labels):
    """(row, head, token, cell) of every coordinate, from the words."""
    found = set()
    for row, ids in enumerate(labels.tolist()):
        words = [tokenizer.decode([token]) if token >= 0 else "" for token in ids]
        for at, word in enumerate(words):
            if begins := re.search(r"\(\d+$", word):
                cell = CELLS[begins[0]]
                found |= {(row, 0, at - 1, cell), (row, 1, at, cell)}
                if re.fullmatch(r", \d\.\d\d\)", words[at + 2]):
                    found.add((row, 2, at + 1, cell))
    return found


def test_who_says_a_coordinate_looks_at_its_point(tiny, batch):
    model, processor = tiny
    looks = Guide(model, processor).looks(batch["input_ids"], batch["labels"])
    named = set(zip(*(part.tolist() for part in looks), strict=True))
    assert named == expected(processor.tokenizer, batch["labels"])
    assert len(named) == len(looks.row) == 3 * 3 + 2 + 2


def test_the_loss_is_the_mean_of_minus_log(tiny, batch):
    model, processor = tiny
    guide = Guide(model, processor)
    rng = np.random.default_rng(1)
    rows, length = batch["input_ids"].shape
    weights = [rng.dirichlet(np.ones(length), (rows, 4, length)) for _ in LAYERS]
    guide.seen = [torch.tensor(layer, dtype=torch.float32) for layer in weights]
    first = batch["input_ids"].tolist()[0].index(processor.image_id)
    shown = [
        layer[row, head, token, first + cell]
        for layer in weights
        for row, head, token, cell in expected(processor.tokenizer, batch["labels"])
    ]
    by_hand = -np.mean(np.log(np.array(shown) + 1e-4))
    assert float(guide.loss(batch["input_ids"], batch["labels"])) == pytest.approx(by_hand, rel=1e-5)
    assert float(guide.loss(batch["input_ids"], torch.full_like(batch["labels"], -100))) == 0


def test_it_sees_the_attention_of_a_pass_and_leaves_nothing_behind(tiny, batch):
    model, processor = tiny
    guide = Guide(model, processor)
    model.vlm.set_attn_implementation("eager")
    with guide.watching(), torch.no_grad():
        model(**batch)
    rows, length = batch["input_ids"].shape
    assert [tuple(attention.shape) for attention in guide.seen] == [(rows, 4, length, length)] * len(LAYERS)
    torch.testing.assert_close(guide.seen[0].sum(-1), torch.ones(rows, 4, length))
    before = len(guide.seen)
    with torch.no_grad():
        model(**batch)
    assert len(guide.seen) == before
    model.vlm.set_attn_implementation("sdpa")
    with guide.watching(), torch.no_grad():
        model(**batch)
    with pytest.raises(ConfigError, match="attention to itself"):
        guide.loss(batch["input_ids"], batch["labels"])


def test_other_bases_and_other_words_are_refused(tiny):
    with pytest.raises(ConfigError, match="no square of cells"):
        Guide(*toys.make("qwen3_vl"))
    with pytest.raises(ConfigError, match="no token for each coordinate"):
        Guide(tiny[0], toys.make("internvl")[1])


def test_heads_learn_to_look(tmp_path):
    records = read_records(blocks.write_file(tmp_path / "data", range(64), think=False))
    model, processor = short_toys.make()
    config = SftConfig("enhancement", lr=5e-3, batch=16, max_steps=60, guide=1.0, schedule="constant", log_every=10)
    train_sft(model, processor, Examples(records, seed=1), config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [line["guide_loss"] for line in lines if "guide_loss" in line]
    assert losses[-1] < 0.5 * losses[0]
    assert model.vlm.config._attn_implementation != "eager"  # as it was
