"""Where a box may be, and which straight moves of it are free: bounding boxes first, separating axes for the rest.

The box only translates. Then the positions at which it overlaps one obstacle form a convex body bounded by 15 pairs of planes
(`boxes.SeparatingAxes`), and a straight move collides exactly when it crosses that body: no step length, no misses.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from traceworld.tracespatial.boxes import grown, separating_axes, stack
from traceworld.tracespatial.scene import OrientedBox


class CollisionWorld:
    """A moving box among boxes that stand still.

    Args:
        moving: the box as it stands; only its size and orientation matter.
        obstacles: what it must not touch.
        clearance_m: the moving box is grown by this much on every side.
    """

    def __init__(self, moving: OrientedBox, obstacles: Sequence[OrientedBox], clearance_m: float = 0.0):
        self.moving = grown(moving, clearance_m)
        others = stack(obstacles)
        self._slabs = separating_axes(self.moving, others)
        reach = np.abs(self.moving.rotation) @ (self.moving.size_m / 2)
        low, high = others.bounds()
        self._low, self._high = low - reach, high + reach  # positions at which the bounding boxes overlap
        self._flat_center = np.einsum("mj,mkj->mk", self._slabs.center, self._slabs.axes)

    def free(self, xyz: Float[np.ndarray, "N 3"]) -> Bool[np.ndarray, " N"]:
        """Positions of the centre at which the box overlaps nothing (to touch is free)."""
        return self.moves_free(xyz, xyz)

    def hits(self, xyz: Float[np.ndarray, " 3"]) -> Int[np.ndarray, " K"]:
        """Indices of the obstacles that the box overlaps at one position."""
        enter, leave, which = self.blocked(xyz, xyz)
        return np.unique(which[enter < leave])

    def moves_free(
        self, start_xyz: Float[np.ndarray, "N 3"], end_xyz: Float[np.ndarray, "N 3"]
    ) -> Bool[np.ndarray, " N"]:
        """Which straight moves, N of them, overlap nothing on their whole way."""
        move, obstacle = self._near(start_xyz, end_xyz)
        enter, leave = self._cross(start_xyz, end_xyz, move, obstacle)
        free = np.ones(len(start_xyz), bool)
        free[move[enter < leave]] = False
        return free

    def blocked(
        self, start_xyz: Float[np.ndarray, " 3"], end_xyz: Float[np.ndarray, " 3"]
    ) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, " K"], Int[np.ndarray, " K"]]:
        """For one straight move: from which to which fraction of it each of K obstacles is overlapped, and which these are."""
        move, obstacle = self._near(start_xyz[None], end_xyz[None])
        enter, leave = self._cross(start_xyz[None], end_xyz[None], move, obstacle)
        hit = enter < leave
        return enter[hit], leave[hit], obstacle[hit]

    def pushes(self, xyz: Float[np.ndarray, " 3"], obstacle: int) -> Float[np.ndarray, "6 3"]:
        """The six axis-aligned moves after which the bounding boxes of the box at `xyz` and of an obstacle just touch."""
        up, down = self._high[obstacle] - xyz + 1e-6, self._low[obstacle] - xyz - 1e-6
        return np.concatenate([np.diag(up), np.diag(down)])

    def _near(self, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pairs (move, obstacle) whose swept bounding boxes overlap: the only ones worth a closer look."""
        low, high = np.minimum(start, end)[:, None], np.maximum(start, end)[:, None]
        move, obstacle = np.nonzero(((low < self._high) & (high > self._low)).all(2))
        return move, obstacle

    def _cross(
        self, start: np.ndarray, end: np.ndarray, move: np.ndarray, obstacle: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The part of each move, as fractions in [0,1], that lies inside all 15 slabs of its obstacle; enter ≥ leave when
        there is none. A move of no length gives (0, 1) inside."""
        axes, reach = self._slabs.axes[obstacle], self._slabs.reach[obstacle]
        at = np.einsum("pkj,pj->pk", axes, start[move]) - self._flat_center[obstacle]
        speed = np.einsum("pkj,pj->pk", axes, (end - start)[move])
        still = np.abs(speed) < 1e-12
        speed = np.where(still, 1.0, speed)
        one, other = (-reach - at) / speed, (reach - at) / speed
        inside = np.abs(at) < reach - 1e-9
        enter = np.where(still, np.where(inside, 0.0, 2.0), np.minimum(one, other)).max(1)
        leave = np.where(still, np.where(inside, 1.0, -1.0), np.maximum(one, other)).min(1)
        enter, leave = np.maximum(enter, 0.0), np.minimum(leave, 1.0)
        return enter, np.where(leave - enter > 1e-9, leave, enter)
