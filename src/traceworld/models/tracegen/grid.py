"""The fixed grid of image points, and the way between it and arbitrary keypoints.

TraceGen predicts the motion of a regular grid. Training windows and questions hold arbitrary keypoints. Both ways use one
matrix A [N, points]: row n holds the bilinear weights of keypoint n over the four grid points around it (rows sum to 1;
beyond the outermost points the nearest ones count).

- Asking (`sample`): a keypoint's increments are A · grid.
- Training (`splat`, the adjoint): a grid point's increments are the mean of its keypoints', weighted by Aᵀ; a point without a
  keypoint has weight 0, holds no motion, and is left out of the loss.

So the points a question touches are exactly those that a training window with the same keypoints would fill.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """`side`² points, row-major; point i of an axis lies at uv = start + i · step.

    Attributes:
        side: points per side.
        start, step: in uv units, the same for u and v.
    """

    side: int
    start: float
    step: float

    @staticmethod
    def of_cells(side: int) -> Grid:
        """Centres of side² equal cells of the picture."""
        return Grid(side, -1 + 1 / side, 2 / side)

    @property
    def uv(self) -> Float[Tensor, "points 2"]:
        axis = self.start + self.step * torch.arange(self.side, dtype=torch.float64)
        v, u = torch.meshgrid(axis, axis, indexing="ij")
        return torch.stack([u, v], dim=-1).flatten(0, 1).float()

    def weights(self, uv: Float[Tensor, "B N 2"]) -> Float[Tensor, "B N points"]:
        """A: the bilinear weights of each keypoint over all grid points."""
        place = ((uv.float() - self.start) / self.step).nan_to_num().clamp(0, self.side - 1)
        low = place.floor().clamp(max=max(self.side - 2, 0))
        part, low = place - low, low.long()
        high = (low + 1).clamp(max=self.side - 1)
        matrix = uv.new_zeros(*uv.shape[:2], self.side**2, dtype=torch.float32)
        for column, along in ((low[..., 0], 1 - part[..., 0]), (high[..., 0], part[..., 0])):
            for row, across in ((low[..., 1], 1 - part[..., 1]), (high[..., 1], part[..., 1])):
                index = (row * self.side + column)[..., None]
                matrix = matrix.scatter_add(2, index, (along * across)[..., None])
        return matrix

    def splat(
        self, matrix: Float[Tensor, "B N points"], values: Float[Tensor, "B N H 3"], known: Bool[Tensor, "B N H"]
    ) -> tuple[Float[Tensor, "B H side side 3"], Float[Tensor, "B H side side"]]:
        """Per-keypoint values as a field on the grid, and the weight of the keypoints behind each entry (0: none)."""
        counted = known.float()
        total = torch.einsum("bnp,bnh->bhp", matrix, counted)
        summed = torch.einsum("bnp,bnhc->bhpc", matrix, torch.where(known[..., None], values.float(), 0))
        field = summed / torch.where(total > 0, total, 1.0)[..., None]
        return field.unflatten(2, (self.side, -1)), total.unflatten(2, (self.side, -1))

    def sample(
        self, matrix: Float[Tensor, "B N points"], field: Float[Tensor, "B S H side side 3"]
    ) -> Float[Tensor, "B S N H 3"]:
        """The field at each keypoint."""
        return torch.einsum("bnp,bshpc->bsnhc", matrix, field.flatten(3, 4))


def increments(
    displacement: Float[Tensor, "*B H 3"], valid: Bool[Tensor, "*B H"]
) -> tuple[Float[Tensor, "*B H 3"], Bool[Tensor, "*B H"]]:
    """Displacements from the anchor → d_i = p_i − p_{i−1}, i = 1…H, and where they are known (both ends valid).

    An unknown increment is 0: the point is taken to stand still (dossier §2.4).
    """
    before = torch.cat([torch.zeros_like(displacement[..., :1, :]), displacement[..., :-1, :]], dim=-2)
    known = valid & torch.cat([torch.ones_like(valid[..., :1]), valid[..., :-1]], dim=-1)
    return torch.where(known[..., None], displacement - before, 0), known


def displacements(increment: Float[Tensor, "*B H 3"]) -> Float[Tensor, "*B H 3"]:
    """The inverse of `increments` where all is known: the cumulative sum."""
    return increment.cumsum(dim=-2)
