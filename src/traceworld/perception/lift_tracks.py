"""2D tracks to 3D: one lifter for every tracker that knows only pixels."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from traceworld.geometry.cameras import project, unproject
from traceworld.perception.chunks import FrameChunk, PointQueries, PointTracks
from traceworld.perception.interfaces import Tracks2D
from traceworld.perception.lifting import PSEUDO_DEPTH_M, jump_gate, sample_depth

_JUMP = 3.0  # gates by which depth may change from one frame to the next


def lift_tracks(tracks: Tracks2D, chunk: FrameChunk, queries: PointQueries) -> PointTracks:
    """Positions in the world of points followed in the image.

    Depth is read at every seen position, nearest to what it was in the last seen frame, outwards from the query frame in
    both directions. A depth that jumps by more than three gates per frame belongs to something in front or behind: the
    point is then not visible (visibility of the tracker and agreement of the depth together). A point keeps no position
    while it is hidden. Without depth the scene is a plane and every position is known.

    The point of the query itself is taken as given.
    """
    frames, count = tracks.visible.shape
    width, height = chunk.size
    xy = tracks.xy_px.astype(np.float64)
    rows = np.arange(count)
    xy[queries.frame, rows] = queries.xy_px
    inside = np.isfinite(xy).all(-1) & (xy > -0.5).all(-1) & (xy[..., 0] < width - 0.5) & (xy[..., 1] < height - 0.5)
    seen = tracks.visible & inside
    seen[queries.frame, rows] = True
    z = _depths(chunk, queries, xy, seen)
    visible = seen & np.isfinite(z)
    z = np.where(visible, z, np.nan)
    xyz = np.full((frames, count, 3), np.nan)
    for t in range(frames):
        xyz[t] = unproject(xy[t], z[t], chunk.K, chunk.cam_from_world[t])
    xyz[queries.frame, rows] = queries.xyz_world
    return PointTracks(
        xyz.astype(np.float32), xy.astype(np.float32), visible, visible.copy(), tracks.confidence.astype(np.float32)
    )


def _depths(
    chunk: FrameChunk, queries: PointQueries, xy: Float[np.ndarray, "T M 2"], seen: Bool[np.ndarray, "T M"]
) -> Float[np.ndarray, "T M"]:
    frames, count = seen.shape
    if chunk.depth_m is None:
        return np.full((frames, count), PSEUDO_DEPTH_M)
    z = np.full((frames, count), np.nan)
    start = np.zeros(count)
    for t in np.unique(queries.frame):
        asked = queries.frame == t
        start[asked] = project(queries.xyz_world[asked], chunk.K, chunk.cam_from_world[t])[:, 2]
    z[queries.frame, np.arange(count)] = start
    for step in (1, -1):
        last, age = start.copy(), np.zeros(count)
        order = range(frames) if step == 1 else range(frames - 1, -1, -1)
        for t in order:
            begun = (queries.frame - t) * step < 0
            age += begun
            look = np.flatnonzero(begun & seen[t])
            if not len(look):
                continue
            read, _ = sample_depth(chunk.depth_m[t], xy[t, look], last[look])
            with np.errstate(invalid="ignore"):
                fits = np.abs(read - last[look]) < _JUMP * age[look] * jump_gate(last[look])
            z[t, look[fits]] = read[fits]
            last[look[fits]], age[look[fits]] = read[fits], 0
    return z


def from_world(
    xyz_world: Float[np.ndarray, "T M 3"],
    visible: Bool[np.ndarray, "T M"],
    confidence: Float[np.ndarray, "T M"],
    chunk: FrameChunk,
    queries: PointQueries,
) -> PointTracks:
    """The answer of a tracker that works in the world: its projection is the 2D track; the query's own point is kept."""
    xyz = xyz_world.astype(np.float64)
    rows = np.arange(len(queries))
    xyz[queries.frame, rows] = queries.xyz_world
    known = np.asarray(np.isfinite(xyz).all(-1))
    # Cast first: the stored world point, not the unrounded one, must project onto the stored pixel.
    stored = xyz.astype(np.float32)
    xy = np.stack(
        [project(stored[t].astype(np.float64), chunk.K, pose)[:, :2] for t, pose in enumerate(chunk.cam_from_world)]
    )
    width, height = chunk.size
    inside = np.isfinite(xy).all(-1) & (xy > -0.5).all(-1) & (xy[..., 0] < width - 0.5) & (xy[..., 1] < height - 0.5)
    seen = visible & inside & known
    seen[queries.frame, rows] = True
    return PointTracks(stored, xy.astype(np.float32), seen, known, confidence.astype(np.float32))
