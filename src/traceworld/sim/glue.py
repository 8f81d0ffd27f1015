"""Exact traces: points glued to rigid bodies, seen or hidden by an exact depth test.

A pixel of a frame is lifted by the exact depth, expressed in the frame of the body it shows, and carried by that body's
pose through every frame (float64 inside). A position is therefore exact in every frame, also where it is hidden.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from traceworld.geometry.cameras import invert_rigid, project, transform, unproject
from traceworld.geometry.motion import trace_diameter
from traceworld.sim.film import Film
from traceworld.traces.types import Cameras, Traces

MOVING_DIAMETER = 40 / 640
"""A point moves when its trace is longer than 40 px in an image 640 px wide (mu0-paper A.2), in image widths."""

DEPTH_TOLERANCE_M, DEPTH_TOLERANCE_RELATIVE = 0.0015, 0.001
"""How far a visible point may lie off the depth image: half a millimetre of a finger is not lost, its back is not seen."""


def lift(
    film: Film, frame: Int[np.ndarray, " N"], uv_px: Float[np.ndarray, "N 2"]
) -> tuple[Float64[np.ndarray, "N 3"], Int[np.ndarray, " N"]]:
    """Surface points under pixels, with the body of each.

    Between pixel centres the depth is that of a plane (inverse depth interpolated linearly) over those of the four
    neighbours that show the same object as the nearest one.

    Returns:
        xyz_world [N,3], NaN where the pixel shows nothing or lies outside the image; body [N], −1 there.
    """
    height, width = film.depth_m.shape[1:]
    inside, limit = _inside(uv_px, width, height), np.array([width - 1, height - 1])
    xy = np.where(inside[:, None], uv_px, 0.0).astype(np.float64)
    x, y = np.rint(xy).astype(int).clip(0, limit).T
    shown = np.where(inside, film.object_id[frame, y, x], -1)
    total, inverse_depth = np.zeros(len(xy)), np.zeros(len(xy))
    for step in ((0, 0), (1, 0), (0, 1), (1, 1)):
        neighbour = np.floor(xy).astype(int) + np.array(step)
        x, y = neighbour.clip(0, limit).T
        depth = film.depth_m[frame, y, x].astype(np.float64)
        same = (film.object_id[frame, y, x] == shown) & np.isfinite(depth) & (neighbour == np.stack([x, y], 1)).all(1)
        weight = np.where(same, np.prod(1 - np.abs(xy - neighbour), axis=1), 0.0)
        total += weight
        inverse_depth += weight / np.where(same, depth, 1.0)
    known = (shown >= 0) & (total > 0)
    z_m = np.divide(total, inverse_depth, out=np.full(len(xy), np.nan), where=known)
    xyz_world = unproject(xy, z_m, film.cameras.K[frame], film.cameras.cam_from_world[frame])
    return xyz_world, np.where(known, film.object_body[np.where(known, shown, 0)], -1)


def carry(
    xyz_world: Float[np.ndarray, "N 3"],
    body: Int[np.ndarray, " N"],
    frame: Int[np.ndarray, " N"],
    body_pose: Float64[np.ndarray, "T bodies 4 4"],
) -> Float64[np.ndarray, "T N 3"]:
    """Where points that are on `body` at `frame` are in every frame."""
    xyz_body = transform(invert_rigid(body_pose[frame, body]), xyz_world)
    pose = body_pose[:, body]
    return np.einsum("tnij,nj->tni", pose[..., :3, :3], xyz_body) + pose[..., :3, 3]


def see(film: Film, xyz_world: Float64[np.ndarray, "T N 3"], body: Int[np.ndarray, " N"]) -> Bool[np.ndarray, "T N"]:
    """Which points are seen in which frames: inside the image, and among the 3×3 pixels around it some show the point's
    own body at its own depth (their smallest to largest depth, widened by the tolerance)."""
    T, height, width = film.depth_m.shape
    spot = project(xyz_world, film.cameras.K, film.cameras.cam_from_world)
    inside = _inside(spot[..., :2], width, height)
    nearest_px = np.rint(np.where(inside[..., None], spot[..., :2], 0)).astype(int).clip(0, [width - 1, height - 1])
    x, y = nearest_px[..., 0], nearest_px[..., 1]
    nearest, farthest = np.full(x.shape, np.inf), np.full(x.shape, -np.inf)
    frame = np.arange(T)[:, None]
    body_of = np.append(film.object_body, -2)  # object −1, nothing, is of no body
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            column, row = (x + dx).clip(0, width - 1), (y + dy).clip(0, height - 1)
            depth = film.depth_m[frame, row, column]
            own = (body_of[film.object_id[frame, row, column]] == body) & np.isfinite(depth)
            nearest = np.minimum(nearest, np.where(own, depth, np.inf))
            farthest = np.maximum(farthest, np.where(own, depth, -np.inf))
    z = spot[..., 2]
    slack = DEPTH_TOLERANCE_M + DEPTH_TOLERANCE_RELATIVE * np.abs(z)
    with np.errstate(invalid="ignore"):
        return inside & (z >= nearest - slack) & (z <= farthest + slack)


def moves(xyz_world: Float64[np.ndarray, "T N 3"], cameras: Cameras) -> Bool[np.ndarray, " N"]:
    """The movement filter (mu0-paper A.2), with every frame counted (an exact position is known while hidden) and
    measured in the first camera, so that a moving camera moves nothing."""
    path = project(xyz_world, cameras.K[0], cameras.cam_from_world[0])
    return trace_diameter(path, np.isfinite(path).all(-1)) > MOVING_DIAMETER * cameras.width


def traces_of(film: Film, query_frame: Int[np.ndarray, " N"], uv_px: Float[np.ndarray, "N 2"]) -> Traces:
    """Exact traces of the points seen at pixels `uv_px` of frames `query_frame`, in the film's world frame.

    A query that shows nothing (sky, or outside the image) gives a point that is never valid.
    """
    xyz, body = lift(film, query_frame, uv_px)
    known = body >= 0
    path = carry(xyz, np.where(known, body, 0), query_frame, film.body_pose)
    return Traces(
        xyz_world=path.astype(np.float32),
        visible=see(film, path, body) & known,
        valid=np.repeat(known[None], film.num_frames, 0),
        part_id=np.where(known, film.body_part[body], -1).astype(np.int32),
        moving=np.where(known, moves(path, film.cameras), False),
        query_frame=query_frame.astype(np.int32),
    )


def _inside(xy_px: np.ndarray, width: int, height: int) -> np.ndarray:
    x, y = xy_px[..., 0], xy_px[..., 1]
    with np.errstate(invalid="ignore"):
        return (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
