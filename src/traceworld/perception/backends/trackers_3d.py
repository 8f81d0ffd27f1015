"""Trackers that work in the world: TAPIP3D (mu0-paper A.4) and SpatialTrackerV2. Both are git clones, not packages."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from traceworld.errors import ConfigError, MissingExtraError
from traceworld.geometry.cameras import project
from traceworld.perception import conventions
from traceworld.perception.backends.loading import (
    as_weights,
    from_folder,
    half_precision,
    package,
    path_of,
    pick_device,
)
from traceworld.perception.backends.tracker_base import LearnedTracker, depth_or_error
from traceworld.perception.chunks import FrameChunk, PointQueries, PointTracks
from traceworld.perception.conventions import Native
from traceworld.perception.interfaces import BackendInfo
from traceworld.perception.lift_tracks import from_world
from traceworld.perception.weights import Weights

TAPIP3D_CLONE = "TRACEWORLD_TAPIP3D"
TAPIP3D_INSTALL = (
    "git clone https://github.com/zbw001/TAPIP3D.git && export TRACEWORLD_TAPIP3D=$PWD/TAPIP3D "
    "(its README compiles pointops2; CUDA only)"
)
SPATRACKER_CLONE = "TRACEWORLD_SPATRACKER2"
SPATRACKER_INSTALL = (
    "git clone https://github.com/henry123-boy/SpaTrackerV2.git && export TRACEWORLD_SPATRACKER2=$PWD/SpaTrackerV2"
)


def _clone(variable: str, command: str) -> Path:
    folder = os.environ.get(variable, "")
    if not folder or not Path(folder).is_dir():
        raise MissingExtraError(f"the variable {variable} names no folder", where=variable, mend=command)
    return Path(folder)


class Tapip3d(LearnedTracker):
    """TAPIP3D: queries are world points, so that chunks hand points on by their last valid position (A.4).

    Its released checkpoint is a pickle that its own code loads without protection: `trust_pickle` says that you trust it.

    Args:
        long_side: pixels of the longer side as the model sees it. iterations: of its refinement. grid: support points a
            side on the first frame.
    """

    native = Native(pose="cam_from_world", depth="z", scale="input", image="0..1", queries="tXYZ")

    def __init__(
        self,
        weights: Weights | str,
        trust_pickle: bool = False,
        long_side: int = 724,
        iterations: int = 6,
        grid: int = 8,
        device: str = "cuda",
    ):
        source = as_weights(weights).source
        if not trust_pickle:
            raise ConfigError(
                "its checkpoint is a pickle, which can run any code when loaded",
                where=source,
                mend="write tapip3d#trust_pickle=true if you trust its source",
            )
        folder = _clone(TAPIP3D_CLONE, TAPIP3D_INSTALL)
        module = package("utils.inference_utils", TAPIP3D_INSTALL, within=folder)
        self._device, self._long_side = pick_device(device), long_side
        self._iterations, self._grid = iterations, grid
        self._infer = module.inference
        self._model = module.load_model(str(path_of(weights))).to(self._device).eval()
        self.info = BackendInfo("tracking", "tapip3d", "1", "", weights=source)

    @torch.inference_mode()
    def follow(self, chunk: FrameChunk, queries: PointQueries) -> PointTracks:
        """See `LearnedTracker`. Short clips are padded to its window: it would answer constants for them."""
        depth, frames, count = depth_or_error(chunk, self.info.name), len(chunk), len(queries)
        size = conventions.fit_size(*chunk.size, min(self._long_side, max(chunk.size)), 4)
        window = int(self._model.seq_len)
        images = conventions.pad_time(conventions.resize_images(chunk.images, size), window, max(1, window // 2))
        poses = conventions.pad_time(conventions.native_poses(chunk.cam_from_world, self.native), len(images))
        K = conventions.native_K(np.asarray(chunk.K, np.float64), chunk.size, size, self.native.centres)
        self._model.set_image_size((size[1], size[0]))
        coordinates, seen = self._infer(
            model=self._model,
            video=self._tensor(conventions.pixel_values(images, self.native.image)).permute(0, 3, 1, 2),
            depths=self._tensor(conventions.pad_time(conventions.resize_depth(depth, size), len(images))),
            intrinsics=self._tensor(np.repeat(K[None], len(images), 0)),
            extrinsics=self._tensor(poses),
            query_point=self._tensor(conventions.native_queries(queries.frame, queries.xyz_world, self.native.queries)),
            num_iters=self._iterations,
            grid_size=self._grid,
            bidrectional=bool(queries.frame.max() > 0),  # its spelling
        )
        xyz = coordinates.float().cpu().numpy().reshape(len(images), count, 3)[:frames]  # it squeezes N = 1
        visible = seen.bool().cpu().numpy().reshape(len(images), count)[:frames]
        return from_world(xyz, visible, visible.astype(np.float32), chunk, queries)

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(self._device)


class SpaTracker2(LearnedTracker):
    """SpatialTrackerV2, offline, given depth and cameras. Its answer lies in the camera of each frame, at a scale of its
    own, which the depth of the queries corrects; its refined cameras are not used.

    Args:
        frames: length that clips are padded to at least.
    """

    native = Native(pose="world_from_cam", depth="z", scale="input", image="0..255", queries="txy")

    def __init__(
        self, weights: Weights | str, long_side: int = 518, frames: int = 20, iterations: int = 4, device: str = "auto"
    ):
        folder = _clone(SPATRACKER_CLONE, SPATRACKER_INSTALL)
        module = package("models.SpaTrackV2.models.predictor", SPATRACKER_INSTALL, within=folder)
        self._device, self._long_side = pick_device(device), long_side
        self._frames, self._iterations = frames, iterations
        path = as_weights(weights)
        self._model = from_folder(module.Predictor.from_pretrained, path).to(self._device).eval()
        self.info = BackendInfo("tracking", "spatracker2", "1", "", weights=path.source)

    @torch.inference_mode()
    def follow(self, chunk: FrameChunk, queries: PointQueries) -> PointTracks:
        """See `LearnedTracker`."""
        depth, frames, count = depth_or_error(chunk, self.info.name), len(chunk), len(queries)
        size = conventions.fit_size(*chunk.size, self._long_side, 14)
        images = conventions.pad_time(conventions.resize_images(chunk.images, size), self._frames)
        total = len(images)
        depths = conventions.pad_time(conventions.resize_depth(depth, size), total)
        K = conventions.native_K(np.asarray(chunk.K, np.float64), chunk.size, size, self.native.centres)
        poses = conventions.pad_time(conventions.native_poses(chunk.cam_from_world, self.native), total)
        xy = conventions.to_native_px(queries.xy_px, chunk.size, size, self.native.centres)
        with half_precision(self._device):
            found = self._model(
                torch.from_numpy(conventions.pixel_values(images, self.native.image))
                .permute(0, 3, 1, 2)
                .to(self._device),
                depth=torch.from_numpy(depths).to(self._device),
                unc_metric=torch.from_numpy((depths > 0).astype(np.float32)).to(self._device),
                intrs=torch.from_numpy(np.repeat(K[None], total, 0).astype(np.float32)).to(self._device),
                extrs=torch.from_numpy(poses.astype(np.float32)).to(self._device),
                queries=conventions.native_queries(queries.frame, xy, self.native.queries),
                iters_track=self._iterations,
                fps=1,
                full_point=False,
                fixed_cam=False,
                query_no_BA=True,
                stage=1,
                support_frame=total - 1,
                replace_ratio=0.2,
            )
        answer = [part.float().cpu().numpy() for part in (found[4], found[6], found[7])]
        xyz_cam = answer[0].reshape(total, count, -1)[:frames, :, :3]
        visible = answer[1].reshape(total, count)[:frames] > 0.5
        confidence = np.clip(answer[2].reshape(total, count)[:frames], 0.0, 1.0)
        xyz_cam = xyz_cam * self._scale(xyz_cam, chunk, queries)
        xyz = conventions.world_from_camera_tracks(xyz_cam, np.asarray(chunk.cam_from_world, np.float64))
        return from_world(xyz, visible, confidence, chunk, queries)

    def _scale(self, xyz_cam: np.ndarray, chunk: FrameChunk, queries: PointQueries) -> float:
        """Depth of the queries over depth of its answer there (median)."""
        rows = np.arange(len(queries))
        own = xyz_cam[queries.frame, rows, 2]
        true = np.array(
            [
                project(queries.xyz_world[i], chunk.K, chunk.cam_from_world[t])[2]
                for i, t in enumerate(queries.frame.tolist())
            ]
        )
        ratio = true / np.where(own > 1e-6, own, np.nan)
        return float(np.nanmedian(ratio)) if np.isfinite(ratio).any() else 1.0
