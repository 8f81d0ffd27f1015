"""The trace expert: its mask, its identity at the start, and its two streams against one long masked sequence."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from traceworld.models.blocks.layers import modulate
from traceworld.models.mu0.expert import TraceExpert
from traceworld.models.mu0.prefix import Prefix

B, R, L, N, G = 2, 3, 6, 4, 2  # observations, versions, prefix tokens, keypoints, history groups per keypoint
HEADS, KV_HEADS, HEAD_DIM, WIDTH, LAYERS = 4, 2, 6, 10, 5
BASE = 100.0


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def expert():
    torch.manual_seed(0)
    module = TraceExpert(WIDTH, 16, LAYERS, HEADS, KV_HEADS, HEAD_DIM, BASE)
    for parameter in module.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return module


@pytest.fixture
def prefix():
    keys = tuple(random(B, KV_HEADS, L, HEAD_DIM, seed=10 + i) for i in range(LAYERS))
    values = tuple(random(B, KV_HEADS, L, HEAD_DIM, seed=20 + i) for i in range(LAYERS))
    mask = torch.ones(B, L, dtype=torch.bool)
    mask[1, -2:] = False
    return Prefix(keys, values, mask, mask.sum(1))


def rotated(x, position):
    """[M, heads, D] turned by one position: written with complex numbers."""
    half = HEAD_DIM // 2
    phase = torch.polar(torch.ones(half), position * BASE ** (-torch.arange(half) * 2.0 / HEAD_DIM))
    z = torch.complex(x[..., :half], x[..., half:]) * phase
    return torch.cat([z.real, z.imag], dim=-1)


def plain_forward(expert, tokens, condition, prefix, row, mask):
    """One observation, one version: the whole suffix as one sequence under one mask [M, M]. The slow, obvious way."""
    x, M = tokens, len(tokens)
    heads = lambda y: y.unflatten(-1, (-1, HEAD_DIM))  # noqa: E731
    for index, layer in enumerate(expert.layers):
        key, value = (
            prefix.keys[index][row].mT.mT.transpose(0, 1),
            prefix.values[index][row].transpose(0, 1),
        )  # [L,kv,D]
        seen = prefix.mask[row].expand(M, L)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = layer.modulation(condition)
        normed = modulate(layer.norm_attention(x), shift_a, scale_a)
        query = heads(layer.q_proj(normed))
        if index % 2:
            key, value = heads(layer.k_proj(key.flatten(1))), heads(layer.v_proj(value.flatten(1)))
        else:
            position = prefix.end[row].float()
            query = rotated(query, position)
            key = torch.cat([key, rotated(heads(layer.k_proj(normed)), position)])
            value = torch.cat([value, heads(layer.v_proj(normed))])
            seen = torch.cat([seen, mask], dim=1)
        group = HEADS // KV_HEADS
        out = torch.empty(M, HEADS, HEAD_DIM)
        for head in range(HEADS):
            scores = query[:, head] @ key[:, head // group].T / np.sqrt(HEAD_DIM)
            out[:, head] = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value[:, head // group]
        x = x + gate_a * layer.o_proj(out.flatten(1))
        normed = modulate(layer.norm_mlp(x), shift_m, scale_m)
        x = x + gate_m * layer.mlp.down_proj(F.silu(layer.mlp.gate_proj(normed)) * layer.mlp.up_proj(normed))
    return expert.norm(x)


def suffix_mask(history_seen, present):
    """B.2: history sees history of its own or an earlier group; control tokens see everything; some keys are hidden."""
    history = len(history_seen)
    group = torch.arange(history) % G
    mask = torch.zeros(history + N, history + N, dtype=torch.bool)
    mask[:history, :history] = group[None] <= group[:, None]
    mask[history:] = True
    return mask & torch.cat([history_seen, present])


@torch.no_grad()
def test_two_streams_equal_one_masked_sequence(expert, prefix):
    history, controls = random(B, N * G, WIDTH), random(B, R, N, WIDTH, seed=1)
    condition = random(B, R, WIDTH, seed=2)
    history_seen = random(B, N * G, seed=3) > -0.5
    present = torch.ones(B, N, dtype=torch.bool)
    present[0, -1] = False
    context = expert.project_prefix(prefix)
    group = torch.arange(N * G) % G
    causal = group[None, :] <= group[:, None]
    history_mask = (causal & history_seen[:, None]).repeat_interleave(R, 0)
    flat = condition.flatten(0, 1)
    kept = expert.run_history(history.repeat_interleave(R, 0), flat, context, history_mask)
    seen = torch.cat([history_seen, present], dim=1).repeat_interleave(R, 0)[:, None]
    got = expert(controls.flatten(0, 1), flat, context, kept, seen).unflatten(0, (B, R))
    for b in range(B):
        for r in range(R):
            mask = suffix_mask(history_seen[b], present[b])
            mask |= torch.eye(len(mask), dtype=torch.bool) & False
            whole = plain_forward(expert, torch.cat([history[b], controls[b, r]]), condition[b, r], prefix, b, mask)
            torch.testing.assert_close(got[b, r], whole[N * G :], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_history_kept_once_serves_all_versions(expert, prefix):
    history, controls = random(B, N * G, WIDTH), random(B * R, N, WIDTH, seed=1)
    condition = random(B, WIDTH, seed=2)
    context = expert.project_prefix(prefix)
    mask = torch.ones(B, N * G, N * G, dtype=torch.bool)
    seen = torch.ones(B * R, 1, N * G + N, dtype=torch.bool)
    once = expert.run_history(history, condition, context, mask)
    each = expert.run_history(
        history.repeat_interleave(R, 0), condition.repeat_interleave(R, 0), context, mask.repeat_interleave(R, 0)
    )
    assert set(once) == {0, 2, 4}
    a, b = (expert(controls, random(B * R, WIDTH, seed=5), context, kept, seen) for kept in (once, each))
    torch.testing.assert_close(a, b)


@torch.no_grad()
def test_blocks_are_the_identity_at_initialisation(prefix):
    fresh = TraceExpert(WIDTH, 16, LAYERS, HEADS, KV_HEADS, HEAD_DIM, BASE)
    tokens, condition = random(B, N, WIDTH), random(B, WIDTH)
    seen = torch.ones(B, 1, N, dtype=torch.bool)
    out = fresh(tokens, condition, fresh.project_prefix(prefix), {}, seen)
    assert torch.equal(out, fresh.norm(tokens))


def test_gradient_checkpointing_changes_nothing(expert, prefix):
    tokens, condition = random(B, N, WIDTH), random(B, WIDTH)
    seen = torch.ones(B, 1, N, dtype=torch.bool)
    grads = []
    for on in (False, True):
        expert.gradient_checkpointing = on
        expert.zero_grad()
        expert(tokens, condition, expert.project_prefix(prefix), {}, seen).square().sum().backward()
        grads.append([p.grad.clone() for p in expert.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@torch.no_grad()
def test_masked_prefix_tokens_do_not_matter(expert, prefix):
    tokens, condition = random(B, N, WIDTH), random(B, WIDTH)
    seen = torch.ones(B, 1, N, dtype=torch.bool)
    hidden = ~prefix.mask[:, None, :, None]
    spoiled = Prefix(
        tuple(torch.where(hidden, 99.0, k) for k in prefix.keys),
        tuple(torch.where(hidden, 99.0, v) for v in prefix.values),
        prefix.mask,
        prefix.end,
    )
    a, b = (expert(tokens, condition, expert.project_prefix(p), {}, seen) for p in (prefix, spoiled))
    assert torch.equal(a, b)
