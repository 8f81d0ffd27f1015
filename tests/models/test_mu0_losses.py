"""Equations 6–9 against plain numpy loops."""

import numpy as np
import pytest
import torch

from traceworld.models.mu0.losses import draw_tau, flow_loss, masked_mean, rigidity_loss, validity_loss

B, R, N, D, H = 2, 3, 4, 5, 6


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_flow_loss_is_the_mean_over_usable_keypoints():
    velocity, target = random(B, R, N, D, 3), random(B, R, N, D, 3, seed=1)
    mask = torch.tensor([[True, False, True, True], [False, False, True, False]])
    errors = [
        ((velocity[b, r, n] - target[b, r, n]).numpy() ** 2).sum() / (D * 3)
        for b in range(B)
        for r in range(R)
        for n in range(N)
        if mask[b, n]
    ]
    assert flow_loss(velocity, target, mask).item() == pytest.approx(np.mean(errors), rel=1e-5)


def test_unusable_keypoints_get_no_gradient():
    velocity = random(B, R, N, D, 3).requires_grad_()
    mask = torch.zeros(B, N, dtype=torch.bool)
    mask[0, 1] = True
    flow_loss(velocity, torch.zeros(B, R, N, D, 3), mask).backward()
    touched = velocity.grad.abs().sum(dim=(1, 3, 4)) > 0
    assert torch.equal(touched, mask)


def test_validity_loss_counts_present_keypoints_even_if_not_usable():
    logits, valid = random(B, R, N, H), random(B, N, H, seed=2) > 0
    present = torch.tensor([[True, True, False, True], [True, False, False, False]])
    p = 1 / (1 + np.exp(-logits.double().numpy()))
    y = valid.numpy()[:, None]
    entropy = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    expected = entropy.mean(-1)[np.broadcast_to(present.numpy()[:, None], (B, R, N))].mean()
    assert validity_loss(logits, valid, present).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["squared_distance", "distance"])
def test_rigidity_loss_over_unique_pairs_of_one_part(kind):
    controls = random(B, R, N, D, 3)
    part = torch.tensor([[0, 0, -1, 0], [2, -1, -1, 2]])
    mask = torch.tensor([[True, True, True, True], [True, True, True, True]])
    mask[0, 3] = False
    variances = []
    for b in range(B):
        for i in range(N):
            for j in range(i + 1, N):
                if part[b, i] == part[b, j] and part[b, i] >= 0 and mask[b, i] and mask[b, j]:
                    for r in range(R):
                        squared = ((controls[b, r, i] - controls[b, r, j]).double().numpy() ** 2).sum(-1)
                        variances.append(np.var(squared if kind == "squared_distance" else np.sqrt(squared)))
    assert len(variances) == 2 * R
    assert rigidity_loss(controls, part, mask, kind).item() == pytest.approx(np.mean(variances), rel=1e-4)


def test_rigidity_vanishes_for_a_common_translation():
    path = random(B, R, 1, D, 3)
    start = random(B, R, N, 1, 3, seed=4)
    everything = torch.ones(B, N, dtype=torch.bool)
    same_part = torch.zeros(B, N, dtype=torch.long)
    assert rigidity_loss(path + start, same_part, everything).item() < 1e-9
    assert rigidity_loss(random(B, R, N, D, 3), same_part, everything).item() > 0.1


@pytest.mark.parametrize("count", [1, 3])
def test_no_pair_is_zero_with_a_gradient(count):
    controls = random(B, R, count, D, 3).requires_grad_()
    nobody = torch.full((B, count), -1)
    loss = rigidity_loss(controls, nobody, torch.ones(B, count, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert not controls.grad.any()


def test_masked_mean_of_nothing_is_zero():
    assert masked_mean(torch.ones(3), torch.zeros(3, dtype=torch.bool)).item() == 0


def test_tau_distributions():
    g = torch.Generator().manual_seed(0)
    uniform = draw_tau((20_000,), "uniform", g, torch.device("cpu"))
    beta = draw_tau((20_000,), "beta", g, torch.device("cpu"))
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.01)
    assert beta.mean().item() == pytest.approx(0.999 * 0.6 + 0.001, abs=0.01)  # mean of Beta(1.5, 1) = 1.5 / 2.5
    assert beta.var().item() == pytest.approx(0.999**2 * 1.5 / (2.5**2 * 3.5), abs=0.005)
    assert float(beta.min()) >= 0.001
    assert float(beta.max()) <= 1
