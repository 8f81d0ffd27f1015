"""What moves in a picture, and what only seems to because the camera does: dense flow, the static-camera gate, residual motion."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

MIN_SIDE_PX = 32  # DIS refuses images of a few pixels; smaller ones are padded to this
STATIC_FLOW_PX = 0.6  # at 640 px width: flow below this is noise
TEXTURE_LEVEL = 3.0  # grey levels per pixel of gradient that count as texture


@dataclass(frozen=True, eq=False)
class FlowField:
    """Dense flow from one image to another on a coarser grid.

    `vectors` [h,w,2] in pixels of the full image; grid cell (i, j) is centred on full-image pixel ((j+0.5)·W/w − 0.5, …).
    """

    vectors: Float[np.ndarray, "h w 2"]
    width: int
    height: int

    def at(self, xy_px: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 2"]:
        """Flow at positions of the full image, bilinear; border values outside."""
        if len(xy_px) == 0:
            return np.zeros((0, 2), np.float32)
        h, w = self.vectors.shape[:2]
        xy = np.nan_to_num(xy_px, nan=0.0)
        map_x = ((xy[:, 0] + 0.5) * (w / self.width) - 0.5).astype(np.float32)
        map_y = ((xy[:, 1] + 0.5) * (h / self.height) - 0.5).astype(np.float32)
        out = np.empty((len(xy), 2), np.float32)
        vectors = self.vectors.astype(np.float32)
        for start in range(0, len(xy), 30_000):
            part = slice(start, start + 30_000)
            out[part] = cv2.remap(
                vectors, map_x[part, None], map_y[part, None], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )[:, 0]
        return out


class DenseFlow:
    """DIS optical flow at a fraction of the image size (medium preset)."""

    def __init__(self, scale: float = 0.5):
        self.scale = scale
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def small(self, gray: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "h w"]:
        """The image at flow size: `scale`, but not below the size that DIS can work on."""
        height, width = gray.shape
        scale = min(1.0, max(self.scale, MIN_SIDE_PX / min(height, width)))
        if scale == 1.0:
            return gray
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        return cv2.resize(gray, size, interpolation=cv2.INTER_AREA)

    def between(
        self, small_a: UInt8[np.ndarray, "h w"], small_b: UInt8[np.ndarray, "h w"], width: int, height: int
    ) -> FlowField:
        """Flow from a to b (both from `small`) of full images of `width` × `height`."""
        h, w = small_a.shape
        pad = (0, max(0, MIN_SIDE_PX - h), 0, max(0, MIN_SIDE_PX - w), cv2.BORDER_REPLICATE)
        padded = [cv2.copyMakeBorder(image, *pad) for image in (small_a, small_b)]
        flow = np.asarray(self._dis.calc(*padded, None))[:h, :w]  # type: ignore[call-overload]  # OpenCV's stubs forget None
        flow = flow * np.array([width / w, height / h], np.float32)
        return FlowField(_halved(flow), width, height)


def _halved(values: np.ndarray) -> np.ndarray:
    """float16, as `astype` rounds; OpenCV 5 does it in a fiftieth of NumPy's time."""
    if int(cv2.__version__.split(".")[0]) < 5:
        return values.astype(np.float16)
    return np.asarray(cv2.multiply(values, np.ones_like(values), dtype=cv2.CV_16F))


def textured(small: UInt8[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels with enough gradient for their flow to mean something."""
    blurred = cv2.GaussianBlur(small, (5, 5), 0).astype(np.float32)
    gx = cv2.Sobel(blurred, cv2.CV_32F, 1, 0, scale=1 / 8)
    gy = cv2.Sobel(blurred, cv2.CV_32F, 0, 1, scale=1 / 8)
    return np.hypot(gx, gy) > TEXTURE_LEVEL


def static_share(flow: FlowField, texture: Bool[np.ndarray, "h w"]) -> float:
    """Share of textured pixels that stay put (|flow| < 0.6 px at 640 px width); NaN without texture.

    More than one half says: the camera does not move (perception gate; without it flow noise becomes ego-motion).
    """
    texture = texture[::2, ::2]  # a quarter of the pixels tells a share, and this is asked of every frame
    if not texture.any():
        return float("nan")
    limit = STATIC_FLOW_PX * flow.width / 640
    x, y = flow.vectors[::2, ::2][texture].astype(np.float32).T
    return float((x * x + y * y < limit * limit).mean())


def camera_flow(
    depth_m: Float[np.ndarray, "H W"],
    K: Float[np.ndarray, "3 3"],
    b_from_a: Float[np.ndarray, "4 4"],
    like: FlowField,
) -> Float[np.ndarray, "h w 2"]:
    """Flow that a still scene would show: each grid cell lifted with its depth and seen from the second camera; NaN in holes."""
    h, w = like.vectors.shape[:2]
    x = (np.arange(w) + 0.5) * (like.width / w) - 0.5
    y = (np.arange(h) + 0.5) * (like.height / h) - 0.5
    z = depth_m[np.rint(y).astype(int).clip(0, like.height - 1)][:, np.rint(x).astype(int).clip(0, like.width - 1)]
    gx, gy = np.meshgrid((x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1])
    points = np.stack([gx * z, gy * z, z], -1) @ b_from_a[:3, :3].T + b_from_a[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        u = points[..., 0] / points[..., 2] * K[0, 0] + K[0, 2]
        v = points[..., 1] / points[..., 2] * K[1, 1] + K[1, 2]
    flow = np.stack([u - x[None, :], v - y[:, None]], -1)
    flow[~(points[..., 2] > 1e-3)] = np.nan
    return flow.astype(np.float32)


def homography_flow(flow: FlowField, texture: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "h w 2"]:
    """Camera-induced flow of a source without depth: the homography that most textured pixels follow (RANSAC); zero if none."""
    h, w = flow.vectors.shape[:2]
    x = (np.arange(w) + 0.5) * (flow.width / w) - 0.5
    y = (np.arange(h) + 0.5) * (flow.height / h) - 0.5
    grid = np.stack(np.meshgrid(x, y), -1).astype(np.float32)
    vectors = flow.vectors.astype(np.float32)
    pick = np.argwhere(texture)[:: max(1, int(texture.sum()) // 1500)]
    still = np.zeros_like(vectors)
    if len(pick) < 20:
        return still
    source = grid[pick[:, 0], pick[:, 1]]
    cv2.setRNGSeed(0)
    matrix, _ = cv2.findHomography(source, source + vectors[pick[:, 0], pick[:, 1]], cv2.RANSAC, 2.0)
    if matrix is None or not np.isfinite(matrix).all():
        return still
    moved = cv2.perspectiveTransform(grid.reshape(1, -1, 2), matrix).reshape(h, w, 2)
    return moved - grid


def residual_motion(flow: FlowField, of_camera: Float[np.ndarray, "h w 2"] | None) -> Float[np.ndarray, "h w"]:
    """Length of the flow that the camera does not explain, pixels of the full image; 0 where unknown."""
    vectors = flow.vectors.astype(np.float32)
    if of_camera is not None:
        vectors = vectors - of_camera
    length = np.linalg.norm(vectors, axis=-1)
    if of_camera is not None:  # flow is off by a share of its length: that much is no motion of the scene's
        length = np.maximum(length - 0.1 * np.linalg.norm(of_camera, axis=-1), 0.0)
    return np.nan_to_num(length, nan=0.0).astype(np.float32)


def depth_change(
    depth_a: Float[np.ndarray, "H W"],
    depth_b: Float[np.ndarray, "H W"],
    K: Float[np.ndarray, "3 3"],
    b_from_a: Float[np.ndarray, "4 4"],
    size: tuple[int, int],
) -> Bool[np.ndarray, "h w"]:
    """Where the scene's shape at frame a is no longer there at frame b, on a grid of `size` (columns, rows).

    This is what tells an object that moves from a shadow or a highlight that does: both make flow, only the object leaves
    its place. Gone means that the second view looks through it at something farther: something nearer may just have come in
    between. Cells without depth in either frame say nothing (False), and so do cells that leave the image.
    """
    height, width = depth_a.shape
    w, h = size
    x = (np.arange(w) + 0.5) * (width / w) - 0.5
    y = (np.arange(h) + 0.5) * (height / h) - 0.5
    rows, columns = np.rint(y).astype(int).clip(0, height - 1), np.rint(x).astype(int).clip(0, width - 1)
    z = depth_a[rows][:, columns]
    gx, gy = np.meshgrid((columns - K[0, 2]) / K[0, 0], (rows - K[1, 2]) / K[1, 1])
    points = np.stack([gx * z, gy * z, z], -1) @ b_from_a[:3, :3].T + b_from_a[:3, 3]
    expected = points[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        u = points[..., 0] / expected * K[0, 0] + K[0, 2]
        v = points[..., 1] / expected * K[1, 1] + K[1, 2]
    known = np.isfinite(u) & np.isfinite(v) & (expected > 1e-3)
    inside = known & (u > 0.5) & (v > 0.5) & (u < width - 1.5) & (v < height - 1.5)
    ui = np.rint(np.where(inside, u, 1)).astype(int)
    vi = np.rint(np.where(inside, v, 1)).astype(int)
    gate = np.maximum(0.015 * np.nan_to_num(expected), 0.008)
    # Any of the four neighbours agreeing is enough: silhouettes and slopes must not count as change.
    near = np.stack(
        [
            depth_b[(vi + dv).clip(0, height - 1), (ui + du).clip(0, width - 1)]
            for dv, du in ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))
        ]
    )
    with np.errstate(invalid="ignore"):
        differs = near - expected > gate
    return inside & differs.all(0) & np.isfinite(near).all(0)
