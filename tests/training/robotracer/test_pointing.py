"""Pointing: the loss against an independent computation, what questions become, and that a base learns to find things."""

import json
import math

import blocks
import numpy as np
import pytest
import torch

pytest.importorskip("accelerate", reason="the robotracer extra is not installed; `make test-robotracer`")
pytest.importorskip("transformers")

import robotracer_toys as toys
import short_toys

from traceworld.errors import ConfigError, DatasetError
from traceworld.models.robotracer.checkpoint import load_robotracer
from traceworld.models.robotracer.nano import RGB_ONLY, make_nano
from traceworld.models.robotracer.processor import Example
from traceworld.training.robotracer.examples import Examples
from traceworld.training.robotracer.pointing import Pointing, PointingConfig, pointing_batch, train_pointing
from traceworld.training.robotracer.records import read_records


def picture(seed=0):
    return np.random.default_rng(seed).integers(0, 255, (42, 56, 3), dtype=np.uint8)


def example(*turns, seed=0):
    return Example(picture(seed), turns, apart=True)


TRACE = ("3D trace: Put it there.", "[(100, 200, 0.50), (300, 400, 0.70), (990, 1000, 1.50)]")
POINT = ("2D: Point to the mug.", "[(500, 250)]")


@pytest.fixture(scope="module")
def tiny():
    return short_toys.make()


@pytest.fixture(scope="module")
def nano():
    return make_nano(RGB_ONLY)


def test_a_batch_holds_first_and_last_points_of_every_question(tiny):
    batch = pointing_batch(tiny[1], [example(TRACE, POINT), example(POINT, ("Why?", "Because."), seed=1)])
    assert batch["picture"].tolist() == [0, 0, 1]  # words without a point are left out
    assert batch["uv"].tolist() == pytest.approx(
        np.array([[[0.1, 0.2], [0.99, 1.0]], [[0.5, 0.25]] * 2, [[0.5, 0.25]] * 2])
    )
    assert batch["depth_m"][0].tolist() == [0.5, 1.5]
    assert batch["depth_m"][1:].isnan().all()
    with pytest.raises(DatasetError, match="no answer with a point"):
        pointing_batch(tiny[1], [example(("Why?", "Because."))])


def test_a_question_is_read_as_at_the_end_of_its_prompt(tiny):
    _, processor = tiny
    ids, mask = processor.questions([POINT[0], TRACE[0]])
    prompt = processor.generation_batch([example(POINT)])["input_ids"][0].tolist()
    alone = ids[0][mask[0].bool()].tolist()
    after_user = processor.tokenizer.encode("<|im_start|>user\n", add_special_tokens=False)
    assert alone[: len(after_user)] == after_user
    said = alone[len(after_user) :]
    assert prompt[-len(said) :] == said  # between them stands the picture
    assert ids.shape == mask.shape


def test_the_loss_is_what_it_says(tiny):
    torch.manual_seed(0)
    model = Pointing(tiny[0]).eval()
    batch = pointing_batch(tiny[1], [example(TRACE, POINT), example(POINT, seed=1)])
    with torch.no_grad():
        loss = model(**batch)
        scores, asked, cells = model._find(
            *(batch[k] for k in ("pixel_values", "question_ids", "question_mask", "picture"))
        )
    side = math.isqrt(scores.shape[-1])
    entropies, offsets, depths, errors = [], [], [], []
    for n, (points, metres) in enumerate(zip(batch["uv"].numpy(), batch["depth_m"].numpy(), strict=True)):
        for role, ((u, v), d) in enumerate(zip(points, metres, strict=True)):
            column, row = min(int(u * side), side - 1), min(int(v * side), side - 1)
            row_of_scores = scores[n, role].double()
            entropies.append(float(torch.logsumexp(row_of_scores, 0) - row_of_scores[row * side + column]))
            said = model.reads(cells[n, row * side + column] * asked[n, role]).tolist()
            inside = (min(u * side, side - 1e-3) - column - 0.5, min(v * side, side - 1e-3) - row - 0.5)
            offsets.append(math.dist(said[:2], inside))
            if np.isfinite(d):
                depths.append(abs(said[2] - math.log(d)))
            best = int(row_of_scores.argmax())
            shift = model.reads(cells[n, best] * asked[n, role]).tolist()
            found = ((best % side + 0.5 + shift[0]) / side, (best // side + 0.5 + shift[1]) / side)
            errors.append(math.dist(found, (u, v)))
    assert float(loss.cell) == pytest.approx(np.mean(entropies), rel=1e-5)
    assert float(loss.offset) == pytest.approx(np.mean(offsets), rel=1e-5)
    assert float(loss.depth) == pytest.approx(np.mean(depths), rel=1e-5)
    assert float(loss.error_uv) == pytest.approx(np.mean(errors), rel=1e-5)
    assert float(loss.total) == pytest.approx(float(loss.cell + loss.offset + loss.depth))
    flat = pointing_batch(tiny[1], [example(POINT)])
    with torch.no_grad():
        assert float(model(**flat).depth) == 0


def test_cells_stand_row_by_row(nano):
    base = nano[0].vlm.model
    with torch.no_grad():
        blank = torch.zeros(1, 3, 144, 144)
        usual = base.get_image_features(pixel_values=blank).pooler_output[0]
        for row, column in ((0, 7), (7, 0), (2, 5)):
            marked = blank.clone()
            marked[:, :, row * 18 : row * 18 + 18, column * 18 : column * 18 + 18] = 3
            found = base.get_image_features(pixel_values=marked).pooler_output[0]
            assert int((found - usual).norm(dim=-1).argmax()) == row * 8 + column


def test_an_answer_does_not_depend_on_the_other_questions_of_its_batch(tiny):
    model = Pointing(tiny[0]).eval()
    names = ("pixel_values", "question_ids", "question_mask", "picture")
    both = pointing_batch(tiny[1], [example(TRACE, POINT), example(POINT, seed=1)])
    alone = pointing_batch(tiny[1], [example(POINT, seed=1)])
    with torch.no_grad():
        together, single = (model._points(*model._find(*(batch[name] for name in names))) for batch in (both, alone))
    torch.testing.assert_close(together[2], single[0], rtol=1e-4, atol=1e-5)


def test_a_base_without_a_square_of_cells_is_refused():
    with pytest.raises(ConfigError, match="no square of cells"):
        Pointing(toys.make("qwen3_vl")[0])


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return read_records(blocks.write_file(tmp_path_factory.mktemp("blocks"), range(240), think=False))


def test_it_learns_to_find_what_is_asked_for_and_goes_on_where_it_stopped(records, tmp_path):
    def taught(out, steps):
        tracer, processor = short_toys.make()
        config = PointingConfig(steps=steps, lr=5e-3, batch=16, precision="fp32", save_every=30, log_every=10)
        return train_pointing(tracer, processor, Examples(records[:200], seed=1), config, out), tracer

    folder, tracer = taught(tmp_path / "run", 120)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    errors = [line["error_uv"] for line in lines if "error_uv" in line]
    assert errors[-1] < 0.4 * errors[0]
    found = load_robotracer(folder)
    assert found.training["method"] == "pointing"
    assert all(
        torch.equal(a, b) for a, b in zip(found.model.state_dict().values(), tracer.state_dict().values(), strict=True)
    )
    before, _ = short_toys.make()
    changed = {
        name.partition(".")[0]
        for (name, a), b in zip(before.state_dict().items(), tracer.state_dict().values(), strict=True)
        if not torch.equal(a, b)
    }
    assert changed == {"vlm"}  # the spatial encoder, projectors and scale are as they were
    again, _ = taught(tmp_path / "run", 120)  # nothing left to do
    assert again == folder
    with pytest.raises(ConfigError, match="was 120"):
        taught(tmp_path / "run", 60)
