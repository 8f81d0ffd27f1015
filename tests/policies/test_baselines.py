"""The heads that the action expert is compared with: their schedules, losses and masks."""

import math

import pytest
import torch

from traceworld.errors import ConfigError
from traceworld.policies.action_expert.stems import Tokens
from traceworld.policies.baselines.config import DiffusionHeadConfig, RegressionHeadConfig
from traceworld.policies.baselines.diffusion import DiffusionHead, cosine_signal
from traceworld.policies.baselines.regression import RegressionHead

K, A, W = 5, 3, 24
DIFFUSION = DiffusionHeadConfig(width=W, depth=2, heads=4, mlp_hidden=32, train_steps=50, sample_steps=5)
REGRESSION = RegressionHeadConfig(width=W, heads=4, mlp_hidden=32, latent=4, dropout=0.0)


def tokens(B=2, L=6):
    seen = torch.ones(B, L, dtype=torch.bool)
    seen[1, 2:4] = False
    return Tokens(torch.randn(B, L, W, generator=torch.Generator().manual_seed(3)), seen)


def heads():
    torch.manual_seed(0)
    return [DiffusionHead(DIFFUSION, A, K).eval(), RegressionHead(REGRESSION, A, K).eval()]


def test_the_cosine_schedule_is_the_published_one():
    signal = cosine_signal(100)
    expected = [math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2 for t in (0.01, 0.5, 0.9)]
    start = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    assert signal[[0, 49, 89]].tolist() == pytest.approx([e / start for e in expected], rel=1e-4)
    assert (signal.diff() < 0).all()
    assert 0 < signal[-1] < 1e-3


class _Knows(DiffusionHead):
    """Knows the actions, so the noise it sees is the noise that is there."""

    def noise_in(self, noisy, step, given):
        power = self.signal[step][:, None, None]
        return (noisy - power.sqrt() * self.truth) / (1 - power).sqrt()


def test_perfect_noise_samples_the_actions_and_has_no_loss():
    head = _Knows(DIFFUSION, A, K)
    head.truth = torch.randn(2, K, A, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)
    found = head.sample(tokens(), torch.randn(2, K, A, generator=torch.Generator().manual_seed(1)))
    assert torch.allclose(found, head.truth, atol=1e-3)
    known = torch.ones(2, K, dtype=torch.bool)
    assert head.loss(tokens(), head.truth, known, torch.Generator().manual_seed(2))["loss"] < 1e-5


@pytest.mark.parametrize("head", heads(), ids=["diffusion", "act"])
def test_padded_actions_do_not_matter(head):
    actions = torch.randn(2, K, A, generator=torch.Generator().manual_seed(0))
    known = torch.tensor([[True, True, True, False, False], [True] * K])
    spoilt = actions.clone()
    spoilt[0, 3:] = 40.0
    one, two = (head.loss(tokens(), a, known, torch.Generator().manual_seed(1))["loss"] for a in (actions, spoilt))
    assert torch.allclose(one, two, rtol=1e-4)


@pytest.mark.parametrize("head", heads(), ids=["diffusion", "act"])
def test_absent_tokens_are_not_read(head):
    there = tokens()
    spoilt = there.x.clone()
    spoilt[~there.seen] = 100.0
    noise = torch.randn(2, K, A, generator=torch.Generator().manual_seed(0))
    one, two = (head.sample(Tokens(x, there.seen), noise) for x in (there.x, spoilt))
    assert torch.allclose(one, two, atol=1e-4)
    moved = there.x.clone()
    moved[:, 0] += torch.randn(W, generator=torch.Generator().manual_seed(5))
    assert not torch.allclose(head.sample(Tokens(moved, there.seen), noise), one, atol=1e-4)


@pytest.mark.parametrize("head", heads(), ids=["diffusion", "act"])
def test_shares_add_up_to_the_loss(head):
    actions = torch.randn(2, K, A, generator=torch.Generator().manual_seed(0))
    known = torch.tensor([[True, True, True, False, False], [True] * K])
    parts = head.loss(tokens(), actions, known, torch.Generator().manual_seed(1))
    shares = head.shares(known)
    assert float(sum(weight * parts[name] for name, (weight, _) in shares.items())) == pytest.approx(
        float(parts["loss"]), rel=1e-5
    )
    assert next(iter(shares.values()))[1] == 8  # known actions
    if "kl" in shares:
        assert shares["kl"][1] == 2


def test_diffusion_goes_on_from_committed_actions():
    head = heads()[0]
    noise = torch.randn(2, K, A, generator=torch.Generator().manual_seed(0))
    found = head.sample(tokens(), noise, torch.full((2, 2, A), 0.4))
    assert torch.allclose(found[:, :2], torch.full((2, 2, A), 0.4), atol=1e-6)
    assert not torch.allclose(found[:, 2:], head.sample(tokens(), noise)[:, 2:], atol=1e-4)


def test_divergence_of_the_style_is_that_of_gaussians():
    head = heads()[1]
    actions, known = torch.randn(2, K, A), torch.ones(2, K, dtype=torch.bool)
    mean, log_variance = head.style(tokens(), actions, known)
    gaussian = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(gaussian, torch.distributions.Normal(0.0, 1.0)).sum(-1).mean()
    found = head.loss(tokens(), actions, known, torch.Generator().manual_seed(0))["kl"]
    assert torch.allclose(found, expected, rtol=1e-4)


def test_the_style_is_read_off_the_actions_and_the_answer_needs_none():
    head = heads()[1]
    known = torch.ones(2, K, dtype=torch.bool)
    styles = [head.style(tokens(), torch.full((2, K, A), v), known)[0] for v in (-1.0, 1.0)]
    assert not torch.allclose(*styles, atol=1e-3)
    one, two = (head.sample(tokens(), torch.randn(2, K, A)) for _ in range(2))
    assert torch.equal(one, two)


def test_layers_start_out_different():
    for head, layers in zip(heads(), ("decoder.layers", "encoder.layers"), strict=True):
        first, second = head.get_submodule(f"{layers}.0"), head.get_submodule(f"{layers}.1")
        assert not torch.equal(first.linear1.weight, second.linear1.weight)


def test_impossible_heads_are_refused():
    for wrong in ({"width": 10, "heads": 4}, {"sample_steps": 200}, {"clip": 0.0}):
        with pytest.raises(ConfigError):
            DiffusionHeadConfig(**wrong)
    for wrong in ({"width": 10, "heads": 4}, {"latent": 0}, {"dropout": 1.0}):
        with pytest.raises(ConfigError):
            RegressionHeadConfig(**wrong)
