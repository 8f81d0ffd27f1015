"""Traces drawn on pictures with OpenCV: past tails on a frame, and a fan of predicted futures beside what happened.

Nothing here needs a display or matplotlib. Points are given in pixels of the picture they are drawn on (pixel centres
at integers) and keep sub-pixel accuracy. What is drawn is what was predicted: a predicted trace ends where *its own*
validity says so and is never hidden by the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from traceworld.errors import InvalidInputError, MediaError
from traceworld.geometry import cameras as cam
from traceworld.traces.atomic import write_atomically
from traceworld.traces.types import Clip, TracePrediction

Colour = tuple[int, int, int]

STATIC: Colour = (205, 210, 218)
TRUTH: Colour = (64, 224, 144)
SAMPLES: tuple[Colour, ...] = ((255, 122, 40), (255, 170, 60), (250, 84, 92), (236, 96, 170), (255, 206, 92))
OUTLINE: Colour = (16, 18, 24)

_SHIFT = 4  # OpenCV draws at 1/16 pixel with this


def time_colours(count: int) -> UInt8[np.ndarray, "count 3"]:
    """`count` colours from old (violet) to now (yellow), RGB."""
    ramp = np.linspace(40, 245, max(count, 1)).astype(np.uint8)[None]
    bgr = cv2.applyColorMap(ramp, cv2.COLORMAP_PLASMA)[0]
    return np.ascontiguousarray(bgr[:count, ::-1])


def tail_frames(clip: Clip, seconds: float = 0.8) -> int:
    """How many frames a tail of so many seconds has (8 to 60)."""
    step = float(np.median(np.diff(clip.time_s))) if clip.num_frames > 1 else seconds
    return int(np.clip(round(seconds / step), 8, 60))


def draw_tails(
    image: UInt8[np.ndarray, "H W 3"],
    xy_px: Float[np.ndarray, "T N 2"],
    visible: Bool[np.ndarray, "T N"],
    valid: Bool[np.ndarray, "T N"],
    moving: Bool[np.ndarray, " N"],
    *,
    radius: float | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """Draw N points where they are in the last of T frames, with the way they came.

    Args:
        image: the picture of frame T−1; it is not changed.
        xy_px: pixels of this picture for the last T frames, oldest first (NaN where unknown).
        visible: a point that is known but hidden now is drawn hollow.
        valid: positions that may be used; others break the tail.
        moving: moving points have a tail coloured by time (violet: old, yellow: now); static ones a small grey dot.
        radius: of the head in pixels; by default from the size of the picture.

    Returns:
        A new picture of the same size.
    """
    canvas = np.ascontiguousarray(image).copy()
    frames = len(xy_px)
    if frames == 0 or xy_px.shape[1] == 0:
        return canvas
    size = radius if radius is not None else _default_radius(canvas)
    drawable = valid & np.isfinite(xy_px).all(-1)
    colours = time_colours(frames)
    for n in np.flatnonzero(~moving):
        if drawable[-1, n]:
            _dot(canvas, xy_px[-1, n], size * 0.5, STATIC, filled=bool(visible[-1, n]))
    for t in range(1, frames):  # oldest first, so that newer pieces lie on top
        width = max(1, round(size * (0.35 + 0.55 * t / frames)))
        for n in np.flatnonzero(moving & drawable[t - 1] & drawable[t]):
            _line(canvas, xy_px[t - 1, n], xy_px[t, n], _rgb(colours[t]), width)
    head = _rgb(colours[-1])
    for n in np.flatnonzero(moving & drawable[-1]):
        _dot(canvas, xy_px[-1, n], size, head, filled=bool(visible[-1, n]))
    return canvas


def overlay_clip(
    image: UInt8[np.ndarray, "Himg Wimg 3"],
    clip: Clip,
    frame: int,
    *,
    tail: int | None = None,
    width: int | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """The traces of `clip` drawn on its picture of `frame`.

    The last `tail` positions (by default those of the last 0.8 s) are projected through the camera of `frame`, so tails stay glued to the scene when the
    camera moves.

    Args:
        width: width of the result in pixels (the picture is resized before drawing); None keeps its own.

    Raises:
        InvalidInputError: `frame` is outside the clip.
    """
    if not 0 <= frame < clip.num_frames:
        raise InvalidInputError(f"frame {frame} of {clip.num_frames}", where=f"clip {clip.clip_id}")
    canvas = resize_to_width(image, width or image.shape[1])
    first = max(0, frame - (tail_frames(clip) if tail is None else tail))
    traces, camera = clip.traces, clip.cameras[frame]
    xyz = cam.project(traces.xyz_world[first : frame + 1].astype(np.float64), camera.K, camera.cam_from_world)
    xy = _rescale_px(xyz[..., :2], (camera.width, camera.height), canvas)
    window = slice(first, frame + 1)
    return draw_tails(canvas, xy, traces.visible[window], traces.valid[window], traces.moving)


def draw_fan(
    image: UInt8[np.ndarray, "H W 3"],
    samples_xy_px: Float[np.ndarray, "S N H_ 2"],
    samples_valid: Bool[np.ndarray, "S N H_"],
    anchor_xy_px: Float[np.ndarray, "N 2"],
    true_xy_px: Float[np.ndarray, "N H_ 2"] | None = None,
    true_valid: Bool[np.ndarray, "N H_"] | None = None,
    *,
    radius: float | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """A fan of S predicted futures per point (warm colours) and, where given, what happened (green).

    Each trace starts at the anchor. A predicted trace stops at its own first invalid step, with a dot at
    its end; the truth is drawn where it is valid.
    """
    canvas = np.ascontiguousarray(image).copy()
    size = radius if radius is not None else _default_radius(canvas)
    thin = max(1, round(size * 0.5))
    fan = canvas.copy()
    samples, points, _ = samples_valid.shape
    for s in range(samples):
        for n in range(points):
            _path(fan, _joined(anchor_xy_px[n], samples_xy_px[s, n], samples_valid[s, n]), SAMPLES[s % 5], thin)
    canvas = cv2.addWeighted(fan, 0.8, canvas, 0.2, 0.0)
    if true_xy_px is not None:
        known = np.isfinite(true_xy_px).all(-1) if true_valid is None else true_valid & np.isfinite(true_xy_px).all(-1)
        for n in range(points):
            _path(canvas, _joined(anchor_xy_px[n], true_xy_px[n], known[n]), TRUTH, max(1, round(size * 0.6)))
    for s in range(samples):
        for n in range(points):
            end = _last_valid(samples_valid[s, n])
            if end is not None:
                _dot(canvas, samples_xy_px[s, n, end], size * 0.45, SAMPLES[s % 5], filled=True, outline=False)
    for n in range(points):
        _dot(canvas, anchor_xy_px[n], size * 0.6, (255, 255, 255), filled=True)
    return canvas


def overlay_prediction(
    image: UInt8[np.ndarray, "Himg Wimg 3"],
    prediction: TracePrediction,
    anchor_uv: Float[np.ndarray, "N 2"],
    true_uvz: Float[np.ndarray, "N H_ 3"] | None = None,
    true_valid: Bool[np.ndarray, "N H_"] | None = None,
    *,
    points: Int[np.ndarray, " M"] | None = None,
    width: int | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """`draw_fan` for a `TracePrediction` (uv of the observation's picture), of all points or of `points` only."""
    canvas = resize_to_width(image, width or image.shape[1])
    height_px, width_px = canvas.shape[:2]
    pick = np.arange(len(anchor_uv)) if points is None else points

    def pixels(uv: np.ndarray) -> np.ndarray:
        return np.asarray(cam.uv_to_px(np.asarray(uv, np.float64), width_px, height_px))

    return draw_fan(
        canvas,
        pixels(prediction.uvz[:, pick, :, :2]),
        _until_end(prediction.valid[:, pick]),
        pixels(anchor_uv[pick]),
        None if true_uvz is None else pixels(true_uvz[pick, :, :2]),
        None if true_valid is None else true_valid[pick],
    )


def resize_to_width(image: UInt8[np.ndarray, "H W 3"], width: int) -> UInt8[np.ndarray, "h w 3"]:
    """The picture at another width, same proportions (area filter down, cubic up)."""
    height_px, width_px = image.shape[:2]
    if width == width_px:
        return np.ascontiguousarray(image)
    height = max(1, round(height_px * width / width_px))
    filter_ = cv2.INTER_AREA if width < width_px else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=filter_)


def label(image: UInt8[np.ndarray, "H W 3"], text: str) -> UInt8[np.ndarray, "H W 3"]:
    """The picture with a short caption (ASCII) on a dark plate in its upper left corner."""
    canvas = np.ascontiguousarray(image).copy()
    scale = canvas.shape[1] / 1100
    (w, h), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    pad = max(3, round(10 * scale))
    plate = canvas[: h + base + 2 * pad, : w + 2 * pad]
    plate[:] = (plate * 0.35).astype(np.uint8)
    cv2.putText(canvas, text, (pad, pad + h), cv2.FONT_HERSHEY_SIMPLEX, scale, (245, 245, 245), 1, cv2.LINE_AA)
    return canvas


def side_by_side(
    pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]], *, gap: int = 8, background: Colour = (255, 255, 255)
) -> UInt8[np.ndarray, "H W 3"]:
    """Pictures of one height in a row."""
    if not pictures or len({p.shape[0] for p in pictures}) != 1:
        raise InvalidInputError("needs at least one picture, all of one height", where="side_by_side")
    bar = np.full((pictures[0].shape[0], gap, 3), background, np.uint8)
    row = [piece for picture in pictures for piece in (picture, bar)][:-1]
    return np.concatenate(row, axis=1)


def save_still(path: Path, image: UInt8[np.ndarray, "H W 3"]) -> Path:
    """Write a picture (PNG or JPEG by its ending), atomically.

    Raises:
        MediaError: the ending is not one OpenCV can write.
    """
    path = Path(path)
    try:
        ok, data = cv2.imencode(path.suffix, np.ascontiguousarray(image[..., ::-1]))
    except cv2.error:
        ok, data = False, None
    if not ok or data is None:
        raise MediaError("cannot write a picture of this kind", where=str(path), mend="end the name in .png or .jpg")
    encoded = data.tobytes()
    write_atomically(path, lambda temporary: temporary.write_bytes(encoded))
    return path


def _rgb(colour: np.ndarray) -> Colour:
    return int(colour[0]), int(colour[1]), int(colour[2])


def _default_radius(image: np.ndarray) -> float:
    return max(2.0, image.shape[1] / 210)


def _rescale_px(xy_px: np.ndarray, size: tuple[int, int], image: np.ndarray) -> np.ndarray:
    """Pixels of a `size` (width, height) image → pixels of `image`, whatever its resolution (outer edges coincide)."""
    scale = np.array([image.shape[1] / size[0], image.shape[0] / size[1]])
    return (xy_px + 0.5) * scale - 0.5


def _fixed(xy: np.ndarray) -> tuple[int, int]:
    # OpenCV keeps coordinates in 32 bits after the shift: far-away points are cut, they are outside the picture anyway.
    x, y = np.clip(xy, -30000, 30000)
    return round(float(x) * 2**_SHIFT), round(float(y) * 2**_SHIFT)


def _line(canvas: np.ndarray, a: np.ndarray, b: np.ndarray, colour: Colour, width: int) -> None:
    cv2.line(canvas, _fixed(a), _fixed(b), colour, width, cv2.LINE_AA, _SHIFT)


def _dot(
    canvas: np.ndarray, at: np.ndarray, radius: float, colour: Colour, *, filled: bool, outline: bool = True
) -> None:
    """A disc with a dark rim, or a ring. Blended by coverage: OpenCV's small circles are diamonds."""
    if not np.isfinite(at).all():
        return
    reach = int(np.ceil(radius)) + 2
    x0, y0 = (max(0, int(np.floor(np.clip(c, -30000, 30000))) - reach) for c in at)
    patch = canvas[y0 : max(0, int(min(at[1], 30000)) + reach + 2), x0 : max(0, int(min(at[0], 30000)) + reach + 2)]
    if not patch.size:
        return
    y, x = np.ogrid[y0 : y0 + patch.shape[0], x0 : x0 + patch.shape[1]]
    distance = np.hypot(x - at[0], y - at[1])
    layers = [(colour, np.clip(radius + 0.5 - distance, 0, 1))]
    if filled and outline:
        layers.insert(0, (OUTLINE, np.clip(radius + 1.5 - distance, 0, 1)))
    if not filled:
        layers = [(colour, np.clip(1.2 - np.abs(distance - radius), 0, 1))]
    for shade, cover in layers:
        patch[:] = np.rint(patch + (np.array(shade) - patch.astype(np.float64)) * cover[..., None]).astype(np.uint8)


def _path(canvas: np.ndarray, xy: np.ndarray, colour: Colour, width: int) -> None:
    """A polyline broken at NaN."""
    known = np.isfinite(xy).all(-1)
    for i in np.flatnonzero(known[:-1] & known[1:]):
        _line(canvas, xy[i], xy[i + 1], colour, width)


def _joined(anchor: np.ndarray, future: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return np.concatenate([anchor[None], np.where(valid[:, None], future, np.nan)])


def _until_end(valid: np.ndarray) -> np.ndarray:
    """True up to the first invalid step: a trace that has ended does not come back."""
    return np.logical_and.accumulate(valid, axis=-1)


def _last_valid(valid: np.ndarray) -> int | None:
    steps = np.flatnonzero(valid)
    return int(steps[-1]) if len(steps) else None
