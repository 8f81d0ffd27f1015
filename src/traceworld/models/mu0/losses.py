"""The training objective (mu0-paper B.3, eq. 6–10). Every term is a mean, so their weights mean what they say.

Leading axes: B observations, R independent draws of (τ, ε) for each.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F


def draw_tau(
    shape: tuple[int, ...], kind: Literal["uniform", "beta"], generator: torch.Generator | None, device: torch.device
) -> Float[Tensor, "*shape"]:
    """Flow times: U[0, 1], or 0.999 · Beta(1.5, 1) + 0.001 (by inversion: its distribution function is x^1.5)."""
    given: dict[str, Any] = (
        {} if generator is None else {"generator": generator}
    )  # None cannot be traced with sizes that vary
    uniform = torch.rand(shape, device=device, **given)
    return uniform if kind == "uniform" else 0.999 * uniform ** (1 / 1.5) + 0.001


def masked_mean(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean where the mask is True; 0 where it nowhere is."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def flow_loss(
    velocity: Float[Tensor, "B R N D 3"], target: Float[Tensor, "B R N D 3"], mask: Bool[Tensor, "B N *D"]
) -> Float[Tensor, ""]:
    """eq. 7: squared error of the velocity, mean over controls and axes, then over the keypoints of `mask` and draws.

    A mask [B,N,D] counts single controls instead of keypoints: the mean is over axes, then over those controls and draws.
    """
    error = (velocity.float() - target.float()).square().mean(dim=(-1, -2) if mask.ndim == 2 else -1)
    return masked_mean(error, mask[:, None].expand_as(error))


def validity_loss(
    logits: Float[Tensor, "B R N H"], valid: Bool[Tensor, "B N H"], present: Bool[Tensor, "B N"]
) -> Float[Tensor, ""]:
    """eq. 8: cross-entropy of each step's validity, mean over the steps of present keypoints and draws.

    The paper sums over the H steps; beside a flow loss that it sums over 3·D = 30 numbers, means on both sides keep nearly
    the same balance.
    """
    target = valid[:, None].expand_as(logits).float()
    error = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none").mean(dim=-1)
    return masked_mean(error, present[:, None].expand_as(error))


def rigidity_loss(
    controls: Float[Tensor, "B R N D 3"],
    part_id: Int[Tensor, "B N"],
    mask: Bool[Tensor, "B N"],
    kind: Literal["squared_distance", "distance"] = "squared_distance",
) -> Float[Tensor, ""]:
    """eq. 9: variance over the control sequence of the (squared) distance of two keypoints of one part, mean over pairs.

    Args:
        controls: the clean control points that the velocity implies, P^τ − τ·v.
        part_id: entity of each keypoint; −1 belongs to none and makes no pair.
        mask: keypoints that count.
    """
    if controls.shape[2] < 2:
        return controls.sum() * 0
    first, second = torch.triu_indices(controls.shape[2], controls.shape[2], offset=1, device=controls.device)
    pair = (part_id[:, first] == part_id[:, second]) & (part_id[:, first] >= 0) & mask[:, first] & mask[:, second]
    rows, columns = pair.nonzero(as_tuple=True)
    points = controls.float().movedim(1, 2)  # [B,N,R,D,3]
    apart = points[rows, first[columns]] - points[rows, second[columns]]
    distance = apart.square().sum(-1)
    if kind == "distance":
        distance = (distance + 1e-12).sqrt()
    variance = (distance - distance.mean(dim=-1, keepdim=True)).square().mean(dim=-1)
    return variance.sum() / max(1, variance.numel())
