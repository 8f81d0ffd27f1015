"""A scene as the question makers see it: which objects may be asked about, and their figures, computed once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np
from jaxtyping import Float

from traceworld.geometry.cameras import invert_rigid, project
from traceworld.tracespatial.boxes import corners
from traceworld.tracespatial.directions import view_directions
from traceworld.tracespatial.fingerprint import scene_fingerprint
from traceworld.tracespatial.scene import Scene, SceneObject, SpatialTrace

MIN_PIXELS = 40
"""Objects with fewer visible pixels are not asked about."""
TYPICAL_DEPTH_M = 1.5
"""Margins in metres are those of a scene of this mean depth; a scene without a metric scale stretches them to its own."""


@dataclass(frozen=True, eq=False)
class Thing:
    """An object with its figures.

    Attributes:
        item: the scene's own record. phrase: how questions name it, with its article.
        corners_world: [8,3]. footprint: [M,2] convex outline seen from above, metres, anticlockwise.
        low_m, high_m: heights of its lowest and highest point.
        centroid_px: [2] mean of the visible pixels. depth_m: median depth of the visible surface, along the camera axis.
    """

    item: SceneObject
    phrase: str
    corners_world: Float[np.ndarray, "8 3"]
    footprint: Float[np.ndarray, "M 2"]
    low_m: float
    high_m: float
    centroid_px: Float[np.ndarray, 2]
    depth_m: float

    @property
    def id(self) -> str:
        return self.item.object_id

    @property
    def center(self) -> Float[np.ndarray, 3]:
        return self.item.box.center_xyz


def with_article(caption: str) -> str:
    """`red mug` → `the red mug`; captions that begin with an article keep it."""
    lowered = caption.strip()
    return lowered if lowered.lower().startswith(("the ", "a ", "an ")) else f"the {lowered}"


def footprint_of(corners_world: Float[np.ndarray, "8 3"]) -> Float[np.ndarray, "M 2"]:
    """Convex outline of a box seen from above, metres."""
    outline = cv2.convexHull(np.ascontiguousarray(corners_world[:, :2], np.float32))
    return outline[:, 0].astype(np.float64)


@dataclass(eq=False)
class SceneView:
    """Objects that may be asked about, the viewer's directions, and a count of what was not asked and why.

    Attributes:
        scene: the scene. traces: spatial traces through it, if there are any.
        trace_kind: whose path the traces are: `object` or `end-effector`.
        recorded_world: [R,3] where what is traced was recorded to be, metres; None for traces that were planned.
        rejects: reason → how often a question was not asked.
    """

    scene: Scene
    traces: Sequence[SpatialTrace] = ()
    trace_kind: str = "object"
    recorded_world: Float[np.ndarray, "R 3"] | None = None
    rejects: Counter[str] = field(default_factory=Counter)

    @cached_property
    def fingerprint(self) -> str:
        return scene_fingerprint(self.scene)

    @cached_property
    def unit_m(self) -> float:
        """What one metre of margin means here: 1 in metric scenes, else by the scene's mean depth."""
        return 1.0 if self.scene.metric else max(self.mean_depth_m, 1e-6) / TYPICAL_DEPTH_M

    @cached_property
    def mean_depth_m(self) -> float:
        """Mean of the known depths: the scene's scale (what a network that normalises by mean depth must multiply by)."""
        known = self.scene.depth_m[self.scene.depth_m > 0]
        return float(known.mean(dtype=np.float64)) if len(known) else 0.0

    @cached_property
    def right(self) -> Float[np.ndarray, 2]:
        """The viewer's right on the ground, unit length."""
        return view_directions(self.scene.camera)["right"][:2]

    @cached_property
    def forward(self) -> Float[np.ndarray, 2]:
        """Away from the viewer on the ground, unit length."""
        return view_directions(self.scene.camera)["behind"][:2]

    @cached_property
    def camera_xyz(self) -> Float[np.ndarray, 3]:
        return invert_rigid(np.asarray(self.scene.camera.cam_from_world, np.float64))[:3, 3]

    @cached_property
    def things(self) -> list[Thing]:
        """Captioned objects with enough visible pixels, in the scene's order."""
        return [self._thing(item) for item in self.scene.objects if self._askable(item)]

    @cached_property
    def movable(self) -> list[Thing]:
        return [thing for thing in self.things if thing.item.movable]

    def thing(self, object_id: str) -> Thing | None:
        """The askable object of that id, None if it may not be asked about."""
        return next((thing for thing in self.things if thing.id == object_id), None)

    def reject(self, reason: str) -> None:
        """Count a question that was not asked."""
        self.rejects[reason] += 1

    def px(self, xyz_world: Float[np.ndarray, "*points 3"]) -> Float[np.ndarray, "*points 3"]:
        """World metres → (x_px, y_px, depth_m)."""
        camera = self.scene.camera
        return project(np.asarray(xyz_world, np.float64), camera.K, camera.cam_from_world)

    def inside_picture(self, xy_px: Float[np.ndarray, 2]) -> bool:
        """Whether a pixel position lies within the picture; NaN does not."""
        x, y = float(xy_px[0]), float(xy_px[1])
        return 0 <= x <= self.scene.camera.width - 1 and 0 <= y <= self.scene.camera.height - 1

    def _askable(self, item: SceneObject) -> bool:
        return bool(item.caption) and int((item.mask & (self.scene.depth_m > 0)).sum()) >= MIN_PIXELS

    def _thing(self, item: SceneObject) -> Thing:
        outline = corners(item.box)
        rows, columns = np.nonzero(item.mask)
        depths = self.scene.depth_m[item.mask]
        return Thing(
            item,
            with_article(item.caption),
            outline,
            footprint_of(outline),
            float(outline[:, 2].min()),
            float(outline[:, 2].max()),
            np.array([columns.mean(), rows.mean()]),
            float(np.median(depths[depths > 0])),
        )
