"""Metric depth from single images, with this library's RGB-D odometry for the camera: Depth Anything V2, MoGe-2, DA3-Metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32

from traceworld.errors import CheckpointError
from traceworld.perception import conventions
from traceworld.perception.backends.loading import as_weights, from_folder, package, pick_device, pretrained
from traceworld.perception.conventions import Native
from traceworld.perception.interfaces import BackendInfo, Frame, Geometry
from traceworld.perception.intrinsics import assumed_K
from traceworld.perception.odometry import EmbeddedGeometry, OdometryConfig
from traceworld.perception.weights import Weights

MOGE_INSTALL = "pip install git+https://github.com/microsoft/MoGe.git"
DA3_INSTALL = "pip install git+https://github.com/ByteDance-Seed/Depth-Anything-3.git"


class MonoDepthGeometry:
    """Depth image by image; poses that the frames have, else the static-camera gate and RGB-D odometry on that depth.

    A subclass says depth and intrinsics of one picture. Depth that flickers from frame to frame costs accuracy of poses;
    intrinsics are shared by the pass (median).
    """

    max_frames: int | None = 64
    native: Native
    info: BackendInfo

    def __init__(self) -> None:
        self._poses = EmbeddedGeometry(OdometryConfig())

    def depth_of(self, image: np.ndarray, K: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """z-depth [H,W] at the picture's size in metres, NaN unknown, and [3,3] intrinsics if the model estimates them."""
        raise NotImplementedError

    def reconstruct(self, frames: Sequence[Frame], K: Float[np.ndarray, "3 3"] | None) -> Geometry:
        """See `GeometryBackend`."""
        answers = [self.depth_of(frame.image, K) for frame in frames]
        estimated = [K_own for _, K_own in answers if K_own is not None]
        if K is None and estimated:
            K = np.median(estimated, axis=0)
        with_depth = [replace(frame, depth_m=depth) for frame, (depth, _) in zip(frames, answers, strict=True)]
        return self._poses.reconstruct(with_depth, K)


class DepthAnythingV2(MonoDepthGeometry):
    """Depth Anything V2, metric checkpoints (transformers' `DepthAnythingForDepthEstimation`).

    Args:
        weights: of a metric checkpoint. long_side: as the model sees the picture; sides become multiples of its patch.
    """

    native = Native(depth="z", scale="metric", image="imagenet")

    def __init__(self, weights: Weights | str, long_side: int = 518, device: str = "auto"):
        super().__init__()
        self._device, self._long_side = pick_device(device), long_side
        self._model = pretrained("DepthAnythingForDepthEstimation", weights, self._device)
        source = as_weights(weights).source
        kind = self._model.config.depth_estimation_type
        if kind != "metric":
            raise CheckpointError(
                f"gives {kind} depth (inverse, of unknown scale and shift)",
                where=source,
                mend="name a metric checkpoint, e.g. depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf",
            )
        self._patch = int(self._model.config.backbone_config.patch_size)
        self.info = BackendInfo("geometry", "depth-anything-v2", "1", "", metric=True, weights=source)

    @torch.inference_mode()
    def depth_of(self, image: np.ndarray, K: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Metres; intrinsics are not estimated."""
        height, width = image.shape[:2]
        size = conventions.fit_size(width, height, self._long_side, self._patch)
        pixels = conventions.pixel_values(conventions.resize_images(image[None], size), self.native.image)
        batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(self._device)
        found = self._model(pixel_values=batch).predicted_depth.float().cpu().numpy()
        depth = conventions.z_depth(found, self.native)
        return conventions.resize_depth(depth, (width, height))[0], None


class MoGe2(MonoDepthGeometry):
    """MoGe-2 (github.com/microsoft/MoGe): metric depth, mask and field of view of one picture; told the view where known."""

    native = Native(centres="half", depth="z", scale="metric", image="0..1")

    def __init__(self, weights: Weights | str, device: str = "auto"):
        super().__init__()
        self._device = pick_device(device)
        module = package("moge.model.v2", MOGE_INSTALL)
        path = as_weights(weights)
        self._model = from_folder(module.MoGeModel.from_pretrained, path).to(self._device).eval()
        self.info = BackendInfo("geometry", "moge2", "1", "", metric=True, weights=path.source)

    @torch.inference_mode()
    def depth_of(self, image: np.ndarray, K: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Metres and intrinsics."""
        height, width = image.shape[:2]
        pixels = torch.from_numpy(conventions.pixel_values(image, self.native.image)).permute(2, 0, 1)
        fov = None if K is None else conventions.fov_x_deg(np.asarray(K, np.float64), width)
        found = self._model.infer(pixels.to(self._device), fov_x=fov)
        answer = {name: value.float().cpu().numpy() for name, value in found.items() if name in ("depth", "intrinsics")}
        mask = found["mask"].bool().cpu().numpy()[None]
        depth = conventions.z_depth(answer["depth"][None], self.native, mask=mask)[0]
        return depth, conventions.K_from_normalised(answer["intrinsics"], (width, height))


class DepthAnything3Metric(MonoDepthGeometry):
    """DA3METRIC-LARGE (github.com/ByteDance-Seed/Depth-Anything-3): depth for a canonical camera, × focal length / 300."""

    native = Native(depth="z", scale="metric", image="0..255")

    def __init__(self, weights: Weights | str, process_res: int = 504, device: str = "auto"):
        super().__init__()
        module = package("depth_anything_3.api", DA3_INSTALL)
        path = as_weights(weights)
        self._model: Any = from_folder(module.DepthAnything3.from_pretrained, path).to(pick_device(device)).eval()
        self._process_res = process_res
        self.info = BackendInfo("geometry", "da3-metric", "1", "", metric=True, weights=path.source)

    @torch.inference_mode()
    def depth_of(self, image: np.ndarray, K: np.ndarray | None) -> tuple[Float32[np.ndarray, "H W"], np.ndarray | None]:
        """Metres, by the focal length given or assumed."""
        height, width = image.shape[:2]
        found = np.asarray(self._model.inference([image], process_res=self._process_res).depth, np.float32)
        known = assumed_K(width, height) if K is None else np.asarray(K, np.float64)
        seen = conventions.native_K(known, (width, height), (found.shape[2], found.shape[1]), self.native.centres)
        focal = (seen[0, 0] + seen[1, 1]) / 2
        depth = conventions.z_depth(conventions.metres_from_canonical(found, float(focal)), self.native)
        return conventions.resize_depth(depth, (width, height))[0], None
