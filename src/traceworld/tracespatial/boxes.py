"""Oriented boxes: corners, containment, distance, box of a cloud, separating axes, swept bounds. Arrays throughout.

Two boxes are apart if and only if one of 15 axes separates them: the 3 face normals of each and their 9 cross products. A box
that only translates keeps these axes, so for one moving box and M obstacles they are computed once (`SeparatingAxes`) and
every position, or every straight move, is then a handful of products (`planner`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from traceworld.errors import InvalidInputError
from traceworld.tracespatial.scene import OrientedBox

CORNER_SIGNS: Float[np.ndarray, "8 3"] = np.array(
    [[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)]
)
"""Order of corners everywhere: corner i is center + rotation @ (CORNER_SIGNS[i] * size / 2)."""

MIN_SIDE_M = 1e-3
"""A flat cloud still gets a box with some volume."""

PARALLEL = 1e-8
"""Squared length below which the cross product of two axes counts as none."""


@dataclass(frozen=True, eq=False)
class BoxArray:
    """M boxes as arrays: `center` [M,3], `half` [M,3] half side lengths, `rotation` [M,3,3] with axes as columns."""

    center: Float[np.ndarray, "M 3"]
    half: Float[np.ndarray, "M 3"]
    rotation: Float[np.ndarray, "M 3 3"]

    def __len__(self) -> int:
        return len(self.center)

    def bounds(self) -> tuple[Float[np.ndarray, "M 3"], Float[np.ndarray, "M 3"]]:
        """Lowest and highest world coordinates of each box."""
        reach = np.einsum("mij,mj->mi", np.abs(self.rotation), self.half)
        return self.center - reach, self.center + reach


def stack(boxes: Sequence[OrientedBox]) -> BoxArray:
    """Boxes as arrays (M may be 0)."""
    return BoxArray(
        np.array([box.center_xyz for box in boxes], np.float64).reshape(-1, 3),
        np.array([box.size_m for box in boxes], np.float64).reshape(-1, 3) / 2,
        np.array([box.rotation for box in boxes], np.float64).reshape(-1, 3, 3),
    )


def corners(box: OrientedBox) -> Float[np.ndarray, "8 3"]:
    """The 8 corners in the order of `CORNER_SIGNS`."""
    return box.center_xyz + (CORNER_SIGNS * box.size_m / 2) @ box.rotation.T


def bounds(box: OrientedBox) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " 3"]]:
    """Lowest and highest world coordinates: the axis-aligned box around it."""
    reach = np.abs(box.rotation) @ (box.size_m / 2)
    return box.center_xyz - reach, box.center_xyz + reach


def swept_bounds(
    box: OrientedBox, path_xyz: Float[np.ndarray, "T 3"]
) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " 3"]]:
    """The axis-aligned box around everything that the box covers while its centre runs along `path_xyz`."""
    reach = np.abs(box.rotation) @ (box.size_m / 2)
    return path_xyz.min(0) - reach, path_xyz.max(0) + reach


def support_radius(box: OrientedBox, direction: Float[np.ndarray, " 3"]) -> float:
    """How far the box reaches from its centre along a unit direction, metres."""
    return float(np.abs(direction @ box.rotation) @ (box.size_m / 2))


def moved(box: OrientedBox, center_xyz: Float[np.ndarray, " 3"]) -> OrientedBox:
    """The same box elsewhere."""
    return OrientedBox(center_xyz, box.size_m, box.rotation)


def grown(box: OrientedBox, margin_m: float) -> OrientedBox:
    """The box with every face moved out by `margin_m` (in, when negative; a side stays at least `MIN_SIDE_M`)."""
    return OrientedBox(box.center_xyz, np.maximum(box.size_m + 2 * margin_m, MIN_SIDE_M), box.rotation)


def contains(box: OrientedBox, xyz: Float[np.ndarray, "N 3"], margin_m: float = 0.0) -> Bool[np.ndarray, " N"]:
    """Which points lie in the box, its faces moved out by `margin_m`; the surface counts as inside."""
    local = (xyz - box.center_xyz) @ box.rotation
    return (np.abs(local) <= box.size_m / 2 + margin_m).all(1)


def distance(box: OrientedBox, xyz: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, " N"]:
    """Metres from each point to the box: 0 inside, else to the nearest point of its surface."""
    local = (xyz - box.center_xyz) @ box.rotation
    return np.linalg.norm(np.maximum(np.abs(local) - box.size_m / 2, 0), axis=1)


def pca_box(cloud_xyz: Float[np.ndarray, "N 3"], *, upright: bool = False) -> OrientedBox:
    """The tight box along the principal axes of a cloud (RoboTracer supplement B: boxes by PCA).

    Args:
        cloud_xyz: [N,3] metres.
        upright: only turn about the vertical: the third axis is world z, the others are principal in the ground plane.

    Raises:
        InvalidInputError: fewer than 3 points, or NaN.
    """
    if len(cloud_xyz) < 3 or not np.isfinite(cloud_xyz).all():
        raise InvalidInputError(
            f"{len(cloud_xyz)} points, or NaN among them, give no box", where="pca_box", mend="give 3 finite points"
        )
    cloud = cloud_xyz.astype(np.float64)
    spread = np.cov((cloud - cloud.mean(0)).T, bias=True)
    rotation = np.eye(3)
    if upright:
        _, axes = np.linalg.eigh(spread[:2, :2])
        rotation[:2, :2] = axes[:, ::-1]
    else:
        _, axes = np.linalg.eigh(spread)
        rotation = axes[:, ::-1].copy()
    if np.linalg.det(rotation) < 0:
        rotation[:, 1] *= -1
    local = cloud @ rotation
    low, high = local.min(0), local.max(0)
    return OrientedBox(rotation @ ((low + high) / 2), np.maximum(high - low, MIN_SIDE_M), rotation)


@dataclass(frozen=True, eq=False)
class SeparatingAxes:
    """The 15 axes of one box of fixed orientation against M others.

    Attributes:
        center: [M,3] of the others.
        axes: [M,15,3] unit; zero where two edges are parallel (then `reach` is 1, so that it never separates).
        reach: [M,15] sum of the two boxes' half extents along each axis.
    """

    center: Float[np.ndarray, "M 3"]
    axes: Float[np.ndarray, "M 15 3"]
    reach: Float[np.ndarray, "M 15"]

    def gaps(self, xyz: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N M"]:
        """With the box centred at each point: the largest gap along any axis. Negative: they overlap, by at most so much;
        positive: they are apart, by at least so much."""
        offset = np.einsum("nmj,mkj->nmk", xyz[:, None] - self.center, self.axes)
        return (np.abs(offset) - self.reach).max(2)


def separating_axes(box: OrientedBox, others: BoxArray) -> SeparatingAxes:
    """The 15 candidate axes of `box` against each of `others`."""
    M = len(others)
    own = np.broadcast_to(box.rotation.T, (M, 3, 3))
    theirs = np.swapaxes(others.rotation, 1, 2)
    cross = np.cross(own[:, :, None], theirs[:, None]).reshape(M, 9, 3)
    axes = np.concatenate([own, theirs, cross], axis=1)
    squared = (axes**2).sum(2, keepdims=True)
    parallel = squared[..., 0] < PARALLEL
    axes = np.where(parallel[..., None], 0.0, axes / np.sqrt(np.maximum(squared, PARALLEL)))
    reach = np.abs(axes @ box.rotation) @ (box.size_m / 2)
    reach = reach + np.einsum("mkj,mj->mk", np.abs(axes @ others.rotation), others.half)
    return SeparatingAxes(others.center, axes, np.where(parallel, 1.0, reach))


def gaps(box: OrientedBox, others: BoxArray) -> Float[np.ndarray, " M"]:
    """Largest gap along any separating axis to each other box; negative where they overlap."""
    return separating_axes(box, others).gaps(box.center_xyz[None])[0]


def overlap(first: OrientedBox, second: OrientedBox) -> bool:
    """Whether two boxes share more than their surface (separating-axis test, 15 axes)."""
    return bool(gaps(first, stack([second]))[0] < 0)
