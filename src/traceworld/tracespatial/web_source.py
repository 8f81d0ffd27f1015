"""Pictures as pseudo-3D scenes: depth and intrinsics from a perception backend, boxes and masks given beside the picture (§5.1).

    ROOT/<name>.jpg|png
    ROOT/<name>.json    {"objects": [{"id", "label", "caption", "attributes", "box_px": [x0, y0, x1, y1], "mask": "<file>.png"}],
                         "outdoor": false, "K": [[…]]}
Tags, boxes and masks come from detectors of the user's choice; the paper's are RAM++, GroundingDINO and SAM 2.1. Here the picture is
lifted: an object's cloud is its pixels with depth, its 3D box the upright box of the cloud. `metric` is what the backend says of
itself; a scene without metric scale is asked no lengths.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32

from traceworld.errors import DatasetError, InvalidInputError
from traceworld.perception import registry
from traceworld.perception.interfaces import Frame
from traceworld.traces.atomic import read_json
from traceworld.traces.media import open_picture
from traceworld.traces.types import Camera
from traceworld.tracespatial.boxes import pca_box
from traceworld.tracespatial.captions import captioned
from traceworld.tracespatial.gravity import align_camera, gravity_rotation
from traceworld.tracespatial.rejection import IMMOVABLE
from traceworld.tracespatial.scan_source import cloud_of
from traceworld.tracespatial.scene import OrientedBox, Scene, SceneObject
from traceworld.tracespatial.sources import TraceSet

SUFFIXES = (".jpg", ".jpeg", ".png")
ASSUMED_FOV_DEG = 60.0
MIN_PIXELS = 40
TRIM = 0.05
"""Share of a cloud's nearest and farthest points that is left out: masks reach over edges, where depth is of something else."""
CAMERA_UP = np.array([0.0, -1.0, 0.0])
"""A picture alone does not say where up is: its own top is taken for it."""


class WebSource:
    """Pictures of a folder, each with a JSON of its objects.

    Args:
        root: the folder. backend: name of a geometry backend of `perception.registry`, or a backend object.

    Raises:
        DatasetError: no picture with a JSON beside it. ConfigError: no such backend.
    """

    def __init__(self, root: str | Path, backend: Any = None):
        if backend is None:
            raise DatasetError(
                "pictures need a geometry backend", where=str(root), mend="--geometry NAME (see `traceworld doctor`)"
            )
        self.root = Path(root)
        self.backend = registry.create("geometry", backend) if isinstance(backend, str) else backend
        self.name = f"web {self.root.name} {self.backend.info.name} {self.backend.info.version}"
        self._files = {
            file.stem: file
            for file in sorted(self.root.glob("*"))
            if file.suffix.lower() in SUFFIXES and file.with_suffix(".json").is_file()
        }
        if not self._files:
            raise DatasetError("holds no picture with a JSON of its objects", where=str(root), mend="see web_source")

    def scene_ids(self) -> Iterator[str]:
        return iter(self._files)

    def load(self, scene_id: str) -> Scene:
        """Raises InvalidInputError for an unknown id, MediaError or DatasetError for what cannot be read."""
        if scene_id not in self._files:
            raise InvalidInputError(f"no picture {scene_id!r}", where=str(self.root))
        image = open_picture(self._files[scene_id])
        about = read_json(self._files[scene_id].with_suffix(".json"))
        height, width = image.shape[:2]
        K = np.asarray(about["K"], np.float64) if "K" in about else assumed_K(width, height)
        geometry = self.backend.reconstruct([Frame(0, 0.0, image)], K)
        depth_m = np.nan_to_num(geometry.depth_m[0], nan=0.0, posinf=0.0, neginf=0.0).clip(0).astype(np.float32)
        turn = gravity_rotation(CAMERA_UP)
        camera = align_camera(Camera(np.asarray(geometry.K[0], np.float64), np.eye(4), width, height), turn)
        objects = [found for item in about.get("objects", ()) if (found := self._object(item, depth_m, camera))]
        named = {thing.object_id: thing for thing in captioned(objects, camera, named_px=MIN_PIXELS)}
        things = [thing if thing.caption else named[thing.object_id] for thing in objects]
        return Scene(
            scene_id,
            "web",
            image,
            depth_m,
            camera,
            tuple(_apart(things)),
            geometry.metric,
            bool(about.get("outdoor", False)),
        )

    def traces(self, scene: Scene, seed: int, number: int) -> list[TraceSet]:
        """None: boxes of what one picture shows have no back, and nothing could be said to pass behind them."""
        return [TraceSet(())]

    def _object(
        self, item: Mapping[str, Any], depth_m: Float32[np.ndarray, "H W"], camera: Camera
    ) -> SceneObject | None:
        """None where too little of it has depth to have a shape."""
        try:
            mask = self._mask(item, depth_m.shape) & (depth_m > 0)
            label = str(item["label"])
            object_id = str(item["id"])
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(
                f"an object is incomplete: {error}", where=self.name, mend="id, label, box_px or mask"
            ) from error
        mask = trimmed(mask, depth_m)
        if mask.sum() < MIN_PIXELS:
            return None
        cloud = cloud_of(mask, depth_m, camera)
        attributes = {str(name): str(value) for name, value in item.get("attributes", {}).items()}
        movable = label.lower().split()[-1] not in IMMOVABLE
        box: OrientedBox = pca_box(cloud.astype(np.float64), upright=True)
        return SceneObject(object_id, label, str(item.get("caption", "")), box, mask, cloud, attributes, movable)

    def _mask(self, item: Mapping[str, Any], size: tuple[int, ...]) -> Bool[np.ndarray, "H W"]:
        mask = np.zeros(size, bool)
        if item.get("mask"):
            pixels = cv2.imread(str(self.root / Path(str(item["mask"])).name), cv2.IMREAD_GRAYSCALE)
            if pixels is None or pixels.shape != size:
                raise DatasetError("a mask is missing or of another size", where=f"{self.name}: {item['mask']}")
            mask = pixels > 0
        if item.get("box_px"):
            x0, y0, x1, y1 = (round(float(number)) for number in item["box_px"])
            boxed = np.zeros(size, bool)
            boxed[max(y0, 0) : y1 + 1, max(x0, 0) : x1 + 1] = True
            mask = mask & boxed if item.get("mask") else boxed
        return mask


def _apart(things: list[SceneObject]) -> list[SceneObject]:
    """Two with one caption are told apart by none."""
    captions = [thing.caption for thing in things]
    return [replace(thing, caption=thing.caption if captions.count(thing.caption) == 1 else "") for thing in things]


def assumed_K(width: int, height: int) -> Float[np.ndarray, "3 3"]:
    """Intrinsics of a 60° horizontal field of view, where nobody knows better; backends may replace them."""
    focal = width / 2 / np.tan(np.radians(ASSUMED_FOV_DEG / 2))
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])


def trimmed(mask: Bool[np.ndarray, "H W"], depth_m: Float32[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """The mask without its nearest and farthest pixels."""
    if not mask.any():
        return mask
    near, far = np.quantile(depth_m[mask], [TRIM, 1 - TRIM])
    return mask & (depth_m >= near) & (depth_m <= far)
