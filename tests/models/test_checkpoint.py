"""Checkpoint folders, and what is done to them."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from traceworld.errors import CheckpointError, ConfigError, MissingWeightsError
from traceworld.models import load_predictor, predictor_names
from traceworld.models.checkpoint import load_checkpoint, load_weights, save_checkpoint
from traceworld.models.normalisation import Normalisation


@pytest.fixture
def saved(tiny_config, build, normalisation, tmp_path):
    model = build(tiny_config)
    return model, save_checkpoint(tmp_path / "tiny", model, normalisation, {"steps": 7})


def test_round_trip(saved, normalisation):
    model, folder = saved
    loaded = load_checkpoint(folder)
    assert loaded.model.config == model.config
    assert loaded.normalisation == loaded.model.normalisation == normalisation
    assert loaded.extra == {"steps": 7}
    assert not loaded.model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]
    assert os.listdir(folder.parent) == ["tiny"]


def test_half_precision_storage(saved, normalisation, tmp_path):
    model, folder = saved
    half = save_checkpoint(tmp_path / "half", model, normalisation.to_dict(), dtype="float16")
    assert load_file(half / "model.safetensors")["time_embedding.mlp.0.weight"].dtype == torch.float16
    assert json.loads((half / "config.json").read_text())["stored_dtype"] == "float16"
    weight = load_checkpoint(half).model.time_embedding.mlp[0].weight
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, model.time_embedding.mlp[0].weight, atol=1e-3, rtol=1e-3)
    sizes = [(f / "model.safetensors").stat().st_size for f in (half, folder)]
    assert sizes[0] < 0.6 * sizes[1]


def test_replacing_an_older_checkpoint(saved, build, tiny_config, normalisation):
    _, folder = saved
    other = build(tiny_config, seed=1)
    save_checkpoint(folder, other, normalisation)
    assert torch.equal(load_checkpoint(folder).model.velocity_proj.weight, other.velocity_proj.weight)
    assert os.listdir(folder.parent) == ["tiny"]


def test_a_failed_write_leaves_the_old_one(saved, build, tiny_config, normalisation):
    model, folder = saved
    broken = build(tiny_config)
    with torch.no_grad():
        broken.velocity_proj.bias[0] = torch.nan
    with pytest.raises(CheckpointError, match=r"velocity_proj.bias: holds NaN"):
        save_checkpoint(folder, broken, normalisation)
    with pytest.raises(TypeError):
        save_checkpoint(folder, model, normalisation, {"not json": object()})
    assert torch.equal(load_checkpoint(folder).model.velocity_proj.bias, model.velocity_proj.bias)
    assert os.listdir(folder.parent) == ["tiny"]


def test_too_large_for_half_precision(build, tiny_config, normalisation, tmp_path):
    model = build(tiny_config)
    with torch.no_grad():
        model.velocity_proj.bias[0] = 1e6
    with pytest.raises(CheckpointError, match=r"as torch\.float16"):
        save_checkpoint(tmp_path / "x", model, normalisation, dtype="float16")


@pytest.mark.parametrize("keep", [0, 5, 400, -40])
def test_truncated_weights(saved, keep):
    _, folder = saved
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model.safetensors: is truncated or damaged"):
        load_checkpoint(folder)


def edit_record(folder, **changes):
    path = folder / "config.json"
    record = json.loads(path.read_text())
    record.update(changes)
    path.write_text(json.dumps(record))
    return record


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "has format 2, this version reads up to 1"),
        ({"format": "one"}, "no format number"),
        ({"kind": "gpt"}, "unknown kind of model 'gpt'"),
        ({"normalisation": {}}, "missing fields"),
        ({"normalisation": {"s_delta": 3, "steps": {}, "depth_log_min": 0, "depth_log_max": 1}}, "not readable"),
        ({"config": {"sise": "nano"}}, "unknown field sise"),
    ],
)
def test_damaged_or_newer_records(saved, changes, message):
    edit_record(saved[1], **changes)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved[1])


def test_weights_of_another_size_name_the_tensors(saved):
    _, folder = saved
    record = edit_record(folder)
    record["config"]["expert"]["width"] = 24
    edit_record(folder, config=record["config"])
    with pytest.raises(
        CheckpointError, match=r"tokens.history_lift.weight \(20, 16\) instead of \(24, 16\).* and \d+ more"
    ):
        load_checkpoint(folder)


def test_missing_and_unknown_tensors_are_named(saved):
    model, folder = saved
    tensors = load_file(folder / "model.safetensors")
    tensors["velocity.weight"] = tensors.pop("velocity_proj.weight")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing velocity_proj.weight; unknown velocity.weight"):
        load_weights(folder, model)


def test_not_a_checkpoint(tmp_path, saved):
    with pytest.raises(CheckpointError, match="not a checkpoint folder"):
        load_checkpoint(tmp_path)
    (saved[1] / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json: cannot be read"):
        load_checkpoint(saved[1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no weights"):
        load_weights(tmp_path / "empty", saved[0])


def test_predictors_by_name_and_folder(saved):
    assert load_predictor(saved[1]).name == "tiny"
    assert load_predictor("nothing-moves").name == "nothing-moves"
    assert {"mu0-nano", "nothing-moves", "constant-velocity"} <= set(predictor_names())


def test_unknown_predictor_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean nothing-moves"):
        load_predictor("nothing-move")
    with pytest.raises(ConfigError, match="known names"):
        load_predictor("/no/such/folder/xyzzy")


def test_a_file_is_not_a_checkpoint(tmp_path):
    (tmp_path / "m").write_text("")
    with pytest.raises(CheckpointError, match="is a file"):
        load_predictor(tmp_path / "m")


def test_shipped_weights_that_are_absent(monkeypatch, tmp_path):
    monkeypatch.setattr("traceworld.models.predictor.WEIGHTS", tmp_path)
    with pytest.raises(MissingWeightsError, match=r"mu0-nano.*recipes"):
        load_predictor("mu0-nano")


def test_shipped_weights_that_are_there(monkeypatch, saved):
    monkeypatch.setattr("traceworld.models.predictor.WEIGHTS", saved[1].parent)
    saved[1].rename(saved[1].parent / "mu0-nano")
    assert load_predictor("mu0-nano").name == "mu0-nano"


@pytest.mark.parametrize(
    "fields",
    [
        {"s_delta": {}, "steps": {}},
        {"s_delta": {"time": (1.0, 1.0)}},
        {"s_delta": {"time": (1.0, 0.0, 1.0)}},
        {"s_delta": {"arc": (1.0, 1.0, 1.0)}},
        {"s_delta": {"day": (1.0, 1.0, 1.0)}, "steps": {"day": 1.0}},
        {"steps": {"time": 0.0}},
        {"depth_log_min": 2.0, "depth_log_max": 1.0},
    ],
)
def test_unusable_normalisation(fields):
    with pytest.raises(CheckpointError):
        Normalisation(**fields)
