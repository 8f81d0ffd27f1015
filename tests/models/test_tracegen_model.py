"""Objective, condition dropout, guidance and sampler."""

import dataclasses

import pytest
import torch
from tracegen_toys import HUB, KEYPOINT_FIELDS, NANO, build, make_batch

from traceworld.models.normalisation import Normalisation
from traceworld.models.tracegen.condition import Condition
from traceworld.models.tracegen.conventions import Conventions

SCALES = Normalisation({"time": (0.2, 0.3, 0.1), "arc": (0.4, 0.5, 0.2)}, {"time": 0.05, "arc": 0.02})


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def replaced(**fields):
    return dataclasses.replace(NANO, **fields)


@pytest.fixture(scope="module")
def model():
    return build(NANO, normalisation=SCALES)


def field(batch, samples=None, seed=0):
    middle = () if samples is None else (samples,)
    return torch.randn(len(batch["clock"]), *middle, NANO.horizon, NANO.grid, NANO.grid, 3, generator=generator(seed))


def test_a_lone_keypoint_on_a_grid_point_is_the_target_there(model):
    """future / s_Δ → increments in units of increment_scale · s_Δ: the scale of the clock cancels."""
    batch = make_batch(NANO, B=2, N=1)
    batch["anchor_uvz"][..., :2] = model.grid.uv[14]
    batch["future_valid"][:] = True
    clean, weight = model.target(batch)
    step = torch.diff(batch["future"][:, 0], dim=1, prepend=torch.zeros(2, 1, 3)) * 16
    torch.testing.assert_close(clean[:, :, 2, 2], step, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(weight[:, :, 2, 2], torch.ones(2, 8))
    assert weight.sum().item() == pytest.approx(2 * NANO.horizon)
    assert not clean[weight == 0].any()


def test_padding_and_invalid_steps_do_not_reach_the_target(model):
    batch = make_batch(NANO)
    spoilt = dict(batch)
    spoilt["future"] = torch.where(batch["future_valid"][..., None], batch["future"], torch.nan)
    for name in KEYPOINT_FIELDS:
        rubbish = torch.full_like(batch[name], torch.nan) if batch[name].is_floating_point() else batch[name]
        spoilt[name] = torch.cat([spoilt[name], rubbish], dim=1)
    spoilt["present"] = spoilt["present"].clone()
    spoilt["present"][:, 5:] = False
    for a, b in zip(model.target(batch), model.target(spoilt), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    assert model.loss_weight(batch) == pytest.approx(model.loss_weight(spoilt), rel=1e-5)


def test_the_loss_by_hand(model, monkeypatch):
    """x_τ = (1 − τ) x + τ ε, target ε − x, squared error weighted by how much keypoint there is, at most 1."""
    batch = make_batch(NANO)
    seen = {}

    def record(noisy, tau, condition, clock):
        seen.update(noisy=noisy, tau=tau)
        return torch.full_like(noisy, 0.3)

    monkeypatch.setattr(model, "velocity", record)
    parts = model.loss(batch, generator())
    g = generator()
    tau, noise = torch.rand(3, generator=g), torch.randn(3, 8, 6, 6, 3, generator=g)
    clean, weight = model.target(batch)
    assert torch.equal(seen["tau"], tau)
    at = tau.reshape(3, 1, 1, 1, 1)
    torch.testing.assert_close(seen["noisy"], (1 - at) * clean + at * noise)
    error = ((0.3 - (noise - clean)) ** 2).mean(-1)
    weight = weight.clamp(max=1)
    assert parts["loss"].item() == pytest.approx(((error * weight).sum() / weight.sum()).item(), rel=1e-5)
    assert parts["covered"].item() == pytest.approx((weight > 0).float().mean().item())


def test_a_perfect_velocity_costs_nothing_and_samples_the_data(model, monkeypatch):
    batch = make_batch(NANO)
    clean, _weight = model.target(batch)

    def oracle(noisy, tau, condition, clock):
        data = clean.repeat_interleave(len(noisy) // len(clean), 0)
        return (noisy - data) / tau.clamp(min=1e-9)[:, None, None, None, None]

    monkeypatch.setattr(model, "velocity", oracle)
    assert model.loss(batch, generator())["loss"].item() < 1e-6
    for steps in (1, 3, 10, 100):  # the released code integrates half of it at half the steps
        monkeypatch.setattr(model, "config", replaced(euler_steps=steps))
        samples = model.sample(batch, 2, generator())
        torch.testing.assert_close(samples[:, 0], clean, atol=1e-4, rtol=1e-4)


def test_entries_without_keypoints_cannot_reach_the_loss():
    conventions = Conventions(NANO)
    target, weight = torch.randn(2, 8, 6, 6, 3, generator=generator()), torch.zeros(2, 8, 6, 6)
    weight[:, :, 2:4, 1:3] = 0.4
    velocity = torch.randn(target.shape, generator=generator(1))
    wild = torch.where(weight[..., None] > 0, velocity, torch.nan).requires_grad_()
    loss = conventions.mean_error(wild, target, weight)
    assert loss == conventions.mean_error(velocity, target, weight)
    loss.backward()
    assert torch.isfinite(wild.grad).all()
    assert (wild.grad[weight == 0] == 0).all()


def test_nothing_valid_is_no_loss_and_no_nan(model):
    batch = make_batch(NANO)
    batch["future_valid"][:] = False
    batch["future"][:] = torch.nan
    own = build(NANO).train()
    loss = own.loss(batch, generator())["loss"]
    loss.backward()
    assert loss.item() == 0
    assert all(torch.isfinite(p.grad).all() for p in own.parameters() if p.grad is not None)


def test_every_parameter_learns():
    own = build(replaced(condition_drop=0.5)).train()
    batch = make_batch(NANO, B=8)
    own.loss(batch, generator())["loss"].backward()
    assert [name for name, p in own.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_condition_dropout_is_real_and_as_frequent_as_it_says():
    own = build(replaced(condition_drop=0.25)).train()
    tokens = torch.ones(4000, 3, 16)
    mask = torch.zeros(4000, 3, dtype=torch.bool)
    out = own._drop(Condition(tokens, mask), generator())
    dropped = out.mask.all(1)
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.02)
    torch.testing.assert_close(out.tokens[dropped], own.null_condition[:, :3].expand(int(dropped.sum()), -1, -1))
    assert (out.tokens[~dropped] == 1).all()
    assert not out.mask[~dropped].any()
    assert own.eval()._drop(Condition(tokens, mask), generator()).tokens is tokens  # validation sees the condition


@torch.no_grad()
def test_guidance(model, monkeypatch):
    """v_u + g (v_c − v_u), with the null tokens of training as the unconditional input."""
    batch, noisy, tau = make_batch(NANO), field(make_batch(NANO)), torch.full((3,), 0.7)
    own = build(replaced(guidance=3.0), normalisation=SCALES)
    condition = own.encode(batch)
    null = Condition(
        own.null_condition[:, : condition.tokens.shape[1]].expand_as(condition.tokens), torch.ones_like(condition.mask)
    )
    with_condition, without = (own.velocity(noisy, tau, c, batch["clock"]) for c in (condition, null))
    guided = own.guided_velocity(noisy, tau, condition, null, batch["clock"])
    torch.testing.assert_close(guided, -2 * without + 3 * with_condition, atol=1e-4, rtol=1e-4)
    used = []
    velocity = own.velocity
    monkeypatch.setattr(own, "velocity", lambda *args: used.append(args[2].tokens) or velocity(*args))
    own.sample(batch, 1, generator())
    assert len(used) == 2 * NANO.euler_steps
    torch.testing.assert_close(used[1], null.tokens)


@torch.no_grad()
def test_no_guidance_is_one_evaluation_per_step(model, monkeypatch):
    count = []
    velocity = model.velocity
    monkeypatch.setattr(model, "velocity", lambda *args: count.append(args[1][0].item()) or velocity(*args))
    encode = []
    monkeypatch.setattr(model, "encode", lambda b, f=model.encode: encode.append(1) or f(b))
    model.sample(make_batch(NANO), 4, generator())
    assert count == pytest.approx([1, 2 / 3, 1 / 3])
    assert len(encode) == 1


@torch.no_grad()
def test_unasked_points_take_the_straight_path_to_no_motion(model, monkeypatch):
    """As training shows them: τ · noise at every step, 0 at the end."""
    batch, noise = make_batch(NANO, N=1), field(make_batch(NANO), samples=1)
    seen = []
    velocity = model.velocity
    monkeypatch.setattr(model, "velocity", lambda *args: seen.append((args[0], args[1])) or velocity(*args))
    out = model.sample(batch, 1, noise=noise)
    asked = (model.grid.weights(batch["anchor_uvz"][..., :2]) > 0).any(1).reshape(3, 6, 6)
    assert asked.sum(dim=(1, 2)).max() <= 4
    for noisy, tau in seen:
        expected = tau[0] * noise[:, 0]
        torch.testing.assert_close(noisy.movedim(1, 3)[~asked], expected.movedim(1, 3)[~asked])
    assert not out[:, 0].movedim(1, 3)[~asked].abs().max() > 1e-6
    assert out[:, 0].movedim(1, 3)[asked].abs().min() > 0


@torch.no_grad()
def test_euler_by_hand(model):
    batch, noise = make_batch(NANO, N=200), field(make_batch(NANO), samples=2)
    condition = model.encode(batch)
    assert model._asked(batch).all()
    for s in range(2):
        x = noise[:, s]
        for tau in (1.0, 2 / 3, 1 / 3):
            x = x - model.velocity(x, torch.full((3,), tau), condition, batch["clock"]) / 3
        torch.testing.assert_close(model.sample(batch, 2, noise=noise)[:, s], x, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_same_seed_same_bytes(model):
    batch = make_batch(NANO)
    a, b, c = (model.sample(batch, 2, generator(seed)).numpy().tobytes() for seed in (4, 4, 5))
    assert a == b != c


@torch.no_grad()
@pytest.mark.parametrize("what", ["image", "depth_m", "instruction", "clock"])
def test_every_input_counts(model, what):
    batch, noise = make_batch(NANO), field(make_batch(NANO), samples=1)
    other = dict(batch)
    if what == "instruction":
        other[what] = ["close it"] * 3
    else:
        other[what] = 255 - batch[what] if what == "image" else 1 - batch[what]
    assert not torch.equal(model.sample(batch, 1, noise=noise), model.sample(other, 1, noise=noise))


def test_toy_training_learns_where_things_go():
    """The whole grid drifts one way, which the words say: after a few steps the model has found out."""
    config = replaced(condition_drop=0.0, horizon=4)
    torch.manual_seed(0)
    own = build(config).train()
    batch = make_batch(config, B=4, N=40)
    sign = torch.tensor([1.0, 1.0, -1.0, -1.0])
    batch["instruction"] = ["go right"] * 2 + ["go left"] * 2
    batch["clock"][:] = 0
    batch["future_valid"][:] = True
    batch["future"] = (sign[:, None, None] * torch.arange(1, 5) / 16)[..., None].expand(4, 40, 4, 3).clone()
    optimizer = torch.optim.Adam(own.parameters(), lr=5e-3)
    g = generator()
    for _ in range(80):
        optimizer.zero_grad()
        own.loss(batch, g)["loss"].backward()
        optimizer.step()
    drawn = own.eval().sample(batch, 2, generator()).mean(dim=(1, 2, 3, 4, 5))
    torch.testing.assert_close(drawn, sign, atol=0.35, rtol=0)


def test_hub_model_trains_what_is_not_frozen():
    own = build(HUB).train()
    own.loss(make_batch(HUB), generator())["loss"].backward()
    trained = {name for name, p in own.named_parameters() if p.requires_grad}
    assert {n.split(".")[1] for n in trained if n.startswith("condition.")} == {
        "dino_norm", "siglip_norm", "depth_norm", "text_norm", "depth_stem", "no_depth_token", "fuse"
    }  # fmt: skip
    silent = [name for name, p in own.named_parameters() if name in trained and (p.grad is None or not p.grad.any())]
    assert silent in ([], ["null_condition"])
    assert all(p.grad is None for name, p in own.named_parameters() if name not in trained)


def test_parts_of_a_batch_add_up_to_its_loss():
    """What several processes do: each its rows of the same noise, means weighted by `loss_weight`."""
    from traceworld.training.draws import RowsOfDraw

    own = build(replaced(condition_drop=0.5)).train()
    batch = make_batch(NANO, B=4)
    batch["present"][0, 1:] = False  # rows of very different weight
    whole = own.loss(batch, generator())["loss"].item()
    total = 0.0
    for first in (0, 2):
        rows = {name: value[first : first + 2] for name, value in batch.items()}
        g = generator()
        with RowsOfDraw(g, first, 2, 4):
            part = own.loss(rows, g)["loss"].item()
        total += part * own.loss_weight(rows) / own.loss_weight(batch)
    assert total == pytest.approx(whole, rel=1e-4)
