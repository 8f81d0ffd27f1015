"""What TraceSpatial is made from and of: a scene with exact or estimated geometry, and a spatial trace through it.

World frame: metres, gravity-aligned, +z up. Cameras are the library's (`traces.types.Camera`: OpenCV axes, pixel centres at
integers). All invariants are checked when an object is made, so that a function that receives one need not check again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from traceworld.errors import InvalidInputError
from traceworld.traces.types import Camera

Source = Literal["sim", "scan", "web", "video"]
SOURCES: tuple[Source, ...] = ("sim", "scan", "web", "video")

PRIMITIVES: Mapping[int, str] = MappingProxyType(
    {
        1: "place relative to a reference",
        2: "move by a direction",
        3: "stack",
        4: "bypass, then place relative to a reference",
        5: "bypass, then stack",
    }
)
"""The five ways a thing moves in TraceSpatial (RoboTracer supplement B; `reference/robotracer.md` §5.3)."""

ORTHONORMAL_TOLERANCE = 1e-3


def _refuse(condition: bool | np.bool_, where: str, message: str, mend: str | None = None) -> None:
    if condition:
        raise InvalidInputError(message, where=where, mend=mend)


@dataclass(frozen=True, eq=False)
class OrientedBox:
    """A box with any orientation.

    Attributes:
        center_xyz: [3] metres.
        size_m: [3] full side lengths along the box axes, all positive.
        rotation: [3,3] proper rotation; its columns are the box axes.
    """

    center_xyz: Float[np.ndarray, " 3"]
    size_m: Float[np.ndarray, " 3"]
    rotation: Float[np.ndarray, "3 3"]

    def __post_init__(self):
        for name, shape in (("center_xyz", (3,)), ("size_m", (3,)), ("rotation", (3, 3))):
            value = np.asarray(getattr(self, name), np.float64)
            object.__setattr__(self, name, value)
            _refuse(value.shape != shape, f"OrientedBox.{name}", f"shape {value.shape} is not {shape}")
            _refuse(not np.isfinite(value).all(), f"OrientedBox.{name}", "holds NaN or infinity")
        _refuse((self.size_m <= 0).any(), "OrientedBox.size_m", f"{self.size_m.tolist()} is not positive")
        error = float(np.abs(self.rotation.T @ self.rotation - np.eye(3)).max())
        _refuse(
            error > ORTHONORMAL_TOLERANCE,
            "OrientedBox.rotation",
            f"columns are not orthonormal (off by {error:.2g})",
            "the columns are the box axes, unit length",
        )
        _refuse(np.linalg.det(self.rotation) < 0, "OrientedBox.rotation", "is a reflection", "negate one axis")

    @property
    def volume_m3(self) -> float:
        return float(np.prod(self.size_m))


@dataclass(frozen=True, eq=False)
class SceneObject:
    """One thing in a scene.

    Attributes:
        object_id: unique in its scene.
        label: its class, e.g. `mug`.
        caption: a phrase that means this object and no other in its scene (§5.1.3), e.g. `the second mug from the left`;
            "" for what is not captioned, which then only serves as an obstacle.
        box: in world metres.
        mask: [H,W] its visible pixels (may be none).
        cloud_world: [N,3] points of its surface, metres (may be none).
        attributes: e.g. `{"colour": "red", "material": "ceramic", "size": "large"}`.
        movable: False for floors, walls, counters, shelves and other things no one picks up.
        support_id: the object it rests on; None when unknown, or for what stands on the ground.
    """

    object_id: str
    label: str
    caption: str
    box: OrientedBox
    mask: Bool[np.ndarray, "H W"]
    cloud_world: Float32[np.ndarray, "N 3"]
    attributes: Mapping[str, str] = field(default_factory=dict)
    movable: bool = True
    support_id: str | None = None

    def __post_init__(self):
        where = f"SceneObject {self.object_id}"
        _refuse(not self.object_id, "SceneObject.object_id", "is empty")
        _refuse(not self.label, f"{where}.label", "is empty")
        _refuse(self.mask.ndim != 2 or self.mask.dtype != bool, f"{where}.mask", "is not a [H,W] array of bool")
        _refuse(
            self.cloud_world.ndim != 2 or self.cloud_world.shape[1] != 3,
            f"{where}.cloud_world",
            f"shape {self.cloud_world.shape} is not [N,3]",
        )
        _refuse(not np.isfinite(self.cloud_world).all(), f"{where}.cloud_world", "holds NaN or infinity")
        _refuse(self.support_id == self.object_id, f"{where}.support_id", "an object cannot rest on itself")
        object.__setattr__(self, "attributes", MappingProxyType(dict(self.attributes)))


@dataclass(frozen=True, eq=False)
class Scene:
    """One picture with its geometry.

    Attributes:
        scene_id: unique in its dataset.
        source: `sim`, `scan`, `web` or `video`.
        image: [H,W,3] RGB.
        depth_m: [H,W] metres along the camera axis, 0 where unknown.
        camera: intrinsics and world pose of the picture.
        objects: everything that is known, platforms and obstacles too.
        metric: False when lengths are only up to scale.
        outdoor: changes which questions make sense.
    """

    scene_id: str
    source: Source
    image: UInt8[np.ndarray, "H W 3"]
    depth_m: Float32[np.ndarray, "H W"]
    camera: Camera
    objects: tuple[SceneObject, ...]
    metric: bool
    outdoor: bool = False

    def __post_init__(self):
        where = f"Scene {self.scene_id}"
        _refuse(not self.scene_id, "Scene.scene_id", "is empty")
        _refuse(self.source not in SOURCES, f"{where}.source", f"'{self.source}' is unknown", f"one of {SOURCES}")
        size = (self.camera.height, self.camera.width)
        for name, shape in (("image", (*size, 3)), ("depth_m", size)):
            found = getattr(self, name).shape
            _refuse(found != shape, f"{where}.{name}", f"shape {found} is not the camera's {shape}")
        _refuse(
            not np.isfinite(self.depth_m).all() or bool((self.depth_m < 0).any()),
            f"{where}.depth_m",
            "holds NaN, infinity or a negative value",
            "0 means unknown",
        )
        ids = [thing.object_id for thing in self.objects]
        _refuse(len(set(ids)) != len(ids), f"{where}.objects", "two objects have one object_id")
        captions = [thing.caption for thing in self.objects if thing.caption]
        _refuse(len(set(captions)) != len(captions), f"{where}.objects", "two objects have one caption")
        for thing in self.objects:
            _refuse(thing.mask.shape != size, f"{where}.{thing.object_id}.mask", f"shape is not the camera's {size}")
            _refuse(
                thing.support_id is not None and thing.support_id not in ids,
                f"{where}.{thing.object_id}.support_id",
                f"there is no object '{thing.support_id}'",
            )

    def object(self, object_id: str) -> SceneObject:
        """The object of that id.

        Raises:
            InvalidInputError: there is none.
        """
        for thing in self.objects:
            if thing.object_id == object_id:
                return thing
        raise InvalidInputError(f"there is no object '{object_id}'", where=f"Scene {self.scene_id}")


@dataclass(frozen=True, eq=False)
class SpatialTrace:
    """How one object moves, as key points.

    Attributes:
        scene_id, object_id: what moves, and where.
        primitive: 1 to 5, see `PRIMITIVES`.
        reference_id: the object that the end is told by; primitives 1, 3, 4, 5.
        via_id: the object that is bypassed; primitives 4 and 5 only.
        passed_ids: objects passed closely on the way, in order.
        direction: the relation to the reference (1, 4: `left`, `right`, `front`, `behind`) or the way of motion (2: these and
            `up`). None for stacking.
        instruction: what is asked for in words; "" until it is worded.
        steps: number of spatial relations and anchor objects that the words need (§1.1).
        points_world: [T,3] metres: where the traced point of the object is: its box centre, shifted so that at the start it is
            seen in the middle of the object's visible pixels (see `refine`). The object moves by the difference to the first.
        uvd: [T,3] the same points as u, v in pixels and d metres along the camera axis.
    """

    scene_id: str
    object_id: str
    primitive: int
    reference_id: str | None
    via_id: str | None
    passed_ids: tuple[str, ...]
    direction: str | None
    instruction: str
    steps: int
    points_world: Float[np.ndarray, "T 3"]
    uvd: Float[np.ndarray, "T 3"]

    def __post_init__(self):
        where = f"SpatialTrace {self.scene_id}/{self.object_id}"
        _refuse(self.primitive not in PRIMITIVES, where, f"primitive {self.primitive} is not 1 to 5")
        _refuse((self.via_id is not None) != (self.primitive in (4, 5)), where, "via_id belongs to primitives 4 and 5")
        _refuse((self.reference_id is None) != (self.primitive == 2), where, "all primitives but 2 need a reference_id")
        _refuse((self.direction is None) != (self.primitive in (3, 5)), where, "primitives 1, 2 and 4 need a direction")
        _refuse(self.object_id in (self.reference_id, self.via_id), where, "what moves cannot be its own anchor")
        _refuse(self.steps < 1, f"{where}.steps", "must be at least 1")
        T = len(self.points_world)
        _refuse(T < 2, f"{where}.points_world", f"{T} points are no trace")
        for name in ("points_world", "uvd"):
            value = getattr(self, name)
            _refuse(value.shape != (T, 3), f"{where}.{name}", f"shape {value.shape} is not {(T, 3)}")
            _refuse(not np.isfinite(value).all(), f"{where}.{name}", "holds NaN or infinity")
        _refuse(bool((self.uvd[:, 2] <= 0).any()), f"{where}.uvd", "a point is behind the camera")
