"""The whole model: equivariance, padding, masks by perturbation, the shared prefix, the objective, the sampler."""

import math

import pytest
import torch

from traceworld.models.mu0 import losses
from traceworld.models.mu0.model import Mu0Model

EACH_HISTORY_TIME = pytest.mark.parametrize("history_time", ["shared", "clean"])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def velocity_of(model, batch, noisy, tau):
    return model.denoise(noisy, tau, model.context(batch, model.encode(batch)))


def random_input(config, B, R, N):
    g = generator(5)
    return torch.randn(B, R, N, config.num_controls, 3, generator=g), torch.rand(B, R, generator=g)


@EACH_HISTORY_TIME
def test_shapes(tiny_config, build, make_batch, replaced, history_time):
    model = build(replaced(tiny_config, "expert", history_time=history_time))
    batch = make_batch(tiny_config)
    velocity, logits = velocity_of(model, batch, *random_input(tiny_config, 3, 2, 5))
    assert velocity.shape == (3, 2, 5, 5, 3)
    assert logits.shape == (3, 2, 5, 8)
    controls, logits = model.sample(batch, 4, generator())
    assert controls.shape == (3, 4, 5, 5, 3)
    assert logits.shape == (3, 4, 5, 8)
    assert torch.isfinite(controls).all()


@EACH_HISTORY_TIME
def test_permuting_keypoints_permutes_predictions(tiny_config, build, make_batch, permute, replaced, history_time):
    config = replaced(tiny_config, "expert", history_time=history_time, history_group=2, control_group=1)
    model, batch = build(config), make_batch(config, N=9)
    order = torch.randperm(9, generator=generator(1))
    noisy, tau = random_input(config, 3, 2, 9)
    velocity, logits = velocity_of(model, batch, noisy, tau)
    permuted = velocity_of(model, permute(batch, order), noisy[:, :, order], tau)
    assert (velocity[:, :, order] - permuted[0]).abs().max() < 1e-5
    assert (logits[:, :, order] - permuted[1]).abs().max() < 1e-5
    assert velocity.std() > 0.1


@EACH_HISTORY_TIME
def test_padding_never_influences_others(tiny_config, build, make_batch, pad, replaced, history_time):
    model = build(replaced(tiny_config, "expert", history_time=history_time))
    batch = make_batch(tiny_config)
    noisy, tau = random_input(tiny_config, 3, 2, 5)
    velocity, _ = velocity_of(model, batch, noisy, tau)
    padded = torch.cat([noisy, torch.full((3, 2, 4, 5, 3), 50.0)], dim=2)
    wider, _ = velocity_of(model, pad(batch, 4), padded, tau)
    torch.testing.assert_close(wider[:, :, :5], velocity, atol=1e-5, rtol=1e-5)
    assert torch.isfinite(wider).all()


def test_padding_does_not_change_the_losses(tiny_config, build, make_batch, pad, monkeypatch):
    """With the noise held fixed: the real keypoints' part of the wider draw is what the narrow batch drew."""
    model, batch = build(tiny_config), make_batch(tiny_config)
    drawn = torch.randn(3, 2, 9, 5, 3, generator=generator())
    monkeypatch.setattr(torch, "randn", lambda *shape, **_: drawn[:, :, : shape[0][2]])
    narrow, wide = (model.loss(x, generator()) for x in (batch, pad(batch, 4)))
    for name in ("loss", "flow", "done", "rig"):
        assert wide[name].item() == pytest.approx(narrow[name].item(), rel=1e-4)


@EACH_HISTORY_TIME
def test_who_influences_whom(tiny_config, build, make_batch, replaced, history_time):
    """Gradient of keypoint 0's velocity: reaches the other control tokens and all shown history, and no hidden history."""
    model = build(replaced(tiny_config, "expert", history_time=history_time))
    batch = make_batch(tiny_config, B=2)
    batch["history_valid"] = torch.ones_like(batch["history_valid"])
    batch["history_valid"][:, 2] = False  # history of keypoint 2 was dropped
    batch["present"][:, 4] = False
    batch["history"] = torch.randn(batch["history"].shape, generator=generator()).requires_grad_()
    noisy, tau = random_input(tiny_config, 2, 1, 5)
    noisy.requires_grad_()
    velocity, _ = model.denoise(noisy, tau, model.context(batch, model.encode(batch)))
    velocity[0, 0, 0].sum().backward()
    controls = noisy.grad[:, 0].abs().sum(dim=(2, 3)) > 0
    history = batch["history"].grad.abs().sum(dim=(2, 3)) > 0
    assert controls.tolist() == [[True, True, True, True, False], [False] * 5]
    assert history.tolist() == [[True, True, False, True, False], [False] * 5]


def test_history_tokens_never_see_control_tokens(tiny_config, build, make_batch):
    model, batch = build(tiny_config), make_batch(tiny_config)
    context = model.context(batch, model.encode(batch))
    assert context.history is None  # shared: recomputed with τ, from the query alone
    kept = model._run_history(context, torch.full((3, 1), 0.5))
    assert set(kept) == {0, 2}


@torch.no_grad()
def test_what_tau_modulates(tiny_config, build, make_batch, replaced):
    batch = make_batch(tiny_config)
    noisy, tau = random_input(tiny_config, 3, 1, 5)
    for history_time, fixed in (("shared", False), ("clean", True)):
        model = build(replaced(tiny_config, "expert", history_time=history_time))
        assert (model.context(batch, model.encode(batch)).history is not None) == fixed
        assert not torch.equal(velocity_of(model, batch, noisy, tau)[0], velocity_of(model, batch, noisy, 1 - tau)[0])


@pytest.mark.parametrize("change", ["clock", "image", "instruction", "depth_m", "anchor_uvz", "history", "z"])
def test_every_input_counts(tiny_config, build, make_batch, change):
    model, batch = build(tiny_config), make_batch(tiny_config)
    noisy, tau = random_input(tiny_config, 3, 1, 5)
    other = dict(batch)
    if change == "clock":
        other["clock"] = 1 - batch["clock"]
    elif change == "image":
        other["image"] = 255 - batch["image"]
    elif change == "instruction":
        other["instruction"] = ["something else"] * 3
    elif change == "z":
        other["anchor_z_known"] = ~batch["anchor_z_known"]
    else:
        other[change] = batch[change] * 0.9
    a, b = (velocity_of(model, x, noisy, tau)[0] for x in (batch, other))
    assert not torch.equal(a, b)


def test_the_prefix_is_computed_once_for_all_samples(tiny_config, build, make_batch, monkeypatch):
    model, batch = build(tiny_config), make_batch(tiny_config)
    calls = {"prefix": 0, "project": 0, "denoise": 0}

    def counted(name, function):
        def wrapper(*args, **kwargs):
            calls[name] += 1
            return function(*args, **kwargs)

        return wrapper

    monkeypatch.setattr(model.prefix, "forward", counted("prefix", model.prefix.forward))
    monkeypatch.setattr(model.expert, "project_prefix", counted("project", model.expert.project_prefix))
    monkeypatch.setattr(model, "denoise", counted("denoise", model.denoise))
    model.sample(batch, 5, generator())
    assert calls == {"prefix": 1, "project": 1, "denoise": tiny_config.euler_steps}


@EACH_HISTORY_TIME
def test_samples_equal_samples_drawn_one_by_one(tiny_config, build, make_batch, replaced, history_time):
    model = build(replaced(tiny_config, "expert", history_time=history_time))
    batch = make_batch(tiny_config)
    noise = torch.randn(3, 4, 5, 5, 3, generator=generator())
    together, _ = model.sample(batch, 4, noise=noise)
    for s in range(4):
        alone, _ = model.sample(batch, 1, noise=noise[:, s : s + 1])
        torch.testing.assert_close(together[:, s : s + 1], alone, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_euler_from_noise_to_data(tiny_config, build, make_batch):
    """τ runs 1, .75, .5, .25; x ← x − v/4; validity is read at the last step."""
    model, batch = build(tiny_config), make_batch(tiny_config)
    noise = torch.randn(3, 2, 5, 5, 3, generator=generator())
    context = model.context(batch, model.encode(batch))
    x = noise
    for tau in (1.0, 0.75, 0.5, 0.25):
        velocity, logits = model.denoise(x, torch.full((3, 2), tau), context)
        x = x - 0.25 * velocity
    controls, last = model.sample(batch, 2, noise=noise)
    torch.testing.assert_close(controls, x)
    torch.testing.assert_close(last, logits)


def test_a_perfect_velocity_has_no_flow_loss_and_samples_the_data(tiny_config, build, make_batch, monkeypatch):
    model, batch = build(tiny_config), make_batch(tiny_config)
    clean = batch["controls"][:, None]

    def oracle(noisy, tau, context):  # from P^τ = τ ε + (1 − τ) P: ε − P = (P^τ − P) / τ
        velocity = (noisy - clean) / tau[..., None, None, None].clamp(min=1e-9)
        return velocity, torch.zeros(*noisy.shape[:3], tiny_config.horizon)

    monkeypatch.setattr(model, "denoise", oracle)
    parts = model.loss(batch, generator())
    assert parts["flow"].item() < 1e-6
    assert parts["done"].item() == pytest.approx(math.log(2), rel=1e-5)
    controls, _ = model.sample(batch, 3, generator())
    torch.testing.assert_close(controls, clean.expand_as(controls), atol=1e-5, rtol=1e-4)
    expected = losses.rigidity_loss(clean, batch["part_id"], batch["controls_usable"])
    assert parts["rig"].item() == pytest.approx(expected.item(), rel=1e-3)


def test_loss_is_the_weighted_sum(tiny_config, build, make_batch, replaced):
    config = replaced(tiny_config, "loss", lambda_done=0.3, lambda_rig=2.0, draws=3)
    parts = build(config).loss(make_batch(config), generator())
    expected = parts["flow"] + 0.3 * parts["done"] + 2.0 * parts["rig"]
    assert parts["loss"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_same_generator_gives_the_same_bytes(tiny_config, build, make_batch):
    model, batch = build(tiny_config), make_batch(tiny_config)
    a, b = (model.sample(batch, 2, generator(7))[0] for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(model.loss(batch, generator(7))["loss"], model.loss(batch, generator(7))["loss"])
    assert not torch.equal(a, model.sample(batch, 2, generator(8))[0])


def test_at_initialisation_the_expert_does_nothing_and_all_steps_are_valid(tiny_config, make_batch):
    torch.manual_seed(0)
    model, batch = Mu0Model(tiny_config), make_batch(tiny_config)
    noisy, tau = random_input(tiny_config, 3, 2, 5)
    context = model.context(batch, model.encode(batch))
    hidden = model.denoise_features(noisy, tau, context)
    tokens = model.tokens.controls(noisy, context.query)
    torch.testing.assert_close(hidden.flatten(2, 3), model.expert.norm(tokens))
    _, logits = model.denoise(noisy, tau, context)
    assert torch.equal(logits, torch.full_like(logits, 3.0))


def test_overfits_one_batch(tiny_config, make_batch, replaced):
    config = replaced(tiny_config, "loss", lambda_rig=0.0, draws=16)
    config = replaced(config, "expert", width=32, mlp_hidden=48, history_time="clean")
    torch.manual_seed(0)
    model, batch = Mu0Model(config), make_batch(config, B=2, N=3)
    batch["controls_usable"][:] = True
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    g, history = generator(), []
    for _ in range(60):
        parts = model.loss(batch, g)
        optimiser.zero_grad()
        parts["loss"].backward()
        optimiser.step()
        history.append(parts["flow"].item())
    first, last = sum(history[:5]) / 5, sum(history[-10:]) / 10
    assert last < 0.3 * first, (first, last)
    controls, _ = model.eval().sample(batch, 4, generator(1))
    error = (controls - batch["controls"][:, None]).square().mean().sqrt()
    assert error < 0.6 * batch["controls"].square().mean().sqrt()


def test_every_parameter_learns(tiny_config, build, make_batch):
    model = build(tiny_config)
    model.loss(make_batch(tiny_config), generator())["loss"].backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


def test_bf16_autocast(tiny_config, build, make_batch):
    model, batch = build(tiny_config), make_batch(tiny_config)
    exact = model.loss(batch, generator())
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.loss(batch, generator())
    rough["loss"].backward()
    assert rough["flow"].item() == pytest.approx(exact["flow"].item(), rel=0.05)


def test_normalisation_reaches_the_model(tiny_config, build, make_batch, normalisation, replaced):
    config = replaced(tiny_config, "expert", history_scale="s_delta")
    model, batch = build(config), make_batch(config)
    noisy, tau = random_input(config, 3, 1, 5)
    before = velocity_of(model, batch, noisy, tau)[0]
    model.set_normalisation(normalisation.to_dict())
    assert model.normalisation == normalisation
    assert model.s_delta[1].tolist() == pytest.approx([0.4, 0.5, 0.2])
    assert not torch.equal(before, velocity_of(model, batch, noisy, tau)[0])


def test_without_local_features(tiny_config, build, make_batch, replaced):
    """Table 6, w/o DINOv2: eq. 5 is gone, and the model still runs."""
    config = replaced(tiny_config, "local", source="none")
    model = build(config)
    assert not hasattr(model.tokens, "fuse_in")
    assert torch.isfinite(model.loss(make_batch(config), generator())["loss"])
