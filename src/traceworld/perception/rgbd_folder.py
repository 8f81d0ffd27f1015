"""RGB-D folders: `clip.json`, `color/`, `depth/`, optionally a camera pose per frame. docs/format.md describes the layout.

Depth leaves this module registered to the colour camera, in metres, NaN where nothing was measured, whatever was stored.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from traceworld.errors import DepthError, MediaError
from traceworld.geometry.cameras import resize_K
from traceworld.perception.depth_files import (
    DEPTH_SUFFIXES,
    median_depth,
    read_depth_file,
    resize_nearest,
    settle_unit,
    to_metres,
    valid_fraction,
)
from traceworld.perception.frame_folder import image_files, natural_key, read_image, same_size
from traceworld.perception.intrinsics import assumed_K
from traceworld.perception.registration import DepthRig, check_registration, register_depth
from traceworld.perception.rgbd_layout import CLIP_FILE, ClipFile, read_clip_file
from traceworld.perception.source_base import RawFrame, SourceBase, SourceOptions, resize_image

PROBED_FRAMES = 8
"""Frames looked at, evenly spread, to settle unit and registration before the first frame is yielded."""
MIN_VALID = 0.01
"""Depth with fewer measured pixels than this share is treated as no depth."""

__all__ = ["CLIP_FILE", "RgbdFolderSource"]


def _depth_files(folder: Path) -> dict[str, Path]:
    """Depth images by stem; {} without the folder."""
    if not folder.is_dir():
        return {}
    found = [path for path in folder.iterdir() if path.suffix.lower() in DEPTH_SUFFIXES and path.name[0] != "."]
    return {path.stem: path for path in sorted(found, key=lambda path: natural_key(path.name))}


class RgbdFolderSource(SourceBase):
    """Colour and depth of one clip. Opening looks at a few frames to settle depth unit and registration.

    Args:
        path: the folder.
        options: how to read it.
        settled: report of an earlier opening; its depth unit and registration are used again, without looking.
    """

    kind = "rgbd"

    def __init__(self, path: Path, options: SourceOptions, settled: Mapping[str, Any] | None = None):
        self.path = path
        self.clip: ClipFile = read_clip_file(path / CLIP_FILE)
        self.files = image_files(path / "color") if (path / "color").is_dir() else []
        if len(self.files) < 2:
            raise MediaError(
                f"color/ holds {len(self.files)} picture{'s' * (len(self.files) != 1)}",
                where=str(path),
                mend="a clip needs at least 2 (.jpg, .png)",
            )
        size = same_size(self.files)
        super().__init__(str(path), size, self._native_K(size, options), options)
        self.report["intrinsics"] = "assumed" if self.clip.color_K is None else "given"
        self.task = self.clip.task
        self.times_s = self.clip.times(len(self.files), options.frame_rate, self.report)
        self.poses = self.clip.poses(len(self.files))
        self._undistort = self._distortion_maps(size)
        if options.fps is None:
            self.num_frames = min(len(self.files), options.max_frames or len(self.files))
        self._depth_files = _depth_files(path / "depth")
        self._unit_m = 1.0
        self._rig: DepthRig | None = None
        self.metric_depth = self._settle_depth() if settled is None else self._settle_as_before(settled)

    def _native_K(self, size: tuple[int, int], options: SourceOptions) -> np.ndarray:
        """Intrinsics at the size of the pictures, which may be another than the one that clip.json speaks of."""
        if self.clip.color_K is None:
            return assumed_K(*size, options.fov_deg)
        declared = self.clip.size or size
        if abs(declared[0] / declared[1] - size[0] / size[1]) > 0.01:
            raise MediaError(
                f"says {declared[0]}×{declared[1]}, the pictures are {size[0]}×{size[1]}",
                where=str(self.path / CLIP_FILE),
                mend="state width, height and color_K of the pictures as stored",
            )
        return resize_K(self.clip.color_K, declared, size)

    def _distortion_maps(self, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray] | None:
        """Where to look in the stored picture for each pixel of the pinhole picture at output size."""
        if not np.any(self.clip.distortion):
            return None
        K_native = resize_K(self.K, (self.width, self.height), size)
        maps = cv2.initUndistortRectifyMap(
            K_native, self.clip.distortion, np.eye(3), self.K, (self.width, self.height), cv2.CV_32FC1
        )
        self.report["undistorted"] = True
        return np.asarray(maps[0]), np.asarray(maps[1])

    # -- depth -----------------------------------------------------------------------------------------------------

    def _settle_depth(self) -> bool:
        """Find unit and registration. False: there is no usable depth and the clip counts as plain RGB."""
        with_depth = [path for path in self.files if path.stem in self._depth_files]
        if not with_depth:
            self.warn("there is no depth; the clip is treated as plain RGB")
            return False
        if len(with_depth) < len(self.files):
            self.warn(f"{len(self.files) - len(with_depth)} of {len(self.files)} frames have no depth image")
        picks = np.unique(np.linspace(0, len(with_depth) - 1, PROBED_FRAMES).round().astype(int))
        probed = [with_depth[i] for i in picks]
        raws = [read_depth_file(self._depth_files[path.stem]) for path in probed]
        if any(raw.shape != raws[0].shape for raw in raws):
            raise DepthError("depth images have different sizes", where=str(self.path / "depth"), mend="use one size")
        self._depth_shape = raws[0].shape
        measured = [valid_fraction(to_metres(raw, 1.0, self.clip.depth_invalid)) for raw in raws]
        if max(measured) < MIN_VALID:
            self.warn("depth is empty (no measured pixel in the frames looked at); the clip is treated as plain RGB")
            return False
        self._unit_m, warning = settle_unit(raws, self.clip.depth_unit_m, self.clip.depth_invalid, str(self.path))
        if warning is not None:
            self.warn(warning)
        depths = [to_metres(raw, self._unit_m, self.clip.depth_invalid) for raw in raws]
        self.report["depth"] = {
            "unit_m": self._unit_m,
            "size": [raws[0].shape[1], raws[0].shape[0]],
            "median_m": round(median_depth(depths), 4),
            "valid_fraction": round(float(np.mean(measured)), 4),
        }
        self._settle_registration(probed, depths)
        return True

    def _settle_as_before(self, settled: Mapping[str, Any]) -> bool:
        """Take depth unit and calibration from an earlier report."""
        if "depth" not in settled:
            return False
        self._unit_m = float(settled["depth"]["unit_m"])
        width, height = settled["depth"]["size"]
        self._depth_shape = (height, width)
        registration = settled.get("registration", {})
        if registration.get("applied"):
            K_depth, color_from_depth = (np.array(registration[k], float) for k in ("depth_K", "color_from_depth"))
            self._rig = DepthRig(K_depth, self.K, color_from_depth, (self.width, self.height))
        self.report |= {"depth": dict(settled["depth"]), "registration": dict(registration)}
        return True

    def _settle_registration(self, probed: list[Path], depths: list[np.ndarray]) -> None:
        """Decide how depth pixels become colour pixels: as they are, or through a calibration."""
        size, depth_size = (self.width, self.height), (depths[0].shape[1], depths[0].shape[0])
        given = None
        if self.clip.depth_K is not None:
            given = DepthRig(self.clip.depth_K, self.K, self.clip.color_from_depth, size)
        same_shape = abs(depth_size[0] / depth_size[1] - size[0] / size[1]) < 0.01
        if given is None and not same_shape:
            raise DepthError(
                f"depth is {depth_size[0]}×{depth_size[1]}, colour {self.report['native_size'][0]}×{self.report['native_size'][1]}",
                where=str(self.path),
                mend="state depth_K (and color_from_depth) in clip.json, or store depth registered to colour",
            )
        declared = self.clip.depth_registered and same_shape
        if self.options.registration == "trust":
            self._use_rig(None if declared else given, {"mode": "trusted"})
            return
        # A folder that says "registered" is judged against its colour intrinsics; depth_K is then only a way out.
        images = [self._load_image(path) for path in probed]
        samples = list(zip(images, depths, strict=True))
        check = check_registration(samples, self.K, given)
        report: dict[str, Any] = {
            "mode": "checked",
            "declared_registered": self.clip.depth_registered,
            "edge_score_as_is": round(check.score_as_is, 3),
            "edge_score_given": round(check.score_given, 3),
            "edge_score_refined": round(check.score_best, 3),
            "shift_px": round(check.shift_px, 2),
            "edges": check.num_edges,
            "calibration": check.calibration,
        }
        rig = None
        if declared and not check.looks_unregistered:
            pass
        elif check.looks_registered:
            self.warn(
                f"depth is declared not registered, but fits the colour picture as stored (edge score {check.score_as_is:.2f}; "
                f"{check.score_best:.2f} with the stated calibration), so it is used as stored"
            )
        elif given is not None:
            rig = check.rig
            said = "declared registered" if declared else "not registered to the colour camera"
            self.warn(
                f"depth is {said}: edge score {check.score_as_is:.2f} as stored (1 = chance), "
                f"{check.score_best:.2f} after registration, which was applied (calibration {check.calibration})"
            )
        else:
            self.warn(
                f"depth looks unregistered (edge score {check.score_as_is:.2f} as stored, {check.score_best:.2f} with a shifted "
                "camera) but depth_K is not stated, so it is used as stored: state depth_K and color_from_depth in clip.json"
                if check.looks_unregistered
                else "depth is not registered to colour and depth_K is not stated; it is used as stored"
            )
        self._use_rig(rig, report)

    def _use_rig(self, rig: DepthRig | None, report: dict[str, Any]) -> None:
        """Apply a calibration as it stands in the report, so that the recorded figures give the same depth again."""
        report["applied"] = rig is not None
        if rig is not None:
            report["depth_K"] = np.round(rig.K_depth, 4).tolist()
            report["color_from_depth"] = np.round(rig.color_from_depth, 6).tolist()
            rig = replace(
                rig, K_depth=np.array(report["depth_K"]), color_from_depth=np.array(report["color_from_depth"])
            )
        self._rig = rig
        self.report["registration"] = report

    def _load_image(self, path: Path) -> np.ndarray:
        image = read_image(path)
        if self._undistort is not None:
            return np.asarray(cv2.remap(image, *self._undistort, cv2.INTER_LINEAR), np.uint8)
        return resize_image(image, self.width, self.height)

    def _load_depth(self, path: Path) -> np.ndarray:
        """Depth for the picture at `path`; all NaN if it has none."""
        file = self._depth_files.get(path.stem)
        if file is None:
            return np.full((self.height, self.width), np.nan, np.float32)
        raw = read_depth_file(file)
        if raw.shape != self._depth_shape:
            raise DepthError(f"has shape {raw.shape}, others {self._depth_shape}", where=str(file), mend="use one size")
        depth_m = to_metres(raw, self._unit_m, self.clip.depth_invalid)
        if self._rig is not None:
            return register_depth(depth_m, self._rig)
        if self._undistort is not None:  # registered depth lies in the distorted picture
            native = resize_nearest(depth_m, *self.report["native_size"])
            undistorted = cv2.remap(native, *self._undistort, cv2.INTER_NEAREST, borderValue=float("nan"))
            return np.asarray(undistorted, np.float32)
        return resize_nearest(depth_m, self.width, self.height)

    # -- frames ----------------------------------------------------------------------------------------------------

    def read_image(self, number: int) -> UInt8[np.ndarray, "H W 3"]:
        """Picture `number` of the folder, RGB, without distortion.

        Raises:
            MediaError: it cannot be read.
        """
        return self._load_image(self.files[number])

    def read_depth(self, number: int) -> Float32[np.ndarray, "H W"] | None:
        """Depth of picture `number`, registered, metres, NaN where nothing was measured; None if the clip has no depth.

        Raises:
            DepthError: it cannot be used.
        """
        return self._load_depth(self.files[number]) if self.metric_depth else None

    def _load(self, number: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        pose = None if self.poses is None else self.poses[number]
        return self.read_image(number), self.read_depth(number), pose

    def _raw_frames(self) -> Generator[RawFrame, None, None]:
        for number, time_s in enumerate(self.times_s):
            yield RawFrame(number, float(time_s), partial(self._load, number))
