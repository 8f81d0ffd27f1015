"""`clip.json`: the description file of an RGB-D folder, checked field by field."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from traceworld.errors import MediaError

CLIP_FILE = "clip.json"


@dataclass(frozen=True, eq=False)
class ClipFile:
    """What `clip.json` says. Every field may be missing but then something has to be assumed, and the report says so.

    Attributes:
        where: path of the file, for errors.
        task: text about the clip.
        size: (width, height) that `color_K` refers to.
        color_K, depth_K: [3,3] px.
        color_from_depth: [4,4] rigid, metres; from `color_from_depth` or `color_from_depth_translation_m_nominal`.
        depth_unit_m: metres per stored unit.
        depth_invalid: stored value that means "nothing measured", besides 0, 65535 and NaN.
        depth_registered: depth pixels are colour pixels.
        distortion: OpenCV coefficients of the colour camera.
        timestamps_s: seconds of every frame.
        fps: used without time stamps.
        cam_from_world: [T,4,4] or one [4,4] for all frames.
    """

    where: str
    task: str = ""
    size: tuple[int, int] | None = None
    color_K: np.ndarray | None = None
    depth_K: np.ndarray | None = None
    color_from_depth: np.ndarray = field(default_factory=lambda: np.eye(4))
    depth_unit_m: float | None = None
    depth_invalid: float | None = None
    depth_registered: bool = True
    distortion: np.ndarray = field(default_factory=lambda: np.zeros(5))
    timestamps_s: np.ndarray | None = None
    fps: float | None = None
    cam_from_world: np.ndarray | None = None

    def times(self, num_frames: int, frame_rate: float, report: dict[str, Any]) -> np.ndarray:
        """[T] seconds of every frame, strictly increasing.

        Raises:
            MediaError: the stated time stamps are not one per frame, or do not increase.
        """
        if self.timestamps_s is None:
            rate = self.fps or frame_rate
            report["frame_rate"] = rate
            return np.arange(num_frames) / rate
        if len(self.timestamps_s) != num_frames:
            raise MediaError(
                f"{len(self.timestamps_s)} time stamps for {num_frames} pictures",
                where=f"{self.where}: timestamps_s",
                mend="state one per picture, or leave the field out",
            )
        backward = np.flatnonzero(~(np.diff(self.timestamps_s) > 0))
        if len(backward):
            raise MediaError(
                "does not increase",
                where=f"{self.where}: timestamps_s[{backward[0] + 1}]",
                mend="order the frames by time",
            )
        return self.timestamps_s

    def poses(self, num_frames: int) -> np.ndarray | None:
        """[T,4,4] camera-from-world of every frame, or None.

        Raises:
            MediaError: not one per frame, or not rigid.
        """
        if self.cam_from_world is None:
            return None
        poses = self.cam_from_world
        if poses.ndim == 2:
            poses = np.repeat(poses[None], num_frames, 0)
        if poses.shape != (num_frames, 4, 4):
            raise MediaError(
                f"has shape {poses.shape} for {num_frames} pictures",
                where=f"{self.where}: cam_from_world",
                mend="state one 4×4 matrix per picture",
            )
        for frame, pose in enumerate(poses):
            _check_rigid(pose, f"{self.where}: cam_from_world[{frame}]")
        return poses


def _check_rigid(pose: np.ndarray, where: str) -> None:
    rotation = pose[:3, :3]
    off = np.abs(rotation @ rotation.T - np.eye(3)).max()
    if not np.isfinite(pose).all() or off > 1e-3 or np.linalg.det(rotation) < 0:
        raise MediaError(
            "is not a rigid transform", where=where, mend="4×4 [R|t], metres, OpenCV axes (x right, y down, z forward)"
        )


def _numbers(fields: dict[str, Any], name: str, where: str, *shapes: tuple[int, ...]) -> np.ndarray | None:
    """A numeric field as float64, or None if absent. `shapes` uses -1 for any length; () among them allows all."""
    if fields.get(name) is None:
        return None
    try:
        value = np.asarray(fields[name], np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise MediaError(f"is not numeric: {error}", where=f"{where}: {name}") from error
    fits = any(
        len(shape) == value.ndim and all(want in (-1, have) for want, have in zip(shape, value.shape, strict=True))
        for shape in shapes
    )
    if not fits or not np.isfinite(value).all():
        raise MediaError(
            f"has shape {value.shape} or holds NaN",
            where=f"{where}: {name}",
            mend=f"expected shape {' or '.join(map(str, shapes))}",
        )
    return value


def _number(fields: dict[str, Any], name: str, where: str) -> float | None:
    value = _numbers(fields, name, where, ())
    return None if value is None else float(value)


def _intrinsics(fields: dict[str, Any], name: str, where: str) -> np.ndarray | None:
    K = _numbers(fields, name, where, (3, 3))
    if K is not None and not (K[0, 0] > 0 and K[1, 1] > 0):
        raise MediaError("focal lengths must be positive", where=f"{where}: {name}", mend="pixels")
    return K


def _color_from_depth(fields: dict[str, Any], where: str) -> np.ndarray:
    full = _numbers(fields, "color_from_depth", where, (4, 4))
    if full is not None:
        _check_rigid(full, f"{where}: color_from_depth")
        return full
    shift = _numbers(fields, "color_from_depth_translation_m_nominal", where, (3,))
    nominal = np.eye(4)
    if shift is not None:
        nominal[:3, 3] = shift
    return nominal


def read_clip_file(path: Path) -> ClipFile:
    """Read and check a `clip.json`.

    Raises:
        MediaError: no JSON object, or a field is of the wrong kind; names the field.
    """
    where = str(path)
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        mend = "describe the clip there (docs/format.md); {} is enough, what it does not say is assumed"
        raise MediaError("is missing", where=where, mend=mend) from error
    except (OSError, ValueError, RecursionError) as error:
        raise MediaError(f"is not readable JSON: {error}", where=where, mend="see docs/format.md") from error
    if not isinstance(fields, dict):
        raise MediaError("is not a JSON object", where=where, mend="see docs/format.md")
    width, height = _number(fields, "width", where), _number(fields, "height", where)
    if any(side is not None and side < 1 for side in (width, height)):
        raise MediaError("width and height must be positive", where=where, mend="pixels of the pictures")
    distortion = _numbers(fields, "distortion", where, (-1,))
    fps = _number(fields, "fps", where)
    if fps is not None and not fps > 0:
        raise MediaError("must be positive", where=f"{where}: fps", mend="frames per second, or leave it out")
    return ClipFile(
        where=where,
        task=str(fields.get("task") or ""),
        size=None if width is None or height is None else (int(width), int(height)),
        color_K=_intrinsics(fields, "color_K", where),
        depth_K=_intrinsics(fields, "depth_K", where),
        color_from_depth=_color_from_depth(fields, where),
        depth_unit_m=_number(fields, "depth_unit_m", where),
        depth_invalid=_number(fields, "depth_invalid", where),
        depth_registered=bool(fields.get("depth_registered", True)),
        distortion=np.zeros(5) if distortion is None or not len(distortion) else distortion,
        timestamps_s=_numbers(fields, "timestamps_s", where, (-1,)),
        fps=fps,
        cam_from_world=_numbers(fields, "cam_from_world", where, (4, 4), (-1, 4, 4)),
    )
