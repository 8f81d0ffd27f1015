"""The ablations of Table 6: each takes away what it says and nothing else."""

import pytest
import torch

from traceworld.errors import ConfigError
from traceworld.models.mu0.ablations import ABLATIONS, ablated
from traceworld.models.mu0.counting import count_parameters
from traceworld.models.mu0.predictor import Mu0Predictor
from traceworld.models.mu0.sizes import mu0_config
from traceworld.traces.types import Observation


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def velocity_of(model, batch):
    noisy = torch.randn(3, 1, 5, model.config.num_controls, 3, generator=generator())
    return model.denoise(noisy, torch.full((3, 1), 0.6), model.context(batch, model.encode(batch)))[0]


@pytest.fixture(params=["nano", "smolvlm"])
def config(request, tiny_config, smolvlm_config):
    return tiny_config if request.param == "nano" else smolvlm_config


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_trains_and_samples(config, build, make_batch, name):
    config = ablated(config, name)
    model, batch = build(config), make_batch(config)
    model.loss(batch, generator())["loss"].backward()
    dead = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert dead == []
    controls, logits = model.sample(batch, 2, generator())
    assert controls.shape == (3, 2, 5, config.num_controls, 3)
    assert logits.shape == (3, 2, 5, 8)


def test_what_each_ablation_does_to_the_published_size():
    """Trainable parameters of `small`, counted by hand."""
    full, E = count_parameters("small"), 288
    lost = {
        name: full["trainable"] - count_parameters(ablated(mu0_config("small"), name))["trainable"]
        for name in ABLATIONS
    }
    fuse = (E + 768) * E + E + E * E + E
    stem = 3 * 16 * 16 * 768 + 768
    z_inputs = (2 * 8 + 2) * E
    history = 4 * 8 * E + E + E + E  # lift, group and segment rows
    raw = -(3 * 22 * E) - (3 * 22 * E + 3 * 22)  # lift and velocity for 32 instead of 10 points
    assert lost == {
        "raw-trace": raw,
        "no-dino": fuse,
        "no-rigidity": 0,
        "no-depth": stem + z_inputs,
        "no-history": history,
    }
    assert full["dino"] == full["total"] - count_parameters(ablated(mu0_config("small"), "no-dino"))["total"] - fuse


def test_raw_trace_flows_over_the_steps(tiny_config, build, make_batch, monkeypatch):
    config = ablated(tiny_config, "raw-trace")
    assert (config.num_controls, config.expert.control_group) == (8, 8)
    model, batch = build(config), make_batch(config)
    clean = batch["future"][:, None]

    def oracle(noisy, tau, context):
        velocity = (noisy - clean) / tau[..., None, None, None].clamp(min=1e-9)
        return velocity, torch.zeros(*noisy.shape[:3], config.horizon)

    monkeypatch.setattr(model, "denoise", oracle)
    assert model.loss(batch, generator())["flow"].item() < 1e-6
    controls, _ = model.sample(batch, 2, generator())
    torch.testing.assert_close(controls, clean.expand_as(controls), atol=1e-5, rtol=1e-4)


def test_raw_trace_counts_valid_steps_only(tiny_config, build, make_batch):
    config = ablated(tiny_config, "raw-trace")
    model, batch = build(config), make_batch(config)
    before = model.loss(batch, generator())
    spoiled = dict(batch)
    spoiled["future_valid"] = batch["future_valid"].clone()
    spoiled["future_valid"][:, 0, 3] = False
    assert model.loss(spoiled, generator())["flow"] != before["flow"]
    batch["future_valid"][:, :, 3:] = False
    a = model.loss(batch, generator())["flow"]
    noisy_only = torch.zeros_like(model.loss(batch, generator())["rig"])
    assert torch.equal(model.loss(batch, generator())["rig"], noisy_only)  # no keypoint is known throughout
    assert torch.isfinite(a)


def test_raw_trace_decodes_to_itself(tiny_config, build, normalisation):
    predictor = Mu0Predictor(build(ablated(tiny_config, "raw-trace"), normalisation=normalisation))
    points = torch.randn(2, 3, 8, 3, generator=generator()).numpy()
    assert (predictor.model.target.decode(points) == points).all()
    image = torch.zeros(20, 30, 3, dtype=torch.uint8).numpy()
    seen = Observation(image, "push", keypoints_uv=torch.rand(4, 2).double().numpy(), step=0.05)
    assert predictor.predict(seen).uvz.shape == (1, 4, 8, 3)


def test_spline_and_raw_do_not_mix(tiny_config, replaced):
    import dataclasses

    with pytest.raises(ConfigError, match="a point per step"):
        dataclasses.replace(tiny_config, target="raw")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (
            "no-depth",
            lambda b: {"depth_present": torch.zeros_like(b["depth_present"]), "anchor_z_known": ~b["anchor_z_known"]},
        ),
        ("no-history", lambda b: {"history": b["history"] * 3, "history_valid": ~b["history_valid"]}),
    ],
)
def test_an_input_that_was_taken_away_is_not_read(config, build, make_batch, name, change):
    batch = make_batch(config)
    other = batch | change(batch)
    full, without = build(config), build(ablated(config, name))
    assert not torch.equal(velocity_of(full, batch), velocity_of(full, other))
    assert torch.equal(velocity_of(without, batch), velocity_of(without, other))


def test_without_dino_the_place_is_all_that_tells_keypoints_apart(smolvlm_config, build, make_batch):
    model = build(ablated(smolvlm_config, "no-dino"))
    assert model.features is None
    assert not any("dino" in name or "fuse" in name for name, _ in model.named_parameters())


def test_the_weight_of_rigidity_weighs(tiny_config, build, make_batch, replaced):
    batch = make_batch(tiny_config)
    parts = {w: build(replaced(tiny_config, "loss", lambda_rig=w)).loss(batch, generator()) for w in (0.0, 0.5, 2.0)}
    for weight, part in parts.items():
        rest = part["flow"] + tiny_config.loss.lambda_done * part["done"]
        assert part["loss"].item() == pytest.approx((rest + weight * part["rig"]).item(), rel=1e-6)
    assert parts[0.0]["rig"] > 0
    none = build(ablated(tiny_config, "no-rigidity"))
    one, other = (
        none.loss(batch | {"part_id": ids}, generator())["loss"] for ids in (batch["part_id"], batch["part_id"] * 0)
    )
    assert torch.equal(one, other)


def test_without_depth_there_is_no_z(tiny_config):
    import dataclasses

    with pytest.raises(ConfigError, match="not told z"):
        dataclasses.replace(tiny_config, use_depth=False)


def test_ablations_compose_and_names_are_checked(tiny_config, build, make_batch):
    config = ablated(ablated(tiny_config, "no-depth"), "no-history")
    assert torch.isfinite(build(config).loss(make_batch(config), generator())["loss"])
    with pytest.raises(ConfigError, match="did you mean 'no-depth'"):
        ablated(tiny_config, "no-dept")
