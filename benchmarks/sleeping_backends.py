"""Backends that cost the CPU nothing, as models on a GPU do: one takes a set time per frame, one answers at once."""

from __future__ import annotations

import time

import cv2
import numpy as np

from traceworld.perception import registry
from traceworld.perception.backend_spec import BackendSpec
from traceworld.perception.backends.tracker_base import LearnedTracker
from traceworld.perception.chunks import FrameChunk, PointQueries, PointTracks
from traceworld.perception.interfaces import BackendInfo
from traceworld.perception.lift_tracks import from_world


class SleepingTracker(LearnedTracker):
    """Says that nothing moves, after a while. `slept`: seconds of all calls of this process."""

    info = BackendInfo("tracking", "sleeping", "1", "Apache-2.0")
    slept = 0.0

    def __init__(self, ms_per_frame: float):
        self.ms_per_frame = ms_per_frame

    def follow(self, chunk: FrameChunk, queries: PointQueries) -> PointTracks:
        seconds = self.ms_per_frame * len(chunk) / 1000
        time.sleep(seconds)
        SleepingTracker.slept += seconds
        seen = np.ones((len(chunk), len(queries)), bool)
        xyz = np.repeat(queries.xyz_world[None].astype(np.float64), len(chunk), 0)
        return from_world(xyz, seen, seen.astype(np.float32), chunk, queries)


class InstantFeatures:
    """One descriptor per cell of 8 pixels (at 640): its mean colour."""

    info = BackendInfo("features", "instant", "1", "Apache-2.0")

    def describe(self, image: np.ndarray, depth_m: np.ndarray | None = None) -> np.ndarray:
        return cv2.resize(image, (80, max(1, round(80 * image.shape[0] / image.shape[1])))).astype(np.float32) / 30


def register() -> None:
    """Make both known by name, as another package would through the entry points."""
    for kind, name, target in (("tracking", "sleeping", "SleepingTracker"), ("features", "instant", "InstantFeatures")):
        registry.register(BackendSpec(kind, name, f"{__name__}:{target}", "Apache-2.0", "for the benchmark"))
