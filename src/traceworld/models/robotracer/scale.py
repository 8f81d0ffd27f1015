"""The metric scale of a scene, regressed from the language model's state at `<SCALE>` (paper §3.2, D.1).

s is what normalised geometry has to be multiplied by to become metres. The spatial encoder sees depth divided by its mean, so
the mean of normalised depth is 1 and s* is the mean of the known depth in metres (the paper does not spell s* out; this is
metric mean depth / normalised mean depth).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from traceworld.errors import CheckpointError
from traceworld.models.robotracer.geometry import mean_depth

FLOOR = 1e-8
"""No scale is below this (as in MapAnything)."""


class ScaleProjector(nn.Module):
    """The language model's state at `<SCALE>` → the width of the scale decoder."""

    def __init__(self, dim_in: int, dim_out: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim_in)
        self.linear = nn.Linear(dim_in, dim_out)

    def forward(self, state: Float[Tensor, "B C"]) -> Float[Tensor, "B D"]:
        return self.linear(self.norm(state))


class ScaleDecoder(nn.Module):
    """linear → 196, two layers (linear 196, ReLU), linear → 1: the log of the scale. The shape of MapAnything's scale head."""

    def __init__(self, dim_in: int, hidden: int = 196):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim_in, hidden),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 1),
        )

    def forward(self, state: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """Natural log of the scale in metres, float32, not below log `FLOOR`."""
        return self.layers(state)[:, 0].float().clamp(min=math.log(FLOOR))

    @torch.no_grad()
    def start_from(self, head: nn.Module) -> None:
        """Copy the linear layers of another head of this shape (MapAnything's).

        Raises:
            CheckpointError: it has other layers.
        """
        own = [layer for layer in self.modules() if isinstance(layer, nn.Linear)]
        theirs = [layer for layer in head.modules() if isinstance(layer, nn.Linear)]
        shapes = [[tuple(layer.weight.shape) for layer in layers] for layers in (own, theirs)]
        if shapes[0] != shapes[1]:
            raise CheckpointError(
                f"has layers {shapes[1]}, the scale decoder {shapes[0]}",
                where="scale head",
                mend="set scale_width and scale_hidden to its widths, or spatial.scale_head to false",
            )
        for mine, other in zip(own, theirs, strict=True):
            mine.load_state_dict(other.state_dict())


def scale_target(depth_m: Float[Tensor, "B H W"]) -> Float[Tensor, " B"]:
    """s* in metres from ground-truth depth, whether or not the model is shown it; NaN (no target) where no depth is known."""
    return mean_depth(depth_m)


def scale_loss(log_scale: Float[Tensor, " B"], target: Float[Tensor, " B"]) -> Float[Tensor, ""]:
    """Mean of (log ŝ − log s*)² over the samples that have a target (finite, above 0); 0 if none has."""
    known = torch.isfinite(target) & (target > 0)
    goal = torch.where(known, target, 1.0).float().log()
    error = torch.where(known, log_scale.float() - goal, 0.0)
    return error.square().sum() / known.sum().clamp(min=1)
