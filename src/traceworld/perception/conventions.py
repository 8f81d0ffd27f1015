"""From the conventions of other people's models to those of this house, and back: all of them, in this one place.

The house: OpenCV camera axes, poses `cam_from_world`, z-depth with NaN where unknown, pixels of the stored image with the
centres of pixels at integers, points as (x, y), tracks as [T,N,…], visible = in view and not hidden, metres. Nothing here
knows a backend by name: a backend states its native convention (`Native`) and calls these functions with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.geometry.cameras import invert_rigid, resize_K, transform

Pose = Literal["none", "cam_from_world", "world_from_cam"]
Axes = Literal["opencv", "opengl"]
Centres = Literal["integer", "half"]
Depth = Literal["none", "z", "ray", "inverse"]
Range = Literal["0..1", "0..255", "-1..1", "imagenet"]
Order = Literal["none", "txy", "tyx", "tXYZ"]
Scale = Literal["none", "metric", "per-pass", "input"]

_OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
_IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)


@dataclass(frozen=True)
class Native:
    """What a backend speaks.

    Attributes:
        pose: direction of its camera matrices. axes: of its cameras.
        centres: where pixel centres lie in its coordinates: at integers, or at integers + ½ (outer corner = 0).
        depth: along the camera axis (z), along the ray, or inverse.
        scale: metres, another unit in every pass, or that of the depth it is given.
        image: range of its pixel values.
        queries: order of the numbers of a query point; tracks come back in the same order of x and y.
    """

    pose: Pose = "none"
    axes: Axes = "opencv"
    centres: Centres = "integer"
    depth: Depth = "none"
    scale: Scale = "none"
    image: Range = "0..1"
    queries: Order = "none"

    def words(self) -> str:
        """One line for `traceworld doctor` and the docs."""
        parts = [f"images {self.image}"]
        if self.pose != "none":
            parts.append(f"poses {self.pose}, {self.axes} axes")
        if self.depth != "none":
            parts.append(f"depth {self.depth}, {self.scale}")
        if self.queries != "none":
            parts.append(f"queries {self.queries}")
        return ", ".join([*parts, f"pixel centres {self.centres}"])


# ---------------------------------------------------------------------- images


def pixel_values(images: UInt8[np.ndarray, "*lead H W 3"], range_: Range) -> Float32[np.ndarray, "*lead H W 3"]:
    """8-bit RGB in the range a model wants (`imagenet`: mean and standard deviation of that data set)."""
    values = images.astype(np.float32)
    if range_ == "0..255":
        return values
    values /= 255.0
    if range_ == "-1..1":
        return values * 2.0 - 1.0
    return (values - _IMAGENET_MEAN) / _IMAGENET_STD if range_ == "imagenet" else values


def fit_size(width: int, height: int, long_side: int, multiple: int) -> tuple[int, int]:
    """(width, height) nearest to the given shape with this longer side and both sides multiples of `multiple`."""
    if min(width, height, long_side) < 1 or multiple < 1:
        raise InvalidInputError(f"{width}×{height} to {long_side}", where="fit_size", mend="give positive sizes")
    share = long_side / max(width, height)

    def near(side: float) -> int:
        return max(multiple, round(side / multiple) * multiple)

    return near(width * share), near(height * share)


def resize_images(images: UInt8[np.ndarray, "T H W 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "T h w 3"]:
    """Pictures at (width, height) `size`; the outer edges of both grids coincide."""
    if images.shape[2::-1][:2] == size:
        return images
    area = size[0] < images.shape[2]
    method = cv2.INTER_AREA if area else cv2.INTER_LINEAR
    return np.stack([cv2.resize(image, size, interpolation=method) for image in images])


def pad_time(images: np.ndarray, minimum: int, multiple: int = 1) -> np.ndarray:
    """The clip with its last frame repeated up to `minimum` frames and a multiple of `multiple`; cut the answer afterwards."""
    wanted = -(-max(len(images), minimum) // multiple) * multiple
    return np.concatenate([images, np.repeat(images[-1:], wanted - len(images), axis=0)])


# ---------------------------------------------------------------------- pixels


def to_native_px(
    xy_px: Float[np.ndarray, "*points 2"], size: tuple[int, int], native_size: tuple[int, int], centres: Centres
) -> Float[np.ndarray, "*points 2"]:
    """House pixels of an image of `size` as a model's pixels of the same image resized to `native_size` (width, height)."""
    scale = np.asarray(native_size, np.float64) / np.asarray(size, np.float64)
    return (xy_px + 0.5) * scale - (0.5 if centres == "integer" else 0.0)


def from_native_px(
    xy: Float[np.ndarray, "*points 2"], size: tuple[int, int], native_size: tuple[int, int], centres: Centres
) -> Float[np.ndarray, "*points 2"]:
    """Inverse of `to_native_px`."""
    scale = np.asarray(size, np.float64) / np.asarray(native_size, np.float64)
    return (xy + (0.5 if centres == "integer" else 0.0)) * scale - 0.5


def native_K(
    K: Float[np.ndarray, "*batch 3 3"], size: tuple[int, int], native_size: tuple[int, int], centres: Centres
) -> Float[np.ndarray, "*batch 3 3"]:
    """House intrinsics as those of a model that sees the image at `native_size`."""
    moved = resize_K(K.astype(np.float64), size, native_size)
    if centres == "half":
        moved[..., :2, 2] += 0.5
    return moved


def house_K(
    K: Float[np.ndarray, "*batch 3 3"], size: tuple[int, int], native_size: tuple[int, int], centres: Centres
) -> Float[np.ndarray, "*batch 3 3"]:
    """Inverse of `native_K`."""
    moved = K.astype(np.float64)
    if centres == "half":
        moved[..., :2, 2] -= 0.5
    return resize_K(moved, native_size, size)


def K_from_normalised(K: Float[np.ndarray, "*batch 3 3"], size: tuple[int, int]) -> Float[np.ndarray, "*batch 3 3"]:
    """Intrinsics in shares of the image (fx/W, fy/H, ½ = the middle) as house pixels."""
    moved = K.astype(np.float64)
    moved[..., 0, :] *= size[0]
    moved[..., 1, :] *= size[1]
    moved[..., :2, 2] -= 0.5
    return moved


def fov_x_deg(K: Float[np.ndarray, "3 3"], width: int) -> float:
    """Horizontal field of view between the image's outer edges."""
    return float(np.degrees(2 * np.arctan(width / (2 * K[0, 0]))))


# ---------------------------------------------------------------------- poses and depth


def house_poses(poses: np.ndarray, native: Native) -> Float[np.ndarray, "S 4 4"]:
    """Camera matrices ([S,3,4] or [S,4,4]) of any direction and axes as `cam_from_world` with OpenCV axes.

    Raises:
        InvalidInputError: another shape, not finite, or no rigid motions.
    """
    if poses.ndim != 3 or poses.shape[1:] not in ((3, 4), (4, 4)) or not np.isfinite(poses).all():
        raise InvalidInputError(f"shape {poses.shape}, or NaN in it", where="house_poses", mend="[S,3,4] or [S,4,4]")
    full = np.broadcast_to(np.eye(4), (len(poses), 4, 4)).copy()
    full[:, : poses.shape[1]] = poses
    gram = full[:, :3, :3] @ full[:, :3, :3].transpose(0, 2, 1)
    if np.abs(gram - np.eye(3)).max(initial=0.0) > 1e-2:
        raise InvalidInputError("rotations are not orthonormal", where="house_poses", mend="scale belongs to the depth")
    left, _, right = np.linalg.svd(full[:, :3, :3])  # half precision leaves rotations that are only nearly so
    full[:, :3, :3] = left @ right
    if native.axes == "opengl":  # its camera looks along −z with y up
        flip = _OPENGL_TO_OPENCV
        full = full @ flip if native.pose == "world_from_cam" else flip @ full
    return invert_rigid(full) if native.pose == "world_from_cam" else full


def native_poses(cam_from_world: Float[np.ndarray, "S 4 4"], native: Native) -> Float[np.ndarray, "S 4 4"]:
    """Inverse of `house_poses`, always [S,4,4]."""
    poses = np.asarray(cam_from_world, np.float64)
    if native.pose == "world_from_cam":
        poses = invert_rigid(poses)
    if native.axes == "opengl":
        flip = _OPENGL_TO_OPENCV
        poses = poses @ flip if native.pose == "world_from_cam" else flip @ poses
    return poses


def z_depth(
    values: Float[np.ndarray, "S H W"],
    native: Native,
    K_native: Float[np.ndarray, "S 3 3"] | None = None,
    mask: Bool[np.ndarray, "S H W"] | None = None,
) -> Float32[np.ndarray, "S H W"]:
    """A model's depth as z-depth, NaN where it is masked out, not finite or not positive.

    Args:
        K_native: at the model's resolution and in its pixel convention; needed for distances along rays.
    """
    depth = np.asarray(values, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        if native.depth == "inverse":
            depth = 1.0 / depth
        elif native.depth == "ray":
            if K_native is None:
                raise InvalidInputError("needs intrinsics", where="z_depth", mend="give K_native for ray distances")
            depth = depth / ray_lengths(K_native, depth.shape[2], depth.shape[1], native.centres)
        known = np.isfinite(depth) & (depth > 0)
        if mask is not None:
            known &= mask
        return np.where(known, depth, np.nan).astype(np.float32)


def ray_lengths(K: Float[np.ndarray, "S 3 3"], width: int, height: int, centres: Centres) -> Float[np.ndarray, "S H W"]:
    """Length of the ray of each pixel up to z = 1: distance along the ray ÷ z-depth."""
    shift = 0.5 if centres == "half" else 0.0
    u, v = np.arange(width) + shift, np.arange(height) + shift
    x = (u[None, None, :] - K[:, 0, 2, None, None]) / K[:, 0, 0, None, None]
    y = (v[None, :, None] - K[:, 1, 2, None, None]) / K[:, 1, 1, None, None]
    return np.sqrt(1.0 + x**2 + y**2)


def metres_from_canonical(
    depth: Float[np.ndarray, "*image"], focal_px: float | int | np.number, canonical_px: float = 300.0
) -> Float[np.ndarray, "*image"]:
    """Depth of a model that answers for a camera of `canonical_px` focal length, for the real focal length (same pixels)."""
    return depth * (float(focal_px) / canonical_px)


def resize_depth(depth: Float[np.ndarray, "S h w"], size: tuple[int, int]) -> Float32[np.ndarray, "S H W"]:
    """Nearest values at (width, height) `size`: neither surfaces nor holes are blended."""
    if depth.shape[:0:-1] == size:
        return depth.astype(np.float32)
    return np.stack([cv2.resize(d.astype(np.float32), size, interpolation=cv2.INTER_NEAREST) for d in depth])


# ---------------------------------------------------------------------- points and visibility


def native_queries(
    frame: Int[np.ndarray, " M"], position: Float[np.ndarray, "M k"], order: Order
) -> Float32[np.ndarray, "M c"]:
    """Query points as a model wants them: `position` is (x, y) or, for `tXYZ`, (X, Y, Z) in the world."""
    if position.shape[1] != (3 if order == "tXYZ" else 2):
        raise ConfigError(f"positions of {position.shape[1]} numbers", where=f"queries {order}")
    ordered = position[:, ::-1] if order == "tyx" else position
    return np.concatenate([frame[:, None].astype(np.float32), ordered.astype(np.float32)], axis=1)


def house_tracks(tracks: Float[np.ndarray, "N T 2"], order: Order) -> Float[np.ndarray, "T N 2"]:
    """Tracks [N,T,…] of a model as [T,N,(x, y)]; a model that asks for (t, y, x) and answers (y, x) is turned round."""
    turned = tracks.transpose(1, 0, 2)
    return turned[..., ::-1].copy() if order == "tyx" else turned


def visible_share(
    occlusion: Float[np.ndarray, "*points"], expected_distance: Float[np.ndarray, "*points"]
) -> Float[np.ndarray, "*points"]:
    """Probability of being visible from the logits of "occluded" and of "further off than tolerated" (TAPIR, sec. 3.3)."""
    return (1 - sigmoid(occlusion)) * (1 - sigmoid(expected_distance))


def sigmoid(logits: Float[np.ndarray, "*points"]) -> Float[np.ndarray, "*points"]:
    """Without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(logits, np.float64)))


def world_from_camera_tracks(
    xyz_cam: Float[np.ndarray, "T N 3"], cam_from_world: Float[np.ndarray, "T 4 4"]
) -> Float[np.ndarray, "T N 3"]:
    """Points given in the camera of their own frame, in the world."""
    return np.stack(
        [
            transform(invert_rigid(pose), xyz)
            for pose, xyz in zip(cam_from_world, xyz_cam.astype(np.float64), strict=True)
        ]
    )
