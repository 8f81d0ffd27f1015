"""The arc-length clock: time measured by how far the scene's fastest points have travelled (mu0-paper §2.2).

One clock per clip for all its points, so that step k means the same instant for each of them. The released pipeline runs
one clock per group, adds image fractions to metres of depth, and lets a single jittering corner wind the clock on; here a
step's length is a metric displacement seen from the reference camera in image widths, noise below a dead zone does not
count, and the length of a step is that of several fast points, not of the fastest.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from traceworld.errors import InvalidInputError
from traceworld.geometry.cameras import transform

NOISE_FLOOR = 1e-4
"""Image widths (0.06 px at 640): traces quieter than this are taken as exact and not smoothed."""
DEAD_ZONE_SIGMAS = 5.0
"""Radius of the dead zone in standard deviations of the (smoothed) position noise."""
WANDER_RADII = 3.0
"""The dead zone also covers this many times the rms wander of the quieter points, which slow wobble widens unseen..."""
WANDER_LIMIT = 0.005
"""... but no more than this (image widths, 3.2 px at 640), for in some clips every point truly moves."""
SUPPORTERS = 3
"""A step must be travelled by this many points (fewer only if fewer than five are seen)."""
FASTEST_SHARE = 0.1
"""The clock follows the point that this share of the points under way outpaces."""
_SMOOTHING = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
_STEP_WINDOW = 7


def _shifted(values: np.ndarray, offset: int, fill: float | bool) -> np.ndarray:
    """values[t + offset], `fill` outside."""
    out = np.full_like(values, fill)
    if offset > 0:
        out[:-offset] = values[offset:]
    elif offset < 0:
        out[-offset:] = values[:offset]
    else:
        out[:] = values
    return out


def _local_line(xyz: np.ndarray, valid: np.ndarray, kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value at each frame of the line fitted to the valid frames around it, and by how much that lowers noise [T,N].

    Exact on straight motion, at the ends and beside gaps too (where it lowers noise less).
    """
    half = len(kernel) // 2
    known = np.where(valid[..., None], xyz, 0.0)
    w0, w1, w2 = np.zeros((3, *valid.shape))  # moments Σ w oⁱ over offsets o
    q0, q1, q2 = np.zeros((3, *valid.shape))  # moments Σ w² oⁱ
    total, moment = np.zeros(xyz.shape), np.zeros(xyz.shape)
    for offset in range(-half, half + 1):
        weight = kernel[offset + half] * _shifted(valid, offset, False)
        neighbour = _shifted(known, offset, 0.0) * weight[..., None]
        w0, w1, w2 = w0 + weight, w1 + offset * weight, w2 + offset**2 * weight
        q0, q1, q2 = q0 + weight**2, q1 + offset * weight**2, q2 + offset**2 * weight**2
        total += neighbour
        moment += offset * neighbour
    determinant = w0 * w2 - w1**2
    fits = determinant > 1e-9  # else only one frame is known, and its value is kept; or none, and nothing changes
    determinant, lone = np.where(fits, determinant, 1.0), np.where(w0 > 0, w0, 1.0)
    line = (w2[..., None] * total - w1[..., None] * moment) / determinant[..., None]
    gain = np.sqrt(np.maximum(w2**2 * q0 - 2 * w1 * w2 * q1 + w1**2 * q2, 0.0)) / determinant
    flat = np.where((w0 > 0)[..., None], total / lone[..., None], xyz)
    return np.where(fits[..., None], line, flat), np.where(fits, gain, 1.0)


def _not_spikes(z: np.ndarray, valid: np.ndarray, noise_m: np.ndarray) -> np.ndarray:
    """Valid positions [T,N] without those whose depth leaves its neighbourhood of five frames and comes back.

    Depth at the edge of an object jumps to the background for a frame or two; that is no journey. A spike lies off the
    neighbourhood's median by far more than noise and than the neighbourhood's calmest step (two spikes in five frames
    cannot spoil every step of one or two frames).
    """
    T = len(z)  # at least 6: shorter clips have no noise estimate and are not cleaned
    known = np.where(valid, z, np.nan)
    ordered = np.sort(np.lib.stride_tricks.sliding_window_view(known, 5, axis=0), axis=-1)  # NaN goes last
    count = np.isfinite(ordered).sum(-1, keepdims=True)
    median = np.take_along_axis(ordered, np.maximum(count - 1, 0) // 2, axis=-1)[..., 0]
    one, two = np.abs(np.diff(known, axis=0)), np.abs(known[2:] - known[:-2]) / 2
    calmest = np.full(median.shape, np.inf)
    for steps, places in ((one, 4), (two, 3)):
        for offset in range(places):
            calmest = np.fmin(calmest, steps[offset : offset + T - 4])
    window = np.clip(np.arange(T) - 2, 0, T - 5)  # at the ends the nearest whole neighbourhood
    return valid & ~(np.abs(known - median[window]) > 4 * calmest[window] + 8 * noise_m)


def _noise(xyz: np.ndarray, valid: np.ndarray, widths_per_m: np.ndarray) -> np.ndarray:
    """[N] standard deviation of each point's position noise in image widths, from third differences over time.

    Third differences cancel smooth motion; their median ignores the frames where motion is not smooth. A point's own
    estimate is kept within 1 to 2 times the median over points: few frames make it uncertain, and a point that moves fast
    at a low frame rate must not count as noisy.
    """
    T, N = valid.shape
    sigma = np.full(N, np.nan)
    if T >= 4:
        jerk = xyz[3:] - 3 * xyz[2:-1] + 3 * xyz[1:-2] - xyz[:-3]
        whole = valid[3:] & valid[2:-1] & valid[1:-2] & valid[:-3]
        squared = np.where(whole, (jerk**2).sum(-1) * widths_per_m[1:-2] ** 2, np.nan)
        measured = whole.sum(0) >= 3
        if measured.any():
            # 20: variance of a third difference of unit noise; 0.4549: median of a squared unit normal.
            sigma[measured] = np.sqrt(np.nanmedian(squared[:, measured], axis=0) / (20 * 0.4549))
    typical = np.nanmedian(sigma) if np.isfinite(sigma).any() else 0.0
    return np.clip(np.where(np.isfinite(sigma), sigma, typical), typical, 2 * typical)


def _wander(xyz: np.ndarray, valid: np.ndarray, widths_per_m: np.ndarray) -> float:
    """rms distance, in image widths, of a quiet point (the lower quartile of points) from its mean position."""
    count = np.maximum(valid.sum(0), 1)
    mean = np.where(valid[..., None], xyz, 0.0).sum(0) / count[:, None]
    squared = np.where(valid, ((xyz - mean) ** 2).sum(-1) * widths_per_m**2, 0.0)
    return float(np.sqrt(np.quantile(squared.sum(0) / count, 0.25)))


def _dragged_lengths(xyz: np.ndarray, valid: np.ndarray, widths_per_m: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """[T-1,N] image widths travelled by a weight that each point drags behind it on a rope of length `radius` [T,N].

    Wobble within the radius does not move the weight, slow steady motion does: a dead zone on position, not on speed.
    Steps with an unknown end count nothing and the weight restarts where the point is seen again.
    """
    T, N = valid.shape
    lengths = np.zeros((max(T - 1, 0), N))
    weight = xyz[0].copy() if T else np.zeros((N, 3))
    for t in range(1, T):
        known = valid[t] & valid[t - 1]
        pull = xyz[t] - weight
        distance = np.linalg.norm(pull, axis=-1)
        move = np.where(known, np.maximum(distance - radius[t] / widths_per_m[t], 0.0), 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(distance > 0, move / distance, 0.0)
        weight = np.where(known[:, None], weight + share[:, None] * pull, xyz[t])
        lengths[t - 1] = np.where(known, move * (0.5 * (widths_per_m[t] + widths_per_m[t - 1])), 0.0)
    return lengths


def _window_mean(lengths: np.ndarray, known: np.ndarray, window: int) -> np.ndarray:
    """Mean of each point's step lengths over the known steps of a window: noise in one step is undone by the next."""
    half = window // 2
    total, count = np.zeros(lengths.shape), np.zeros(lengths.shape)
    for offset in range(-half, half + 1):
        total += _shifted(lengths, offset, 0.0)
        count += _shifted(known, offset, False)
    return np.where(known, total / np.maximum(count, 1), 0.0)


def _step_of_the_fast(lengths: np.ndarray, known: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """[T-1] the k-th longest step; k is a share of the points under way at that step, and never one point's word alone."""
    counted = np.where(known & moving, lengths, 0.0)
    supporters = np.minimum(SUPPORTERS, (known.sum(1) + 1) // 2)
    rank = np.maximum(supporters, np.ceil(FASTEST_SHARE * (counted > 0).sum(1)).astype(int))
    descending = -np.sort(-counted, axis=1)
    return descending[np.arange(len(counted)), np.maximum(rank, 1) - 1]


def arc_length_clock(
    xyz_world: Float[np.ndarray, "T N 3"],
    valid: Bool[np.ndarray, "T N"],
    K: Float[np.ndarray, "3 3"],
    cam_from_world: Float[np.ndarray, "4 4"],
    width: int,
    moving: Bool[np.ndarray, " N"] | None = None,
) -> Float[np.ndarray, " T"]:
    """Cumulative path length of the scene's fast points, in image widths: one clock for all points (mu0-paper §2.2).

    The length of a point's step is its metric displacement times fx / (z · width): what it would measure, in image widths,
    if it were made parallel to the image. Scaling the scene, or the image's resolution, leaves the clock as it is.
    Position noise is estimated per point from third differences over time (clips of six frames or more); noisy traces are smoothed over five frames and
    only travel beyond a dead zone of `DEAD_ZONE_SIGMAS` counts. The scene's step is that of the k-th fastest moving point,
    k = max(3, 10 % of those under way), so that one wild track cannot wind the clock.

    Args:
        xyz_world: positions, metres; anything where not valid.
        valid: positions that may be used. Points behind the reference camera are left out.
        K, cam_from_world: the one reference camera; K in pixels of an image `width` wide.
        width: pixels.
        moving: points that pass the movement filter; others do not drive the clock. Default: all.

    Returns:
        s [T], s[0] = 0, never decreasing. Constant while the scene pauses; all zero if nothing moves.

    Raises:
        InvalidInputError: width < 1 or a focal length that is not positive.
    """
    T = len(xyz_world)
    fx = float(K[0, 0])
    if width < 1 or not fx > 0:
        raise InvalidInputError(
            f"width {width} and focal length {fx:.4g} px must be positive",
            where="arc_length_clock",
            mend="give K in px",
        )
    clock = np.zeros(T)
    valid = valid & np.isfinite(xyz_world).all(-1)
    xyz = transform(cam_from_world.astype(np.float64), np.where(valid[..., None], xyz_world, 0.0).astype(np.float64))
    valid &= xyz[..., 2] > 0
    seen = valid.any(0)
    if T < 2 or not seen.any():
        return clock
    xyz, valid = np.where(valid[..., None], xyz, 0.0)[:, seen], valid[:, seen]
    moving = np.ones(seen.sum(), bool) if moving is None else moving[seen]
    widths_per_m = fx / (np.where(valid, xyz[..., 2], 1.0) * width)

    sigma = _noise(xyz, valid, widths_per_m)
    noisy = float(np.median(sigma)) > NOISE_FLOOR
    radius = np.zeros(valid.shape)
    if noisy:
        xyz, gain = _local_line(xyz, _not_spikes(xyz[..., 2], valid, sigma / widths_per_m), _SMOOTHING)
        wander = min(WANDER_RADII * _wander(xyz, valid, widths_per_m), WANDER_LIMIT)
        radius = np.maximum(DEAD_ZONE_SIGMAS * sigma * gain, wander)
        widths_per_m = fx / (np.where(valid & (xyz[..., 2] > 0), xyz[..., 2], 1.0) * width)  # without the spikes
    lengths = _dragged_lengths(xyz, valid, widths_per_m, radius)
    known = valid[1:] & valid[:-1]
    if noisy:
        lengths = _window_mean(lengths, known, _STEP_WINDOW)
    clock[1:] = np.cumsum(_step_of_the_fast(lengths, known, moving))
    return clock


def sample_at(
    times: Float[np.ndarray, " T"],
    values: Float[np.ndarray, " T *rest"],
    valid: Bool[np.ndarray, " T *prefix"],
    query: Float[np.ndarray, " Q"],
) -> tuple[Float[np.ndarray, " Q *rest"], Bool[np.ndarray, " Q *prefix"]]:
    """Linear interpolation between samples, valid only where both neighbours are; an exact hit needs only that one.

    Args:
        times: strictly increasing (frame numbers or seconds).
        values: [T, ...]; `valid` covers the first of its dimensions, e.g. values [T,N,3] with valid [T,N].
        query: times to sample at; NaN or outside `times` gives an invalid sample.

    Returns:
        values [Q, ...] (NaN where invalid) and valid [Q, ...].

    Raises:
        InvalidInputError: times that do not increase, or lengths that disagree.
    """
    T = len(times)
    if T == 0 or not (np.diff(times) > 0).all():
        raise InvalidInputError("times must increase strictly and not be empty", where="sample_at.times")
    if len(values) != T or values.shape[: valid.ndim] != valid.shape:
        raise InvalidInputError(
            f"values {values.shape} and valid {valid.shape} do not belong to {T} times", where="sample_at"
        )
    inside = (query >= times[0]) & (query <= times[-1])
    at = np.where(inside, query, times[0])
    if T == 1:
        left, right, share = np.zeros(len(at), int), np.zeros(len(at), int), np.zeros(len(at))
    else:
        left = np.clip(np.searchsorted(times, at, side="right") - 1, 0, T - 2)
        right = left + 1
        share = (at - times[left]) / (times[right] - times[left])
    share = np.where(share < 1e-9, 0.0, np.where(share > 1 - 1e-9, 1.0, share))  # rounding must not demand a neighbour
    beside = (slice(None),) + (None,) * (valid.ndim - 1)
    ok = (valid[left] | (share == 1)[beside]) & (valid[right] | (share == 0)[beside]) & inside[beside]
    weight = share.reshape((-1,) + (1,) * (values.ndim - 1))
    lower = np.where(weight == 1, 0, values[left])  # 0 · NaN of an unused neighbour would be NaN
    upper = np.where(weight == 0, 0, values[right])
    mixed = (1 - weight) * lower + weight * upper
    ok_wide = ok.reshape(ok.shape + (1,) * (values.ndim - valid.ndim))
    return np.where(ok_wide, mixed, np.nan).astype(values.dtype), ok


def _check_steps(s: np.ndarray, frame: float | int | np.number, step: float | int, where: str) -> None:
    if not step > 0:
        raise InvalidInputError(f"step {step} must be positive", where=where)
    if not 0 <= frame <= len(s) - 1:
        raise InvalidInputError(f"frame {frame} is not one of {len(s)}", where=where)


def steps_ahead(
    s: Float[np.ndarray, " T"], frame: float | int | np.number, step: float | int, count: int
) -> Float[np.ndarray, " count"]:
    """Frame times, fractional, at which the clock has advanced by step, 2·step, ..., count·step since `frame`.

    Where the clock stands still (a pause) the first time that the length is reached is taken. NaN past the end.
    """
    _check_steps(s, frame, step, "steps_ahead")
    target = np.interp(float(frame), np.arange(len(s)), s) + step * np.arange(1, count + 1)
    if len(s) < 2:
        return np.full(count, np.nan)
    slack = 1e-9 * step  # rounding must not carry a step across a pause, or past the end
    at = np.clip(np.searchsorted(s, target - slack, side="left"), 1, len(s) - 1)
    rise = s[at] - s[at - 1]
    share = (target - s[at - 1]) / np.where(rise > 0, rise, 1.0)
    return np.where(target <= s[-1] + slack, at - 1 + np.clip(share, 0.0, 1.0), np.nan)


def steps_back(
    s: Float[np.ndarray, " T"], frame: float | int | np.number, step: float | int, count: int
) -> Float[np.ndarray, " count"]:
    """Frame times, fractional, at which the clock stood step, 2·step, ..., count·step before `frame` (nearest first).

    In a pause the latest such time is taken. NaN before the beginning. Flip the result for a history, oldest first.
    """
    _check_steps(s, frame, step, "steps_back")
    # Seen from the end backwards the clock runs forwards, and the latest time becomes the first.
    last = len(s) - 1
    return last - steps_ahead((s[-1] - s)[::-1], last - frame, step, count)


# --- the released pipelines' rule -------------------------------------------------------------------------------------


def official_times(
    tracks: Float[np.ndarray, "N H 3"],
    interval: float | int = 0.05,
    top: float | int = 0.02,
    max_length: int = 128,
    image_size: tuple[int, int] | None = None,
) -> Float[np.ndarray, " M"]:
    """Frame times, fractional, at which the released retiming samples all tracks alike; arguments as `official_retime`.

    M = min(⌊S/interval⌋ + 1, max_length) for a path of length S; the first time is 0.

    Raises:
        InvalidInputError: no track, no frame, a position that is not finite, or an impossible option.
    """
    where = "official_times"
    if 0 in tracks.shape:
        raise InvalidInputError(f"tracks of shape {tracks.shape} are empty", where=where)
    if not (interval > 0 and 0 < top <= 1 and max_length >= 1) or (image_size is not None and min(image_size) < 1):
        raise InvalidInputError("interval, top, max_length and image_size must be positive, top ≤ 1", where=where)
    if not np.isfinite(tracks).all():
        raise InvalidInputError("a position is not finite", where=where, mend="leave the track out or fill its gaps")
    N, H, _ = tracks.shape
    if H == 1:
        return np.zeros(1)
    # One track decides for all, and metres of depth count like shares of the image: that is the rule.
    steps = np.linalg.norm(np.diff(_official_units(tracks, image_size), axis=1), axis=-1)
    fastest = max(1, int(np.ceil(top * N)))
    length = np.sort(steps, axis=0)[-fastest:].mean(0)
    path = np.concatenate([np.zeros(1, length.dtype), np.cumsum(length)])
    total = float(path[-1])
    target = np.arange(min(int(np.floor(total / interval)) + 1, max_length)) * float(interval)
    target[-1] = min(target[-1], total)
    left = np.clip(np.searchsorted(path, target, side="right") - 1, 0, H - 2)
    return left + (target - path[left]) / np.maximum(length[left], 1e-12)


def _official_units(tracks: np.ndarray, image_size: tuple[int, int] | None) -> np.ndarray:
    """Tracks with u and v as shares: of the image, or of where the last track starts (then cut to [0, 1])."""
    uv, z = tracks[..., :2], tracks[..., 2:]
    if image_size is not None:
        return np.concatenate([uv / np.asarray(image_size, tracks.dtype), z], -1)
    return np.concatenate([np.clip(uv / _corner(tracks), 0, 1), z], -1)


def _corner(tracks: np.ndarray) -> np.ndarray:
    corner = tracks[-1, 0, :2]
    return np.where(np.abs(corner) < 1e-12, 1, corner).astype(tracks.dtype)


def official_retime(
    tracks: Float[np.ndarray, "N H 3"],
    interval: float | int = 0.05,
    top: float | int = 0.02,
    max_length: int = 128,
    image_size: tuple[int, int] | None = None,
) -> tuple[Float[np.ndarray, "N L 3"], Bool[np.ndarray, " L"]]:
    """Retiming by path length exactly as the released pipelines do it, for their files and for comparison.

    The scene's step from frame to frame is the mean of the longest ⌈top · N⌉ steps; all tracks are sampled by linear
    interpolation where it has grown by `interval`. Lengths add shares of the image to raw z, whatever its unit; noise and
    hidden points count; use `arc_length_clock` for anything else.

    Args:
        tracks: (u px, v px, z), frame 0 first; arithmetic is done in their dtype.
        interval: path between samples.
        top: share of the tracks, the fastest, whose mean step counts.
        max_length: number of samples returned.
        image_size: (width, height) px: TraceExtract's rule (u and v divided by it). None: TraceForge's rule (divided by
            where the last track starts and cut to [0, 1], which cuts the returned positions too).

    Returns:
        tracks [N, max_length, 3], −inf after the last valid sample; valid [max_length].

    Raises:
        InvalidInputError: as `official_times`.
    """
    times = official_times(tracks, interval, top, max_length, image_size)
    cut = tracks
    if image_size is None:
        corner = _corner(tracks)
        cut = np.concatenate([np.clip(tracks[..., :2] / corner, 0, 1) * corner, tracks[..., 2:]], -1)
    left = np.minimum(np.floor(times).astype(int), max(tracks.shape[1] - 2, 0))
    right = np.minimum(left + 1, tracks.shape[1] - 1)
    share = (times - left)[None, :, None]
    out = np.full((len(tracks), max_length, 3), -np.inf, tracks.dtype)
    out[:, : len(times)] = (1 - share) * cut[:, left] + share * cut[:, right]
    return out, np.arange(max_length) < len(times)
