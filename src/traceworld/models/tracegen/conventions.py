"""How TraceGen lays its grid, scales increments, draws flow times, weighs its loss and integrates: one object per model, chosen
when it is built. `compat.ReferenceConventions` is the other one.

Flow time: τ = 1 is noise, τ = 0 is data, target = noise − data, as in the whole library (and in the released TraceGen code).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from traceworld.models.blocks.turbo import log_depth_unit
from traceworld.models.mu0.conventions import Conventions as ObservingConventions
from traceworld.models.tracegen.grid import Grid

if TYPE_CHECKING:
    from traceworld.models.tracegen.config import TraceGenConfig

_LEAST_WEIGHT = 1e-6


class Conventions(ObservingConventions):
    """Ours. How an observation's picture and depth get their size is μ0's.

    Attributes:
        text_padding: words are padded to the `longest` instruction of the batch, or to the encoder's `max_length`.
        holds_unasked: a grid point that no keypoint touches stands still. Training shows it so (it has no data and does not
            count in the loss), so the sampler keeps it on the straight path τ · noise to no motion.
    """

    text_padding: Literal["longest", "max_length"] = "longest"
    holds_unasked = True

    def __init__(self, config: TraceGenConfig):
        self.config = config

    def grid(self) -> Grid:
        """The fixed points: centres of equal cells, so that every keypoint has one nearby."""
        return Grid.of_cells(self.config.grid)

    def depth_plane(self, depth_m: Float[Tensor, "B H W"], log_range: Float[Tensor, " 2"]) -> Float[Tensor, "B 1 H W"]:
        """What the depth stem sees: log depth, near = 1, far or unknown = −1."""
        unit, _ = log_depth_unit(depth_m, log_range)
        return unit[:, None] * 2 - 1

    def words_seen(self, mask: Bool[Tensor, "B L"]) -> Bool[Tensor, "B L"] | None:
        """Which condition tokens the decoder may see: not the padding."""
        return mask

    def positions(self, path_uvz: Float[Tensor, "B N H 3"]) -> Float[Tensor, "B N H 3"]:
        """Positions that increments are taken of."""
        return path_uvz

    def to_network(self, increment: Float[Tensor, "*B 3"], s_delta: Float[Tensor, "*#B 3"]) -> Float[Tensor, "*B 3"]:
        """Increments in (uv, uv, m) → network units. `s_delta` is that of the observation's clock."""
        return increment / (s_delta * self.config.increment_scale)

    def from_network(self, x: Float[Tensor, "*B 3"], s_delta: Float[Tensor, "*#B 3"]) -> Float[Tensor, "*B 3"]:
        """The inverse of `to_network`."""
        return x * (s_delta * self.config.increment_scale)

    def draw_tau(self, count: int, generator: torch.Generator | None, device: torch.device) -> Float[Tensor, " R"]:
        """Flow times of training: U[0, 1], both ends included."""
        return torch.rand(count, generator=generator, device=device)

    def mean_error(
        self, velocity: Float[Tensor, "R H side side 3"], target: Float[Tensor, "R H side side 3"], weight: Tensor
    ) -> Float[Tensor, ""]:
        """Squared error, mean over axes and over grid entries by weight (how much keypoint is there, at most 1).

        0 where nothing has weight. What has none cannot reach the loss, not even as NaN.
        """
        counted = weight > 0
        error = torch.where(counted[..., None], velocity.float() - target.float(), 0).square().mean(dim=-1)
        return (error * weight.clamp(max=1)).sum() / self.total_weight(weight).clamp(min=_LEAST_WEIGHT)

    def total_weight(self, weight: Float[Tensor, "R H side side"]) -> Float[Tensor, ""]:
        """The sum that `mean_error` divides by."""
        return weight.clamp(max=1).sum()

    def schedule(self, steps: int) -> list[tuple[float, float]]:
        """(τ, Δτ) of each Euler step from 1 to 0; the Δτ add up to 1 for any number of steps."""
        return [(1 - step / steps, 1 / steps) for step in range(steps)]

    def unconditional(
        self, tokens: Float[Tensor, "B L C"], null: Float[Tensor, "1 most C"], generator: torch.Generator | None
    ) -> Float[Tensor, "B L C"]:
        """What stands for "no condition" in guidance: the learned null tokens that training drops in."""
        return null[:, : tokens.shape[1]].expand_as(tokens)


def conventions_of(config: TraceGenConfig) -> Conventions:
    """The conventions that a config asks for."""
    if config.compat:
        from traceworld.models.tracegen.compat import ReferenceConventions

        return ReferenceConventions(config)
    return Conventions(config)
