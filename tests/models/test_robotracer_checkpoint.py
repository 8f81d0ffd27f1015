"""RoboTracer's checkpoints: what was trained is in them, what was not is named and checked, damage is told."""

import dataclasses
import json

import pytest
import torch
from robotracer_toys import TINY, base_config, byte_tokenizer, example, image_processor, make, make_vlm
from safetensors import safe_open

from traceworld.errors import CheckpointError, MissingWeightsError
from traceworld.models.robotracer.checkpoint import is_robotracer, load_robotracer, save_robotracer
from traceworld.models.robotracer.model import build_robotracer
from traceworld.models.robotracer.processor import RoboTracerProcessor


def stored_names(folder):
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return set(file.keys())


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder as the hub has it: a base with its tokenizer and image processor."""
    folder = tmp_path_factory.mktemp("hub") / "base"
    tokenizer = byte_tokenizer("qwen3_vl")
    make_vlm(base_config("qwen3_vl", tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor("qwen3_vl").save_pretrained(folder)
    return folder


def on_published(folder):
    config = dataclasses.replace(TINY, base=str(folder))
    processor = RoboTracerProcessor.from_base(config)
    torch.manual_seed(3)
    return build_robotracer(config, processor).eval(), processor


@pytest.mark.parametrize("family", ["qwen2_5_vl", "smolvlm"])
def test_a_model_that_is_published_nowhere_comes_back_whole(tmp_path, family):
    model, processor = make(family)
    save_robotracer(tmp_path / "run", model, processor, {"steps": 3})
    back = load_robotracer(tmp_path / "run")
    assert back.training == {"steps": 3}
    assert back.model.config == model.config
    assert back.model.base_changed
    asked = [processor.generation_batch([example()]), back.processor.generation_batch([example()])]
    assert torch.equal(asked[0]["input_ids"], asked[1]["input_ids"])
    assert torch.equal(asked[0]["pixel_values"], asked[1]["pixel_values"])
    ids = [m.generate(**a).ids for m, a in zip((model, back.model), asked, strict=True)]
    assert torch.equal(*ids)
    assert is_robotracer(tmp_path / "run")


def test_a_frozen_base_is_named_and_not_stored(tmp_path, published):
    model, processor = on_published(published)
    model.trainable("alignment")
    torch.nn.init.normal_(model.scale_embedding)
    save_robotracer(tmp_path / "run", model, processor)
    assert not any(name.startswith("vlm.") for name in stored_names(tmp_path / "run"))
    back = load_robotracer(tmp_path / "run")
    batch = processor.training_batch([example()])
    with torch.no_grad():
        assert torch.equal(back.model(**batch).logits, model(**batch).logits)
    assert not back.model.base_changed
    again = tmp_path / "again"
    save_robotracer(again, back.model, back.processor)
    assert stored_names(again) == stored_names(tmp_path / "run")
    moved = load_robotracer(tmp_path / "run", base=published)
    assert torch.equal(moved.model.scale_embedding, model.scale_embedding)


def test_a_trained_base_is_stored_for_ever_after(tmp_path, published):
    model, processor = on_published(published)
    model.trainable("enhancement")
    model.trainable("alignment")  # frozen again, but no longer the published one
    with torch.no_grad():
        model.vlm.lm_head.weight.mul_(1.5)
    save_robotracer(tmp_path / "run", model, processor)
    assert "vlm.lm_head.weight" in stored_names(tmp_path / "run")
    back = load_robotracer(tmp_path / "run")
    assert torch.equal(back.model.vlm.lm_head.weight, model.vlm.lm_head.weight)
    save_robotracer(tmp_path / "again", back.model, back.processor)
    assert "vlm.lm_head.weight" in stored_names(tmp_path / "again")


def test_a_base_that_was_changed_by_other_means_is_stored(tmp_path, published):
    """Adapters merged into it, say, while it counted as frozen; while they are not merged, nothing is written."""
    model, processor = on_published(published)
    model.trainable("alignment")
    assert not model.base_changed
    linear = model.vlm.model.language_model.layers[0].self_attn
    inner, linear.q_proj = linear.q_proj, torch.nn.ModuleDict({"base_layer": linear.q_proj})
    with pytest.raises(CheckpointError, match="merge"):
        save_robotracer(tmp_path / "run", model, processor)
    linear.q_proj = inner
    with torch.no_grad():
        inner.weight.add_(0.1)
    assert model.base_changed
    save_robotracer(tmp_path / "run", model, processor)
    batch = processor.training_batch([example()])
    with torch.no_grad():
        assert torch.equal(load_robotracer(tmp_path / "run").model(**batch).logits, model(**batch).logits)


def test_another_base_than_the_trained_one_is_told(tmp_path, published):
    model, processor = on_published(published)
    save_robotracer(tmp_path / "run", model, processor)
    other = tmp_path / "other"
    make_vlm(base_config("qwen3_vl", byte_tokenizer("qwen3_vl")), seed=9).save_pretrained(other)
    with pytest.raises(CheckpointError, match="not the weights"):
        load_robotracer(tmp_path / "run", base=other)
    with pytest.raises(MissingWeightsError):
        load_robotracer(tmp_path / "run", base=tmp_path / "nowhere")
    with pytest.raises(MissingWeightsError, match="hf download"):
        RoboTracerProcessor.from_base(dataclasses.replace(TINY, base="nobody/nothing"))


def test_half_precision_halves_the_file(tmp_path):
    model, processor = make("internvl")
    save_robotracer(tmp_path / "full", model, processor)
    save_robotracer(tmp_path / "half", model, processor, dtype="float16")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.65 * sizes[0]
    assert load_robotracer(tmp_path / "half").model.scale_embedding.dtype == torch.float32


def test_damage_is_told(tmp_path):
    model, processor = make("smolvlm")
    folder = save_robotracer(tmp_path / "run", model, processor)
    record = json.loads((folder / "config.json").read_text())

    def with_record(change):
        (folder / "config.json").write_text(json.dumps(change))

    for change, message in (
        ({**record, "kind": "mu0"}, "does not describe"),
        ({**record, "format": 99}, "format 99"),
        ({name: value for name, value in record.items() if name != "frozen"}, "frozen"),
        ({**record, "config": {**record["config"], "sizes": 1}}, "sizes"),
        ({**record, "config": {**record["config"], "scale_width": 17}}, "do not fit"),
    ):
        with_record(change)
        with pytest.raises(CheckpointError, match=message):
            load_robotracer(folder)
    with_record(record)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match="truncated"):
        load_robotracer(folder)
    (folder / "processor" / "tokenizer.json").unlink()
    (folder / "processor" / "config.json").unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_robotracer(folder)
    with pytest.raises(CheckpointError, match="no config"):
        load_robotracer(tmp_path / "none")
    (folder / "config.json").write_text("{")
    assert not is_robotracer(folder)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_robotracer(folder)
    with torch.no_grad():
        model.scale_embedding[0] = torch.nan
    with pytest.raises(CheckpointError, match="NaN"):
        save_robotracer(tmp_path / "diverged", model, processor)
    assert not (tmp_path / "diverged").exists()
