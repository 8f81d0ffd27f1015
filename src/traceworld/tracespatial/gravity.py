"""Turning a scene upright: P′ = P R_gᵀ, and boxes recovered from the corners that are usable (`reference/robotracer.md` §5.3).

Annotations of 3D scans come as corners, some of them missing. Eight corners are an affine image of ±1 cubes, centre plus three
half edges, so four that do not lie in one plane fix the box; fewer do not, and the box is dropped.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from traceworld.errors import InvalidInputError
from traceworld.geometry.rigid import mean_rotation
from traceworld.traces.types import Camera
from traceworld.tracespatial.boxes import CORNER_SIGNS
from traceworld.tracespatial.scene import OrientedBox

MIN_CORNERS = 4
SKEW_TOLERANCE = 0.05
"""A box whose edges are further than this from perpendicular (cosine) is no box."""


def gravity_rotation(up: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "3 3"]:
    """R_g: the smallest rotation that turns the scene's upward direction into +z.

    Raises:
        InvalidInputError: `up` has no direction.
    """
    length = np.linalg.norm(up)
    if not np.isfinite(length) or length < 1e-9:
        raise InvalidInputError(f"{up} has no direction", where="gravity_rotation", mend="give minus gravity")
    x, y, z = np.asarray(up, np.float64) / length
    if z < -1 + 1e-9:  # upside down: half a turn about x, as good as any
        return np.diag([1.0, -1.0, -1.0])
    cross = np.array([[0, 0, -x], [0, 0, -y], [x, y, 0]])
    return np.eye(3) + cross + cross @ cross / (1 + z)


def align_to_gravity(
    xyz: Float[np.ndarray, "*points 3"], R_g: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "*points 3"]:
    """Points in the upright world: P′ = P R_gᵀ. NaN stays NaN."""
    return xyz @ R_g.T


def align_camera(camera: Camera, R_g: Float[np.ndarray, "3 3"]) -> Camera:
    """The same camera, its pose told in the upright world."""
    pose = camera.cam_from_world.astype(np.float64).copy()
    pose[:3, :3] = pose[:3, :3] @ R_g.T
    return Camera(camera.K, pose, camera.width, camera.height)


def boxes_from_corners(
    corners_xyz: Float[np.ndarray, "M 8 3"],
    R_g: Float[np.ndarray, "3 3"],
    valid: Bool[np.ndarray, "M 8"] | None = None,
) -> tuple[list[OrientedBox], list[int]]:
    """Boxes in the upright world, the bad ones dropped.

    Args:
        corners_xyz: [M,8,3] metres in the order of `boxes.CORNER_SIGNS` (a source permutes its own order into this one).
        R_g: see `gravity_rotation`.
        valid: [M,8] which corners may be used; NaN corners are never.

    Returns:
        The boxes, and for each its index among the M. Dropped are those with fewer than `MIN_CORNERS` usable corners, with
        corners in one plane, with a side of no length, or with edges that are not perpendicular.
    """
    aligned = align_to_gravity(corners_xyz.astype(np.float64), R_g)
    usable = np.isfinite(aligned).all(2)
    if valid is not None:
        usable &= valid
    boxes, index = [], []
    for i in range(len(aligned)):
        box = _fit(aligned[i, usable[i]], CORNER_SIGNS[usable[i]])
        if box is not None:
            boxes.append(box)
            index.append(i)
    return boxes, index


def _fit(xyz: np.ndarray, signs: np.ndarray) -> OrientedBox | None:
    """Centre and three half edges by least squares from n corners, made orthogonal."""
    if len(xyz) < MIN_CORNERS:
        return None
    design = np.concatenate([np.ones((len(signs), 1)), signs], axis=1)
    solution, _, rank, _ = np.linalg.lstsq(design, xyz, rcond=None)
    if rank < 4:
        return None
    half = np.linalg.norm(solution[1:], axis=1)
    if (half < 1e-6).any():
        return None
    axes = (solution[1:] / half[:, None]).T
    if np.abs(axes.T @ axes - np.eye(3)).max() > SKEW_TOLERANCE:
        return None
    if np.linalg.det(axes) < 0:  # the source counts its corners in a mirrored order
        axes[:, 2] *= -1
    return OrientedBox(solution[0], 2 * half, mean_rotation(axes[None]))
