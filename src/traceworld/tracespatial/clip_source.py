"""Our clip store as scenes: what moved in an event, seen in the picture where the event begins."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from traceworld.errors import DatasetError, ExtractionError, InvalidInputError
from traceworld.geometry.cameras import resize_K
from traceworld.traces.media import frames_with_pictures, read_depth, read_frame
from traceworld.traces.store import open_dataset
from traceworld.traces.types import Camera, Clip, Event
from traceworld.tracespatial.recorded import recorded_scene, recorded_set, turned, upright
from traceworld.tracespatial.scene import Scene
from traceworld.tracespatial.sources import TraceSet

MIN_POINTS = 4
"""Fewer points of a part known throughout an event are no path of an object."""
CAMERA_UP = np.array([0.0, -1.0, 0.0])
"""Clips do not say where up is: the first picture's top is taken for it."""


class ClipSource:
    """Events of metric clips: one scene per event of the finest level.

    Args:
        folder: a dataset of the clip store.

    Raises:
        DatasetError: there is none, or it holds no event with moving points.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.name = f"clips {self.folder.name}"
        self._events = dict(self._find())
        if not self._events:
            raise DatasetError(
                "holds no event of a metric clip", where=str(folder), mend="extract with depth and captions"
            )

    def scene_ids(self) -> Iterator[str]:
        return iter(self._events)

    def load(self, scene_id: str) -> Scene:
        """Raises ExtractionError where no picture of the event's beginning is stored; MediaError, DepthError if unreadable."""
        clip, event = self._event(scene_id)
        pictured = [frame for frame in frames_with_pictures(clip) if frame <= event.start]
        if not pictured:
            raise ExtractionError(
                "no picture from before the event", where=scene_id, mend="store frames with the clips"
            )
        image = read_frame(clip, pictured[-1])
        depth_m = read_depth(clip, pictured[-1])
        camera, _ = self._upright(clip, pictured[-1])
        camera = of_size(camera, image.shape[1], image.shape[0])
        fitting = depth_m if depth_m is not None and depth_m.shape == image.shape[:2] else None
        return recorded_scene(scene_id, image, fitting, camera)

    def traces(self, scene: Scene, seed: int, number: int) -> list[TraceSet]:
        """The path of the part that moved most, in the words of the event."""
        clip, event = self._event(scene.scene_id)
        path = event_path(clip, event)
        if path is None:
            return []
        _, turn = self._upright(clip, event.start)
        found = recorded_set(scene, turned(path, turn), event.caption or clip.task, "object")
        return [found] if isinstance(found, TraceSet) else []

    def _upright(self, clip: Clip, frame: int) -> tuple[Camera, Float[np.ndarray, "3 3"]]:
        up = clip.cameras.cam_from_world[0, :3, :3].astype(np.float64).T @ CAMERA_UP
        return upright(clip.cameras[frame], up)

    def _find(self) -> Iterator[tuple[str, tuple[str, int]]]:
        for clip in open_dataset(self.folder):
            for place, event in enumerate(clip.events):
                if clip.metric and event.level == 0 and event_path(clip, event) is not None:
                    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", clip.clip_id)
                    yield f"{safe}-{place}", (clip.clip_id, place)

    def _event(self, scene_id: str) -> tuple[Clip, Event]:
        if scene_id not in self._events:
            raise InvalidInputError(f"no event {scene_id!r}", where=str(self.folder))
        clip_id, place = self._events[scene_id]
        clip = open_dataset(self.folder).clip(clip_id)
        return clip, clip.events[place]


def of_size(camera: Camera, width: int, height: int) -> Camera:
    """The camera of a picture that is stored at another size."""
    K = resize_K(np.asarray(camera.K, np.float64), (camera.width, camera.height), (width, height))
    return Camera(K, camera.cam_from_world, width, height)


def event_path(clip: Clip, event: Event) -> Float[np.ndarray, "T 3"] | None:
    """Mean path of the moving part that goes farthest in an event; only points known in every frame of it count."""
    xyz = clip.traces.xyz_world[event.start : event.end].astype(np.float64)
    usable = clip.traces.valid[event.start : event.end].all(0) & clip.traces.moving
    best, farthest = None, 0.0
    for part in np.unique(clip.traces.part_id[usable]):
        mine = usable & (clip.traces.part_id == part)
        if part < 0 or mine.sum() < MIN_POINTS:
            continue
        path = xyz[:, mine].mean(1)
        length = float(np.linalg.norm(path[-1] - path[0]))
        if length > farthest:
            best, farthest = path, length
    return best
