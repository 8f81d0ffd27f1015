"""Depth and cameras of many views in one pass: VGGT, MapAnything, Depth Anything 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from traceworld.perception import conventions
from traceworld.perception.backends.loading import as_weights, from_folder, half_precision, package, pick_device
from traceworld.perception.backends.mono_depth import DA3_INSTALL
from traceworld.perception.conventions import Native
from traceworld.perception.interfaces import BackendInfo, Frame, Geometry
from traceworld.perception.weights import Weights

VGGT_INSTALL = "pip install git+https://github.com/facebookresearch/vggt.git"
MAPANYTHING_INSTALL = "pip install git+https://github.com/facebookresearch/map-anything.git"


def _pictures(frames: Sequence[Frame], long_side: int, multiple: int) -> tuple[np.ndarray, tuple[int, int]]:
    images = np.stack([frame.image for frame in frames])
    size = conventions.fit_size(images.shape[2], images.shape[1], long_side, multiple)
    return conventions.resize_images(images, size), size


def _house(
    native: Native,
    frames: Sequence[Frame],
    depth: np.ndarray,
    K: np.ndarray,
    poses: np.ndarray,
    metric: bool,
    mask: np.ndarray | None = None,
) -> Geometry:
    """A model's answer at its own resolution, in the house's conventions at the frames' size."""
    height, width = frames[0].image.shape[:2]
    size = (depth.shape[2], depth.shape[1])
    z = conventions.resize_depth(conventions.z_depth(depth, native, K, mask), (width, height))
    return Geometry(
        z,
        conventions.house_K(K, (width, height), size, native.centres),
        conventions.house_poses(poses, native),
        metric,
        ("",) * len(frames),
    )


class Vggt:
    """VGGT (mu0-paper A.3): each pass has its own scale, so `metric` is False and passes are aligned by depth ratios.

    Args:
        max_frames: per pass; memory grows with its square (perception.md 1.2: 50 frames 11 GB).
    """

    native = Native(pose="cam_from_world", depth="z", scale="per-pass", image="0..1")

    def __init__(self, weights: Weights | str, long_side: int = 518, max_frames: int = 40, device: str = "auto"):
        self._device, self._long_side, self.max_frames = pick_device(device), long_side, max_frames
        model = package("vggt.models.vggt", VGGT_INSTALL).VGGT
        self._decode = package("vggt.utils.pose_enc", VGGT_INSTALL).pose_encoding_to_extri_intri
        path = as_weights(weights)
        self._model = from_folder(model.from_pretrained, path).to(self._device).eval()
        self.info = BackendInfo("geometry", "vggt", "1", "", weights=path.source)

    @torch.inference_mode()
    def reconstruct(self, frames: Sequence[Frame], K: Float[np.ndarray, "3 3"] | None) -> Geometry:
        """See `GeometryBackend`; intrinsics are always the model's own, since its depth fits no others."""
        images, (width, height) = _pictures(frames, self._long_side, 14)
        batch = torch.from_numpy(conventions.pixel_values(images, self.native.image)).permute(0, 3, 1, 2)[None]
        with half_precision(self._device):
            found = self._model(batch.to(self._device))
        extrinsic, intrinsic = self._decode(found["pose_enc"], (height, width))
        return _house(
            self.native,
            frames,
            found["depth"][0, ..., 0].float().cpu().numpy(),
            intrinsic[0].float().cpu().numpy(),
            extrinsic[0].float().cpu().numpy(),
            metric=False,
        )


class MapAnything:
    """MapAnything: metric, one pass; known intrinsics and poses, and sensor depth where every frame has some, go in."""

    native = Native(pose="world_from_cam", depth="z", scale="metric", image="imagenet")

    def __init__(self, weights: Weights | str, long_side: int = 518, max_frames: int = 64, device: str = "auto"):
        self._device, self._long_side, self.max_frames = pick_device(device), long_side, max_frames
        module = package("mapanything.models", MAPANYTHING_INSTALL)
        path = as_weights(weights)
        self._model = from_folder(module.MapAnything.from_pretrained, path).to(self._device).eval()
        self.info = BackendInfo("geometry", "mapanything", "1", "", metric=True, weights=path.source)

    @torch.inference_mode()
    def reconstruct(self, frames: Sequence[Frame], K: Float[np.ndarray, "3 3"] | None) -> Geometry:
        """See `GeometryBackend`."""
        views = self._views(frames, K)
        found = self._model.infer(views, memory_efficient_inference=True)

        def gather(name: str) -> np.ndarray:
            return np.stack([view[name][0].float().cpu().numpy() for view in found])

        mask = gather("mask")[..., 0] > 0.5 if "mask" in found[0] else None
        return _house(
            self.native, frames, gather("depth_z")[..., 0], gather("intrinsics"), gather("camera_poses"), True, mask
        )

    def _views(self, frames: Sequence[Frame], K: np.ndarray | None) -> list[dict[str, Any]]:
        images, size = _pictures(frames, self._long_side, 14)
        own = frames[0].image.shape[1::-1]
        pixels = torch.from_numpy(conventions.pixel_values(images, self.native.image)).permute(0, 3, 1, 2)
        views: list[dict[str, Any]] = [
            {"img": picture[None].to(self._device), "data_norm_type": ["dinov2"]} for picture in pixels
        ]
        if K is None:
            return views
        seen = conventions.native_K(np.asarray(K, np.float64), own, size, self.native.centres)
        # Its rules: depth only beside intrinsics; if any view has a pose, the first one must.
        sensed = [frame.depth_m for frame in frames if frame.depth_m is not None]
        posed = [frame.cam_from_world for frame in frames if frame.cam_from_world is not None]
        for i, view in enumerate(views):
            view["intrinsics"] = self._tensor(seen)
            if len(sensed) == len(frames):
                depth = np.nan_to_num(conventions.resize_depth(sensed[i][None], size), nan=0.0)
                view["depth_z"] = self._tensor(depth[0])[..., None]
                view["is_metric_scale"] = torch.tensor([True], device=self._device)
            if len(posed) == len(frames):
                view["camera_poses"] = self._tensor(conventions.native_poses(posed[i][None], self.native)[0])
        return views

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values, np.float32))[None].to(self._device)


class DepthAnything3:
    """Depth Anything 3, any-view checkpoints: depth and poses of the views; known cameras go in.

    Args:
        metric: the checkpoint answers in metres (the NESTED ones); others have another scale in every pass.
    """

    native = Native(pose="cam_from_world", depth="z", scale="per-pass", image="0..255")

    def __init__(
        self,
        weights: Weights | str,
        process_res: int = 504,
        max_frames: int = 60,
        metric: bool | None = None,
        device: str = "auto",
    ):
        path = as_weights(weights)
        model = package("depth_anything_3.api", DA3_INSTALL).DepthAnything3
        self._model = from_folder(model.from_pretrained, path).to(pick_device(device)).eval()
        self._process_res, self.max_frames = process_res, max_frames
        self._metric = "NESTED" in path.source.upper() if metric is None else metric
        self.info = BackendInfo("geometry", "da3", "1", "", metric=self._metric, weights=path.source)

    @torch.inference_mode()
    def reconstruct(self, frames: Sequence[Frame], K: Float[np.ndarray, "3 3"] | None) -> Geometry:
        """See `GeometryBackend`."""
        known: dict[str, np.ndarray] = {}
        posed = [frame.cam_from_world for frame in frames if frame.cam_from_world is not None]
        if K is not None and len(posed) == len(frames):  # it takes both or none
            known["extrinsics"] = conventions.native_poses(np.stack(posed), self.native).astype(np.float32)
            known["intrinsics"] = np.repeat(np.asarray(K, np.float32)[None], len(frames), 0)
        found = self._model.inference([frame.image for frame in frames], process_res=self._process_res, **known)
        return _house(
            self.native,
            frames,
            np.asarray(found.depth, np.float32),
            np.asarray(found.intrinsics, np.float64),
            np.asarray(found.extrinsics, np.float64),
            self._metric,
        )
