"""Cut a clip into motion-centred events (mu0-paper §2.3, A.5): acceleration, Savitzky-Golay, peaks, valleys.

Everything is in seconds and image widths, so neither frame rate nor resolution changes where events begin.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.signal import find_peaks, savgol_filter

from traceworld.geometry.cameras import project
from traceworld.traces.types import Cameras, Traces

QUIET = 0.05
"""Smoothed acceleration, image widths / s², that is nothing but tracker jitter; lower maxima are no actions."""
FIT_WINDOW_S = 0.3
"""Positions within this time are fitted by one parabola whose curvature is the acceleration."""
_REPEAT_WIDTHS = 1e-4
_VIEW_FRAMES = 32
"""With a camera that moves, so many frames are seen by the one in their middle."""
_WHOLE_FRAMES = 2048
"""With a camera at rest, longer films are looked at in pieces, for which memory need not grow."""
_GRID_FACTOR = 20


@dataclass(frozen=True, eq=False)
class EventCut:
    """Where a clip was cut, and the signal that said so.

    Attributes:
        spans: half-open frame ranges that tile the clip.
        acceleration: [T] mean over moving keypoints, image widths / s².
        smoothed: [T] after Savitzky-Golay.
        peaks: frames of the actions.
    """

    spans: tuple[tuple[int, int], ...]
    acceleration: Float[np.ndarray, " T"]
    smoothed: Float[np.ndarray, " T"]
    peaks: tuple[int, ...]


def reference_widths(
    traces: Traces, cameras: Cameras, lambda_z: float = 0.1, frame: int = 0, frames: slice = slice(None)
) -> Float[np.ndarray, "T N 3"]:
    """Traces over `frames` seen by the camera of `frame`, in image widths; NaN where not valid.

    Depth is weighted by `lambda_z` (A.2) after it is turned into the sideways motion, in image widths, that the same length
    has at the point's mean depth. So no axis depends on resolution or on the unit of the reconstruction.
    """
    xyz = project(traces.xyz_world[frames].astype(np.float64), cameras.K[frame], cameras.cam_from_world[frame])
    xyz[~traces.valid[frames]] = np.nan
    xyz[~np.isfinite(xyz).all(-1)] = np.nan
    count = np.isfinite(xyz[..., 2]).sum(0)
    mean_z = np.nansum(xyz[..., 2], 0) / np.maximum(count, 1)
    per_metre = cameras.K[frame, 0, 0] / np.where(count > 0, mean_z, 1.0)
    xyz[..., 2] *= lambda_z * per_metre
    return xyz / cameras.width


def repeated_frames(positions: Float[np.ndarray, "T N 3"]) -> Bool[np.ndarray, " T"]:
    """Frames in which every point stays exactly where it was although it moves before and after: repeats of a picture."""
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=-1)  # [T-1,N]
    known = np.isfinite(steps)
    total = np.where(known, steps, 0).sum(1) / np.maximum(known.sum(1), 1)
    still = (total < _REPEAT_WIDTHS) & known.any(1)
    moves = total > 10 * _REPEAT_WIDTHS
    repeated = np.zeros(len(positions), bool)
    repeated[1:-1] = still[:-1] & moves[1:]
    repeated[2:] &= moves[:-1]  # the step before the repeat moved, too: a lone repeat, no pause
    return repeated


def accelerations(
    positions: Float[np.ndarray, "T N 3"], time_s: Float[np.ndarray, " T"], window_s: float = FIT_WINDOW_S
) -> Float[np.ndarray, "T N"]:
    """Length of the acceleration vector of each point in each frame; NaN where fewer than three positions are known nearby.

    It is the curvature of the least-squares parabola through the known positions within `window_s`, at least one frame to
    either side; for three frames that is the central difference on uneven times. The first and last frame have none.
    """
    T, N, _ = positions.shape
    out = np.full((T, N), np.nan)
    for frame in range(1, T - 1):
        half = window_s / 2 + 1e-9
        low = min(frame - 1, int(np.searchsorted(time_s, time_s[frame] - half)))
        high = max(frame + 2, int(np.searchsorted(time_s, time_s[frame] + half, side="right")))
        out[frame] = _curvature(positions[low:high], time_s[low:high] - time_s[frame])
    return out


def _curvature(positions: Float[np.ndarray, "W N 3"], dt: Float[np.ndarray, " W"]) -> Float[np.ndarray, " N"]:
    """|2c| of the parabola a + b dt + c dt² fitted to each point's known positions; NaN with fewer than three."""
    weight = np.isfinite(positions).all(-1).astype(np.float64)  # [W,N]
    scale = np.abs(dt).max()
    u = dt / scale
    powers = u[:, None] ** np.arange(5)
    moments = powers.T @ weight  # [5,N]
    normal = np.stack([moments[i : i + 3] for i in range(3)], 0)  # [3,3,N]
    right = np.einsum("wk,wnd->nkd", powers[:, :3], np.where(weight[..., None] > 0, positions, 0.0))
    normal = np.moveaxis(normal, -1, 0)
    enough = weight.sum(0) >= 3
    result = np.full(positions.shape[1], np.nan)
    if enough.any():
        coefficients = np.linalg.solve(normal[enough], right[enough])
        result[enough] = 2 * np.linalg.norm(coefficients[:, 2], axis=-1) / scale**2
    return result


def acceleration_signal(
    traces: Traces, cameras: Cameras, time_s: Float[np.ndarray, " T"], lambda_z: float = 0.1
) -> Float[np.ndarray, " T"]:
    """Mean acceleration of the valid moving keypoints per frame, image widths / s² (A.5).

    Frames without any such point take the value between their neighbours; 0 if no frame has one.
    """
    T = traces.num_frames
    moving = traces.moving
    if T < 3 or not moving.any():
        return np.zeros(T)
    size = _VIEW_FRAMES if not cameras.static else T if T <= _WHOLE_FRAMES else _WHOLE_FRAMES // 2
    mean = np.full(T, np.nan)
    for start in range(0, T, size):
        stop = min(start + size, T)
        values = _seen_together(traces, cameras, time_s, lambda_z, start, stop)[:, moving]
        known = np.isfinite(values)
        some = known.any(1)
        mean[start:stop][some] = (np.where(known, values, 0).sum(1) / np.maximum(known.sum(1), 1))[some]
    has = np.isfinite(mean)
    if not has.any():
        return np.zeros(T)
    return np.interp(time_s, time_s[has], mean[has])


def _seen_together(
    traces: Traces, cameras: Cameras, time_s: np.ndarray, lambda_z: float, start: int, stop: int
) -> Float[np.ndarray, "t N"]:
    """Accelerations [stop − start,N] of the moving points (NaN for others) as one camera of these frames sees them.

    The clip's first camera would do for one that hardly turns. What a head that looks round has left behind has no place there.
    """
    low = max(0, min(start - 1, int(np.searchsorted(time_s, time_s[start] - FIT_WINDOW_S))))
    high = max(stop + 1, int(np.searchsorted(time_s, time_s[stop - 1] + FIT_WINDOW_S, side="right")))
    frames = slice(low, min(high, len(time_s)))
    view = 0 if cameras.static else (start + stop) // 2
    positions = reference_widths(traces, cameras, lambda_z, view, frames)
    positions[:, ~traces.moving] = np.nan
    positions[repeated_frames(positions)] = np.nan
    return accelerations(positions, time_s[frames])[start - low : stop - low]


def smooth(
    signal: Float[np.ndarray, " T"], time_s: Float[np.ndarray, " T"], window_s: float
) -> tuple[Float[np.ndarray, " G"], Float[np.ndarray, " G"]]:
    """Savitzky-Golay (order 2) on a uniform grid with the clip's median step: (grid times, smoothed values ≥ 0)."""
    step = float(np.median(np.diff(time_s)))
    span = float(time_s[-1] - time_s[0])
    count = min(round(span / step) + 1, _GRID_FACTOR * len(time_s))  # one huge gap must not ask for endless memory
    grid = np.linspace(time_s[0], time_s[-1], max(count, 2))
    values = np.interp(grid, time_s, signal)
    step = (grid[-1] - grid[0]) / (len(grid) - 1)
    window = max(5, 2 * int(window_s / step / 2) + 1)
    window = min(window, len(grid) - 1 + len(grid) % 2)  # odd, and no longer than the signal
    if window >= 5:
        values = savgol_filter(values, window, 2)
    return grid, np.maximum(values, 0)


def valleys(smoothed: Float[np.ndarray, " T"], peaks: Int[np.ndarray, " P"]) -> list[int]:
    """Frame of least smoothed acceleration between each two neighbouring peaks: b_i of eq. 2 (the first one on ties)."""
    return [int(start + np.argmin(smoothed[start : end + 1])) for start, end in itertools.pairwise(peaks)]


def enforce_durations(
    boundaries: list[int], time_s: Float[np.ndarray, " T"], min_s: float, max_s: float
) -> tuple[tuple[int, int], ...]:
    """Frame ranges between the boundaries, short ones joined to their shorter neighbour, long ones cut into equal times.

    A clip shorter than `min_s` stays one event. Frame `e` of a range [s, e) begins the next; the last range ends with the clip.
    """
    T = len(time_s)
    ends = np.append(time_s, time_s[-1] + (time_s[-1] - time_s[-2] if T > 1 else 0.0))
    edges = sorted({0, T, *(b for b in boundaries if 0 < b < T)})

    def length(k: int) -> float:
        return float(ends[edges[k + 1]] - ends[edges[k]])

    while len(edges) > 2:
        lengths = [length(k) for k in range(len(edges) - 1)]
        shortest = int(np.argmin(lengths))
        if lengths[shortest] >= min_s - 1e-9:
            break
        left = lengths[shortest - 1] if shortest > 0 else np.inf
        right = lengths[shortest + 1] if shortest + 1 < len(lengths) else np.inf
        edges.pop(shortest if left <= right else shortest + 1)
    spans: list[tuple[int, int]] = []
    for k in range(len(edges) - 1):
        pieces = max(1, int(np.ceil(length(k) / max_s - 1e-9)))
        cuts = np.linspace(ends[edges[k]], ends[edges[k + 1]], pieces + 1)[1:-1]
        inner = [int(np.abs(time_s - cut).argmin()) for cut in cuts]
        marks = sorted({edges[k], edges[k + 1], *(m for m in inner if edges[k] < m < edges[k + 1])})
        spans += list(itertools.pairwise(marks))
    return tuple(spans)


def cut_events(
    traces: Traces,
    cameras: Cameras,
    time_s: Float[np.ndarray, " T"],
    *,
    lambda_z: float = 0.1,
    smooth_s: float = 0.75,
    peak_prominence: float = 0.25,
    min_event_s: float = 1.0,
    max_event_s: float = 20.0,
) -> EventCut:
    """Events of a clip: spans between the quietest moments that separate prominent bursts of acceleration.

    Args:
        time_s: [T] seconds, strictly increasing, any spacing.
        smooth_s: Savitzky-Golay window.
        peak_prominence: share of the smoothed signal's range by which a peak must stand out.
        min_event_s, max_event_s: limits on an event's duration. A clip without motion is one event, however long.
    """
    T = len(time_s)
    signal = acceleration_signal(traces, cameras, time_s, lambda_z)
    if T < 3 or signal.max(initial=0.0) < QUIET:
        return EventCut(((0, T),), signal, signal, ())
    grid, on_grid = smooth(signal, time_s, smooth_s)
    smoothed = np.interp(time_s, grid, on_grid)
    step = (grid[-1] - grid[0]) / (len(grid) - 1)
    # Zero before and after: motion that begins or ends with the clip is a peak, too.
    padded = np.concatenate([[0.0], on_grid, [0.0]])
    found, _ = find_peaks(
        padded,
        height=QUIET,
        prominence=peak_prominence * float(np.ptp(on_grid)),
        distance=max(1, int(np.ceil(min_event_s / step))),
    )
    peaks = np.unique([int(np.abs(time_s - grid[p - 1]).argmin()) for p in found]).astype(np.int64)
    spans = enforce_durations(valleys(smoothed, peaks), time_s, min_event_s, max_event_s)
    return EventCut(spans, signal, smoothed, tuple(int(p) for p in peaks))
