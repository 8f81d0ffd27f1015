"""Eq. 12 in the paper's direction against ours, and the head against Gemma of transformers."""

import dataclasses

import pytest
import torch
from policy_toys import HEAD, A, K, filled

from traceworld.errors import ConfigError
from traceworld.policies.action_expert.config import FlowHeadConfig
from traceworld.policies.action_expert.flow import noisy_actions, paper_time, velocity_target
from traceworld.policies.action_expert.flow_head import FlowHead
from traceworld.policies.action_expert.stems import Tokens


@pytest.fixture
def head():
    torch.manual_seed(0)
    return filled(FlowHead(HEAD, A))


def draws(B=2, R=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    actions, noise = torch.randn(B, K, A, generator=g), torch.randn(B, R, K, A, generator=g)
    return actions, noise, torch.rand(B, R, generator=g)


def some_tokens(B=2, L=6, seed=3, width=HEAD.width):
    g = torch.Generator().manual_seed(seed)
    seen = torch.ones(B, L, dtype=torch.bool)
    seen[1, 2:4] = False
    return Tokens(torch.randn(B, L, width, generator=g), seen)


def test_the_path_is_that_of_equation_12():
    actions, noise, tau = draws()
    t = paper_time(tau)[..., None, None]
    assert torch.allclose(noisy_actions(actions[:, None], noise, tau), (1 - t) * noise + t * actions[:, None])


def test_the_velocity_is_its_derivative_and_the_negative_of_equation_12():
    actions, noise, tau = draws()
    target = velocity_target(actions[:, None], noise)
    assert torch.equal(target, -(actions[:, None] - noise))
    step = 1e-3
    moved = noisy_actions(actions[:, None], noise, tau + step) - noisy_actions(actions[:, None], noise, tau)
    assert torch.allclose(moved / step, target, atol=1e-3)


class _Perfect(FlowHead):
    """Knows the actions, so its velocity is exact."""

    def __init__(self, actions):
        super().__init__(HEAD, A)
        self.truth = actions

    def velocity(self, noisy, tau, tokens, memory=None, known=None):
        return (noisy - self.truth[:, None]) / tau[..., None, None]  # ε − a, from x = τε + (1 − τ)a


def test_a_perfect_velocity_has_no_loss_and_samples_the_actions():
    actions, noise, _ = draws()
    head, tokens = _Perfect(actions), some_tokens()
    known = torch.ones(2, K, dtype=torch.bool)
    assert head.loss(tokens, actions, known, torch.Generator().manual_seed(0))["loss"] < 1e-7
    assert torch.allclose(head.sample(tokens, noise[:, 0]), actions, atol=1e-5)


def test_the_loss_is_the_mean_over_known_actions_written_out(head):
    actions, _, _ = draws()
    tokens = some_tokens()
    known = torch.tensor([[True] * K, [True, True] + [False] * (K - 2)])
    found = head.loss(tokens, actions, known, torch.Generator().manual_seed(7))["loss"]
    g = torch.Generator().manual_seed(7)
    tau = 0.999 * torch.rand((2, 2), generator=g) ** (2 / 3) + 0.001
    noise = torch.randn(2, 2, K, A, generator=g)
    total, count = 0.0, 0
    for b in range(2):
        for r in range(2):
            x = tau[b, r] * noise[b, r] + (1 - tau[b, r]) * actions[b]
            one = Tokens(tokens.x[b : b + 1], tokens.seen[b : b + 1])
            v = head.velocity(x[None, None], tau[b : b + 1, r : r + 1], one, known=known[b : b + 1])
            for k in range(K):
                if known[b, k]:
                    total += float((v[0, 0, k] - (noise[b, r, k] - actions[b, k])).square().mean())
                    count += 1
    assert float(found) == pytest.approx(total / count, rel=1e-4)


def test_padded_actions_do_not_change_the_loss(head):
    actions, _, _ = draws()
    known = torch.tensor([[True, True, True, False, False]] * 2)
    rubbish = actions.clone()
    rubbish[:, 3:] = 50.0
    losses = [
        float(head.loss(some_tokens(), a, known, torch.Generator().manual_seed(1))["loss"]) for a in (actions, rubbish)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert float(head.loss(some_tokens(), rubbish, torch.zeros(2, K, dtype=torch.bool))["loss"]) == 0


def test_absent_tokens_of_the_observation_are_not_read(head):
    _, noise, tau = draws()
    tokens = some_tokens()
    spoilt = tokens.x.clone()
    spoilt[~tokens.seen] = 1e3
    there, here = (head.velocity(noise, tau, Tokens(x, tokens.seen)) for x in (spoilt, tokens.x))
    assert torch.allclose(there, here, atol=1e-5)
    keep = torch.tensor([0, 1, 4, 5])
    shorter = Tokens(tokens.x[1:, keep], tokens.seen[1:, keep])
    assert torch.allclose(head.velocity(noise[1:], tau[1:], shorter), here[1:], atol=1e-5)


def test_draws_of_one_observation_do_not_see_each_other(head):
    _, noise, tau = draws()
    tokens = some_tokens()
    both = head.velocity(noise, tau, tokens)
    for r in range(2):
        assert torch.allclose(
            head.velocity(noise[:, r : r + 1], tau[:, r : r + 1], tokens), both[:, r : r + 1], atol=1e-5
        )


def test_observation_tokens_never_see_actions(head):
    tokens = some_tokens()
    memory = head.read(tokens)
    _, noise, tau = draws()
    head.velocity(noise, tau, tokens, memory)
    again = head.read(tokens)
    assert all(
        torch.equal(a, b)
        for one, two in zip(memory.layers, again.layers, strict=True)
        for a, b in zip(one, two, strict=True)
    )
    assert torch.allclose(head.velocity(noise, tau, tokens, memory), head.velocity(noise, tau, tokens), atol=1e-6)


def test_sampling_reads_the_observation_once(head, monkeypatch):
    calls = []
    read = FlowHead.read
    monkeypatch.setattr(FlowHead, "read", lambda self, *a: calls.append(1) or read(self, *a))
    head.sample(some_tokens(), torch.randn(2, K, A))
    assert len(calls) == 1


def test_committed_actions_stay_and_lead_the_rest(head):
    _, noise, _ = draws()
    tokens, committed = some_tokens(), torch.full((2, 2, A), 0.7)
    free, bound = head.sample(tokens, noise[:, 0]), head.sample(tokens, noise[:, 0], committed)
    assert torch.allclose(bound[:, :2], committed, atol=1e-6)
    assert not torch.allclose(bound[:, 2:], free[:, 2:], atol=1e-3)
    own = head.sample(tokens, noise[:, 0], free[:, :1])
    assert torch.allclose(own[:, :1], free[:, :1], atol=1e-6)


def test_new_layers_are_shut_and_open_by_learning():
    torch.manual_seed(0)
    head = FlowHead(HEAD, A)
    actions, noise, tau = draws()
    here, there = (head.velocity(noise, tau, some_tokens(seed=s)) for s in (1, 2))
    assert torch.equal(here, there)  # every branch is shut at the start
    head.loss(some_tokens(), actions, torch.ones(2, K, dtype=torch.bool))["loss"].backward()
    assert head.layers[0].norm_attention.modulation.weight.grad.abs().sum() > 0


def gemma_velocity(head: FlowHead, noisy, tau, tokens):
    """The whole head by transformers' Gemma: prefix and actions as one sequence, its norms replaced by modulated ones.

    Written from the description of π0.5: modulation (scale, shift, gate) of each norm, gates on the residual.
    """
    from transformers import GemmaConfig
    from transformers.models.gemma.modeling_gemma import GemmaMLP

    config = head.config
    mlp = GemmaMLP(
        GemmaConfig(
            hidden_size=config.width, intermediate_size=config.mlp_hidden, hidden_activation="gelu_pytorch_tanh"
        )
    )
    B, L = tokens.seen.shape
    x = torch.cat([tokens.x, head.action_in(noisy)], dim=1)
    there = torch.cat([tokens.seen, torch.ones(B, K, dtype=torch.bool)], dim=1)
    is_action = torch.arange(L + K) >= L
    mask = there[:, None] & (is_action[:, None] | ~is_action[None])
    position = there.cumsum(1) - 1
    angle = position[..., None] * config.rope_base ** -(torch.arange(0, config.head_dim, 2) / config.head_dim)
    cos, sin = (torch.cat([f(angle)] * 2, -1)[:, None] for f in (torch.cos, torch.sin))

    def turn(v):
        half = config.head_dim // 2
        return v * cos + torch.cat([-v[..., half:], v[..., :half]], -1) * sin

    fraction = torch.linspace(0, 1, config.width // 2, dtype=torch.float64)
    period = 4e-3 * (4.0 / 4e-3) ** fraction
    sinusoid = torch.cat([f(2 * torch.pi * tau[:, None].double() / period) for f in (torch.sin, torch.cos)], -1).float()
    condition = torch.nn.functional.silu(head.time_embedding.mlp(sinusoid))

    def norm(module, v):
        scale, shift, gate = module.modulation(condition)[:, None].chunk(3, -1)
        return v / (v.square().mean(-1, keepdim=True) + 1e-6).sqrt() * (1 + scale) + shift, gate

    for layer in head.layers:
        normed, gate = norm(layer.norm_attention, x)
        q, k, v = (
            p(normed).view(B, L + K, -1, config.head_dim).transpose(1, 2)
            for p in (layer.q_proj, layer.k_proj, layer.v_proj)
        )
        q, k = turn(q), turn(k)
        k, v = (t.repeat_interleave(config.heads // config.kv_heads, 1) for t in (k, v))
        scores = (q @ k.mT / config.head_dim**0.5).masked_fill(~mask[:, None], -1e30)
        x = x + layer.o_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)) * gate
        mlp.load_state_dict(layer.mlp.state_dict())
        normed, gate = norm(layer.norm_mlp, x)
        x = x + mlp(normed) * gate
    return head.action_out(norm(head.norm, x)[0][:, -K:])


def test_the_head_is_gemma_with_modulated_norms():
    config = dataclasses.replace(HEAD, prefix_layers=3, prefix_sees_time=True)
    torch.manual_seed(0)
    head = filled(FlowHead(config, A))
    _, noise, tau = draws()
    tokens = some_tokens()
    found = head.velocity(noise, tau, tokens)
    for r in range(2):
        assert torch.allclose(found[:, r], gemma_velocity(head, noise[:, r], tau[:, r], tokens), atol=1e-4)


def test_impossible_heads_are_refused():
    with pytest.raises(ConfigError, match="prefix_layers"):
        FlowHeadConfig(depth=2, prefix_layers=3)
    with pytest.raises(ConfigError, match="kv_heads"):
        FlowHeadConfig(heads=4, kv_heads=3)
    with pytest.raises(ConfigError, match="sees time"):
        FlowHeadConfig(depth=2, prefix_layers=1, prefix_sees_time=True)
