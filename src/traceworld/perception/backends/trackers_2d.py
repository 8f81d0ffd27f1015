"""Trackers of pixels: CoTracker3, TAPNext++ and BootsTAPIR; lifted to 3D by `perception.lift_tracks`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from traceworld.perception import conventions
from traceworld.perception.backends.loading import as_weights, fill, load_state, package, path_of, pick_device
from traceworld.perception.backends.tracker_base import Tracker2D
from traceworld.perception.chunks import PointQueries
from traceworld.perception.conventions import Native
from traceworld.perception.interfaces import BackendInfo, Tracks2D
from traceworld.perception.weights import Weights

COTRACKER_INSTALL = "pip install git+https://github.com/facebookresearch/co-tracker.git"
TAPNET_INSTALL = "pip install git+https://github.com/google-deepmind/tapnet.git"
_COTRACKER_FRAMES = 16  # older versions answer zeros for clips shorter than half a window
_VISIBLE = 0.5


class CoTracker3(Tracker2D):
    """CoTracker3 offline, forward and backward (`backward_tracking`) from every query frame."""

    native = Native(image="0..255", queries="txy")

    def __init__(self, weights: Weights | str, device: str = "auto"):
        self._device = pick_device(device)
        predictor = package("cotracker.predictor", COTRACKER_INSTALL).CoTrackerPredictor
        path = path_of(weights)
        self._model = predictor(checkpoint=str(path), offline=True).to(self._device).eval()
        self.info = BackendInfo("tracking", "cotracker3", "1", "", weights=as_weights(weights).source)

    @torch.inference_mode()
    def follow_px(self, images: np.ndarray, queries: PointQueries) -> Tracks2D:
        """Pixels of the picture as it is: the model resizes by itself."""
        frames = len(images)
        padded = conventions.pixel_values(conventions.pad_time(images, _COTRACKER_FRAMES), self.native.image)
        video = torch.from_numpy(padded).permute(0, 3, 1, 2)[None].to(self._device)
        points = torch.from_numpy(conventions.native_queries(queries.frame, queries.xy_px, self.native.queries))
        tracks, visible = self._model(video, queries=points[None].to(self._device), backward_tracking=True)
        seen = visible[0, :frames].bool().cpu().numpy().reshape(frames, len(queries))
        return Tracks2D(tracks[0, :frames].float().cpu().numpy(), seen, seen.astype(np.float32))


class _TapNet(Tracker2D):
    """What TAPNext++ and BootsTAPIR share: square pictures of fixed size, (t, y, x), pixel centres at ½."""

    native = Native(centres="half", image="-1..1", queries="tyx")

    def __init__(self, weights: Weights | str, side: int, device: str):
        self._device, self._side = pick_device(device), side
        self._model = self._load().to(self._device).eval()
        source = as_weights(weights).source
        state = {name.removeprefix("tapnext."): value for name, value in load_state(weights).items()}
        fill(self._model, state, source)
        self.info = BackendInfo("tracking", "tapnet", "1", "", weights=source)

    def _load(self) -> torch.nn.Module:
        raise NotImplementedError

    def _video(self, images: np.ndarray) -> torch.Tensor:
        small = conventions.resize_images(images, (self._side, self._side))
        return torch.from_numpy(conventions.pixel_values(small, self.native.image))[None].to(self._device)

    def _points(self, images: np.ndarray, queries: PointQueries) -> np.ndarray:
        size = (images.shape[2], images.shape[1])
        xy = conventions.to_native_px(queries.xy_px, size, (self._side, self._side), self.native.centres)
        return conventions.native_queries(queries.frame, xy, self.native.queries)

    def _house(self, images: np.ndarray, xy: np.ndarray) -> np.ndarray:
        size = (images.shape[2], images.shape[1])
        return conventions.from_native_px(xy, size, (self._side, self._side), self.native.centres).astype(np.float32)


class BootsTapir(_TapNet):
    """BootsTAPIR (torch): all frames at once, looks both ways from the query frame by itself; answers are (x, y)."""

    def __init__(self, weights: Weights | str, side: int = 256, device: str = "auto"):
        super().__init__(weights, side, device)

    def _load(self) -> torch.nn.Module:
        return package("tapnet.torch.tapir_model", TAPNET_INSTALL).TAPIR(pyramid_level=1)

    @torch.inference_mode()
    def follow_px(self, images: np.ndarray, queries: PointQueries) -> Tracks2D:
        """See `Tracker2D`."""
        points = torch.from_numpy(self._points(images, queries))[None].to(self._device)
        found = {
            name: value[0].float().cpu().numpy() for name, value in self._call(self._video(images), points).items()
        }
        xy = conventions.house_tracks(found["tracks"], "txy")  # asked (t, y, x), it answers (x, y)
        share = conventions.visible_share(found["occlusion"], found["expected_dist"]).T
        return Tracks2D(self._house(images, xy), share > _VISIBLE, share.astype(np.float32))

    def _call(self, video: torch.Tensor, points: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self._model(video, points)
        return {name: found[name] for name in ("tracks", "occlusion", "expected_dist")}


class TapNext(_TapNet):
    """TAPNext++ (torch), one frame at a time: memory does not grow with the clip. It looks forward only, so the frames
    before a query come from a second pass over the reversed chunk."""

    def __init__(self, weights: Weights | str, side: int = 256, device: str = "auto"):
        super().__init__(weights, side, device)

    def _load(self) -> torch.nn.Module:
        return package("tapnet.tapnext.tapnext_torch", TAPNET_INSTALL).TAPNext(image_size=(self._side, self._side))

    @torch.inference_mode()
    def follow_px(self, images: np.ndarray, queries: PointQueries) -> Tracks2D:
        """See `Tracker2D`."""
        video, points = self._video(images), self._points(images, queries)
        xy, share = self._forward(video, points)
        if queries.frame.max() > 0:
            turned = points.copy()
            turned[:, 0] = len(images) - 1 - points[:, 0]
            xy_back, share_back = self._forward(video.flip(1), turned)
            before = np.arange(len(images))[:, None] < queries.frame[None]
            xy = np.where(before[..., None], xy_back[::-1], xy)
            share = np.where(before, share_back[::-1], share)
        return Tracks2D(self._house(images, xy), share > _VISIBLE, share.astype(np.float32))

    def _forward(self, video: torch.Tensor, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[T,N,2] (x, y) and probability of being visible [T,N]; meaningless before a query's frame."""
        asked: dict[str, Any] = {"query_points": torch.from_numpy(points)[None].to(self._device)}
        tracks, shares = [], []
        for t in range(video.shape[1]):
            position, _, visible, state = self._model(video=video[:, t : t + 1], **asked)
            asked = {"state": state}
            tracks.append(position[0].float().cpu().numpy())
            shares.append(conventions.sigmoid(visible[0, ..., 0].float().cpu().numpy()))
        answer = np.concatenate(tracks).transpose(1, 0, 2)
        return conventions.house_tracks(answer, self.native.queries), np.concatenate(shares)
