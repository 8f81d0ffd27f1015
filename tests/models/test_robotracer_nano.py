"""robotracer-nano: its words, the order of its coordinates, its size, and questions that stand apart."""

import dataclasses

import numpy as np
import pytest
import robotracer_toys as toys
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from traceworld.errors import ConfigError
from traceworld.models.robotracer.checkpoint import load_robotracer, save_robotracer
from traceworld.models.robotracer.nano import NANO, RGB_ONLY, make_nano, nano_processor
from traceworld.models.robotracer.nano_words import (
    coarse,
    coordinates,
    nano_tokenizer,
    order_coordinates,
    order_places,
    waves_of,
)
from traceworld.models.robotracer.processor import Example
from traceworld.tracespatial.answers import parse_trace

TRACE = "[(35, 680, 0.69), (15, 610, 0.66), (1000, 0, 4.99)]"
TURNS = [
    ("3D trace: Put the red mug on top of the blue box.", TRACE),
    ("3D: Point to the mug.", "[(35, 680, 0.69)]"),
    ("2D: Where is the third book from the left?", "[(5, 20)]"),
]


@pytest.fixture(scope="module")
def tokenizer():
    return nano_tokenizer()


@pytest.fixture(scope="module")
def nano():
    model, processor = make_nano()
    return model.eval(), processor


def encoded(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


def test_a_point_costs_three_tokens(tokenizer):
    assert len(encoded(tokenizer, TRACE)) == 3 * 3 + 1


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=60))
def test_every_text_comes_back(tokenizer, text):
    assert tokenizer.decode(encoded(tokenizer, text), skip_special_tokens=False) == text


def test_a_word_of_the_simulator_is_one_token(tokenizer):
    said = "Stack the large white block on top of the brown box, going around the yellow partition."
    assert len(encoded(tokenizer, said)) == len(said.replace(",", " ,").replace(".", " .").split())


def test_coarse_answers_are_answers_and_near(tokenizer):
    said = "[(33, 682, 0.686), (17, 611, 0.662), (1004, -3, 7.2)]"
    points = parse_trace(coarse(said), 3).points
    np.testing.assert_allclose(points[:2], [[35, 680, 0.69], [15, 610, 0.66]])
    np.testing.assert_allclose(points[2], [1000, 0, 4.99])
    assert coarse("[(33, 682)]") == "[(35, 680)]"
    assert coarse("no point, 0.034m") == "no point, 0.034m"
    assert coarse("(1, 2, 0.001)").endswith("0.01)")


def test_near_numbers_start_alike(tokenizer):
    torch.manual_seed(0)
    table = torch.randn(len(tokenizer), 64) * 0.02
    order_coordinates(table, tokenizer, 0.06)
    for role in coordinates().values():
        ids = [
            encoded(tokenizer, f"{text}," if text.startswith(", ") and "(" not in text else text)[0] for text, _ in role
        ]
        rows = torch.nn.functional.normalize(table[ids], dim=1)
        middle = len(ids) // 2
        alike = rows @ rows[middle]
        assert int(alike.argmax()) == middle
        assert alike[middle + 1] > alike[middle + 12] > alike[middle + 60]


def test_a_place_starts_with_the_waves_of_its_coordinates():
    positions = torch.zeros(64, 80)
    order_places(positions, 0.5, waves=16)
    row, column = 2, 5
    found = positions[row * 8 + column] / 0.5
    centres = torch.tensor([(column + 0.5) / 8, (row + 0.5) / 8])
    torch.testing.assert_close(found[:64], waves_of(centres, 16).flatten())
    assert not found[64:].any()
    said = waves_of(torch.linspace(0, 1, 201), 16) @ found[:32]
    assert abs(int(said.argmax()) * 5 - 1000 * float(centres[0])) <= 5  # u is said by copying


def test_its_size_fits_the_package(nano):
    assert sum(p.numel() for p in nano[0].parameters()) == 6_315_713
    assert nano[0].vlm.get_output_embeddings().weight is nano[0].vlm.get_input_embeddings().weight


def test_questions_that_stand_apart_are_as_if_alone(nano):
    model, processor = nano
    whole = toys.example()
    shared = {"K": whole.K, "depth_m": whole.depth_m, "scale_m": whole.scale_m}
    short = Example(whole.image, TURNS[1:2], apart=True, **shared)
    batch = processor.training_batch([Example(whole.image, TURNS, apart=True, **shared), short])
    with torch.no_grad():
        together, labels = model(**batch), batch["labels"]
        single = [model(**processor.training_batch([Example(whole.image, [turn], **shared)])) for turn in TURNS]
    own = []
    for number, turn in enumerate(TURNS):
        alone = processor.training_batch([Example(whole.image, [turn], **shared)])
        own.append(_log_probabilities(single[number].logits, alone["labels"])[0])
    found = _log_probabilities(together.logits, labels)
    torch.testing.assert_close(found[0], torch.cat(own), atol=1e-4, rtol=0)
    torch.testing.assert_close(found[1], own[1], atol=1e-4, rtol=0)
    torch.testing.assert_close(together.log_scale[0], single[0].log_scale[0], atol=1e-5, rtol=0)


def _log_probabilities(logits, labels):
    """Of the learned tokens, per row."""
    rows = []
    for row, wanted in zip(torch.log_softmax(logits[:, :-1], -1), labels[:, 1:], strict=True):
        learned = (wanted >= 0).nonzero()[:, 0]
        rows.append(row[learned, wanted[learned]])
    return rows


def test_questions_cannot_stand_apart_where_positions_have_three_axes():
    _, processor = toys.make("qwen2_5_vl")
    example = dataclasses.replace(toys.example(), apart=True)
    with pytest.raises(ConfigError, match="apart"):
        processor.training_batch([example])


def test_of_questions_that_stand_apart_the_last_is_asked_alone(nano):
    _, processor = nano
    whole = toys.example()
    apart = processor.generation_batch([Example(whole.image, TURNS, apart=True)])
    alone = processor.generation_batch([Example(whole.image, TURNS[-1:])])
    assert torch.equal(apart["input_ids"], alone["input_ids"])


def test_it_comes_back_from_half_precision(nano, tmp_path):
    model, processor = nano
    loaded = load_robotracer(save_robotracer(tmp_path / "nano", model, processor, dtype="float16"))
    assert sum(file.stat().st_size for file in (tmp_path / "nano").rglob("*") if file.is_file()) < 25_000_000
    example = dataclasses.replace(toys.example(), turns=TURNS[:1])
    with torch.no_grad():
        before = model(**processor.training_batch([example]))
        after = loaded.model(**loaded.processor.training_batch([example]))
    torch.testing.assert_close(after.logits, before.logits, atol=0.05, rtol=0)
    assert loaded.processor.tokenizer.get_vocab() == processor.tokenizer.get_vocab()


def test_the_same_seed_gives_the_same_model():
    one, other = (make_nano(seed=3)[0].state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_without_a_spatial_encoder_there_are_no_spatial_tokens():
    processor = nano_processor(RGB_ONLY)
    ids = processor.training_batch([dataclasses.replace(toys.example(), turns=TURNS[:1])])["input_ids"]
    assert not (ids == processor.spatial_id).any()
    assert NANO.num_spatial_tokens == 65
