"""3D scans with boxes as scenes: CA-1M and ScanNet (boxes of EmbodiedScan) folder layouts (§5.2).

CA-1M, unpacked:
    ROOT/<video>/<time>.wide/image.png, .wide/image/K.json, .wide/T_gravity.json, .wide/instances.json, .gt/depth.png
    boxes: `position`, `scale` (full sides along the columns of `R`, the local y is up), `R`, all in the camera's frame
ScanNet as EmbodiedScan unpacks it, with its annotation as JSON (it is published as a pickle, which is not read here):
    ROOT/<scene>/posed_images/00000.jpg|png|txt (colour, uint16 mm depth, camera-to-world), intrinsic.txt,
    axis_align_matrix.txt (optional), boxes.json: [{"id", "label", "bbox_3d": [x, y, z, sides 3, Euler angles Z X Y 3]}]
    boxes: in the aligned world frame, z up

In both, `captions.json` beside the frames ({id: {label, caption, attributes}}) names objects; what has no caption there is named by
`captions`. Pictures are scaled to the depth's size, as the benchmark's are. Objects have no masks in these sets: a mask is the pixels
whose depth lies in the box and inside its 2D box, the smallest box first.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from scipy.spatial.transform import Rotation

from traceworld.errors import ConfigError, DatasetError, InvalidInputError
from traceworld.geometry.cameras import invert_rigid, project, resize_K, unproject
from traceworld.perception.depth_files import read_depth_file, to_metres
from traceworld.traces.types import Camera
from traceworld.tracespatial.boxes import contains
from traceworld.tracespatial.captions import captioned
from traceworld.tracespatial.free_space import find_platform
from traceworld.tracespatial.gravity import gravity_rotation
from traceworld.tracespatial.rejection import IMMOVABLE
from traceworld.tracespatial.scene import OrientedBox, Scene, SceneObject
from traceworld.tracespatial.sources import TraceSet, planned_traces

LAYOUTS = ("ca1m", "scannet")
SURFACE_POINTS = 5000
SURFACE_TOLERANCE_M = 0.05
"""§5.2: a point of the box's surface is seen if the depth map agrees with it to this."""
MASK_MARGIN_M = 0.01
MASK_LIFT_M = 0.006
"""The lowest part of a box is left out of its mask: it is the table that it stands on."""
MIN_PIXELS = 40
UNNAMED_LABEL = "object"
LONGEST_SIDE_M = 6.0
"""Larger boxes are rooms, not things."""


@dataclass(frozen=True, eq=False)
class RawBox:
    """An annotated box as read: world metres once placed; `box_px` is x0, y0, x1, y1 in pixels of the depth map, if annotated."""

    object_id: str
    label: str
    box: OrientedBox
    box_px: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, eq=False)
class RawFrame:
    """A picture with depth of the same size, its camera in a z-up world, and the boxes annotated in it."""

    image: UInt8[np.ndarray, "H W 3"]
    depth_m: Float32[np.ndarray, "H W"]
    camera: Camera
    boxes: Sequence[RawBox]
    names: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def unified_box(
    center: Float[np.ndarray, 3], size: Float[np.ndarray, 3], rotation: Float[np.ndarray, "3 3"], order: str
) -> OrientedBox:
    """A box with its sides in the order width, length, height, whatever the set's order.

    Args:
        order: which of `w`, `l`, `h` each local axis is: `whl` for CA-1M (local y up), `wlh` for ScanNet.

    Raises:
        ConfigError: `order` is no permutation of w, l, h. InvalidInputError: no proper box.
    """
    if sorted(order) != ["h", "l", "w"]:
        raise ConfigError(f"{order!r} is no order of w, l, h", where="unified_box.order")
    axes = [order.index(name) for name in "wlh"]
    turned = np.asarray(rotation, np.float64)[:, axes]
    if np.linalg.det(turned) < 0:
        turned[:, 0] = -turned[:, 0]  # the same box: a box does not know the sign of its axes
    return OrientedBox(np.asarray(center, np.float64), np.asarray(size, np.float64)[axes], turned)


def surface_points(box: OrientedBox, number: int, rng: np.random.Generator) -> Float[np.ndarray, "N 3"]:
    """Points drawn evenly from the six faces of a box, world metres."""
    areas = np.array([np.prod(np.delete(box.size_m, axis)) for axis in range(3)])
    axis = rng.choice(3, number, p=areas / areas.sum())
    local = rng.uniform(-0.5, 0.5, (number, 3))
    local[np.arange(number), axis] = rng.choice([-0.5, 0.5], number)
    return box.center_xyz + (local * box.size_m) @ box.rotation.T


def seen_box_px(
    box: OrientedBox, depth_m: Float32[np.ndarray, "H W"], camera: Camera, rng: np.random.Generator
) -> tuple[float, float, float, float] | None:
    """2D box of a 3D box where it is seen: surface points inside the picture and near the depth, their extent; None if none is."""
    px = project(surface_points(box, SURFACE_POINTS, rng), camera.K, camera.cam_from_world)
    x, y, z = np.nan_to_num(px, nan=-1e6).T
    columns, rows = np.rint(np.clip(x, -1e6, 1e6)).astype(int), np.rint(np.clip(y, -1e6, 1e6)).astype(int)
    inside = (columns >= 0) & (columns < camera.width) & (rows >= 0) & (rows < camera.height) & (z > 0)
    depth = depth_m[np.where(inside, rows, 0), np.where(inside, columns, 0)]
    seen = inside & (depth > 0) & (np.abs(depth - z) <= SURFACE_TOLERANCE_M)
    if not seen.any():
        return None
    return float(x[seen].min()), float(y[seen].min()), float(x[seen].max()), float(y[seen].max())


class ScanSource:
    """Frames of scans in one of the two layouts.

    Args:
        root: the folder of videos (CA-1M) or scenes (ScanNet). layout: which of the two.
        every: take every n-th frame of a scan (neighbours show the same).

    Raises:
        DatasetError: no frame in that layout is there.
    """

    def __init__(self, root: str | Path, layout: str, every: int = 1):
        if layout not in LAYOUTS or every < 1:
            raise ConfigError(f"no layout {layout!r} with every {every}", where="ScanSource", mend="ca1m or scannet")
        self.root, self.layout, self.every = Path(root), layout, every
        self.name = f"scan {layout} {self.root.name} every {every}"
        self._frames = dict(self._find())
        if not self._frames:
            raise DatasetError(f"holds no frames in the layout {layout}", where=str(root), mend="see scan_source")

    def scene_ids(self) -> Iterator[str]:
        return iter(self._frames)

    def load(self, scene_id: str) -> Scene:
        """Raises DatasetError or DepthError where a file is missing or damaged, InvalidInputError for an unknown id."""
        if scene_id not in self._frames:
            raise InvalidInputError(f"no frame {scene_id!r}", where=str(self.root))
        folder, frame = self._frames[scene_id]
        read = read_ca1m_frame if self.layout == "ca1m" else read_scannet_frame
        return scene_of(scene_id, read(folder, frame))

    def traces(self, scene: Scene, seed: int, number: int) -> list[TraceSet]:
        return planned_traces(scene, seed, number)

    def _find(self) -> Iterator[tuple[str, tuple[Path, str]]]:
        pattern = "*.wide/image.png" if self.layout == "ca1m" else "posed_images/*.jpg"
        for folder in sorted(path for path in self.root.glob("*") if path.is_dir()):
            names = [path.parent.name if self.layout == "ca1m" else path.stem for path in sorted(folder.glob(pattern))]
            for name in names[:: self.every]:
                frame = name.removesuffix(".wide")
                yield f"{folder.name}_{frame}", (folder, frame)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot be read: {error}", where=str(path), mend="unpack it again") from error


def _matrix(path: Path, shape: tuple[int, int], values: Any = None) -> np.ndarray:
    try:
        matrix = np.asarray(np.loadtxt(path) if values is None else values, np.float64).reshape(shape)
    except (OSError, ValueError, TypeError) as error:
        raise DatasetError(f"is no {shape} matrix: {error}", where=str(path), mend="unpack it again") from error
    if not np.isfinite(matrix).all():
        raise DatasetError("holds NaN or infinity", where=str(path), mend="leave the frame out")
    return matrix


def _picture(path: Path, width: int, height: int) -> tuple[np.ndarray, tuple[int, int]]:
    """RGB at the depth's size, and the size that it had."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DatasetError("cannot be read as a picture", where=str(path), mend="unpack it again")
    size = (image.shape[1], image.shape[0])
    if size != (width, height):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(image[..., ::-1]), size


def read_ca1m_frame(folder: Path, frame: str) -> RawFrame:
    """A CA-1M frame; the world is the camera's frame turned upright (`T_gravity`), its origin at the camera.

    `T_gravity` takes camera axes to upright ones (x right, y down, z ahead): pitch and roll are undone, the heading stays.
    """
    wide = folder / f"{frame}.wide"
    depth_m = np.nan_to_num(to_metres(read_depth_file(folder / f"{frame}.gt" / "depth.png"), 0.001))
    height, width = depth_m.shape
    image, size = _picture(wide / "image.png", width, height)
    K_file = wide / "image" / "K.json"
    K = resize_K(_matrix(K_file, (3, 3), _json(K_file)), size, (width, height))
    gravity = _matrix(wide / "T_gravity.json", (3, 3), _json(wide / "T_gravity.json"))
    down_cam = gravity.T @ np.array([0.0, 1.0, 0.0])
    pose = np.eye(4)
    pose[:3, :3] = gravity_rotation(-down_cam).T
    world_from_cam = invert_rigid(pose)
    scale = np.array([width / size[0], height / size[1]] * 2)
    boxes = []
    for number, item in enumerate(_json(wide / "instances.json")):
        try:
            center, R = np.asarray(item["position"], np.float64), np.asarray(item["R"], np.float64)
            placed = unified_box(
                world_from_cam[:3, :3] @ center,
                np.asarray(item["scale"], np.float64),
                world_from_cam[:3, :3] @ R,
                "whl",
            )
            label = str(item.get("category") or UNNAMED_LABEL)
        except (KeyError, ValueError, InvalidInputError):
            continue  # §5.3 drops boxes that are no boxes
        flat = item.get("box_2d_rend")
        box_px = tuple((np.asarray(flat, np.float64) * scale).tolist()) if flat and len(flat) == 4 else None
        boxes.append(RawBox(str(item.get("id", number)), label, placed, box_px))  # type: ignore[arg-type]
    return RawFrame(image, depth_m, Camera(K, pose, width, height), boxes, _names(folder))


def read_scannet_frame(folder: Path, frame: str) -> RawFrame:
    """A ScanNet frame in EmbodiedScan's folders; the world is the aligned one (z up)."""
    posed = folder / "posed_images"
    depth_m = np.nan_to_num(to_metres(read_depth_file(posed / f"{frame}.png"), 0.001))
    height, width = depth_m.shape
    image, size = _picture(posed / f"{frame}.jpg", width, height)
    K = _matrix(posed / "intrinsic.txt", (4, 4))[:3, :3]
    world_from_cam = _matrix(posed / f"{frame}.txt", (4, 4))
    align = folder / "axis_align_matrix.txt"
    if align.is_file():
        world_from_cam = _matrix(align, (4, 4)) @ world_from_cam
    boxes = []
    for number, item in enumerate(_json(folder / "boxes.json")):
        try:
            numbers = np.asarray(item["bbox_3d"], np.float64)
            turn = Rotation.from_euler("ZXY", numbers[6:9]).as_matrix()
            placed = unified_box(numbers[:3], numbers[3:6], turn, "wlh")
        except (KeyError, ValueError, InvalidInputError):
            continue
        boxes.append(RawBox(str(item.get("id", number)), str(item.get("label") or UNNAMED_LABEL), placed))
    camera = Camera(resize_K(K, size, (width, height)), invert_rigid(world_from_cam), width, height)
    return RawFrame(image, depth_m, camera, boxes, _names(folder))


def _names(folder: Path) -> dict[str, Any]:
    file = folder / "captions.json"
    return _json(file) if file.is_file() else {}


def scene_of(scene_id: str, frame: RawFrame) -> Scene:
    """A scene of a frame: masks from depth and boxes, captions, supports. Boxes nobody sees stay as obstacles."""
    rng = np.random.default_rng(0)
    boxes = [raw for raw in frame.boxes if raw.box.size_m.max() <= LONGEST_SIDE_M]
    masks = box_masks(boxes, frame.depth_m, frame.camera, rng)
    objects = [_object(raw, mask, frame) for raw, mask in zip(boxes, masks, strict=True)]
    objects = with_captions(objects, frame)
    bare = Scene(scene_id, "scan", frame.image, frame.depth_m, frame.camera, tuple(objects), True)
    resting = []
    for item in objects:
        platform = find_platform(bare, item)
        resting.append(replace(item, support_id=platform.object_id if platform else None))
    return replace(bare, objects=tuple(resting))


def _object(raw: RawBox, mask: Bool[np.ndarray, "H W"], frame: RawFrame) -> SceneObject:
    about = frame.names.get(raw.object_id, {})
    label = str(about.get("label", raw.label))
    attributes = {str(name): str(value) for name, value in about.get("attributes", {}).items()}
    cloud = cloud_of(mask, frame.depth_m, frame.camera)
    movable = label.lower().split()[-1] not in IMMOVABLE
    return SceneObject(raw.object_id, label, "", raw.box, mask, cloud, attributes, movable)


def with_captions(objects: Sequence[SceneObject], frame: RawFrame) -> list[SceneObject]:
    """Given captions where there are any, else made ones; a class-agnostic `object` is not spoken of, nor what shares a caption."""
    made = captioned([item for item in objects if item.label != UNNAMED_LABEL], frame.camera, named_px=MIN_PIXELS)
    captions = {item.object_id: item.caption for item in made}
    for item in objects:
        given = str(frame.names.get(item.object_id, {}).get("caption", ""))
        if given and item.mask.any():
            captions[item.object_id] = given
    often = Counter(captions.values())
    alone = {name: caption for name, caption in captions.items() if often[caption] == 1}
    return [replace(item, caption=alone.get(item.object_id, "")) for item in objects]


def box_masks(
    boxes: Sequence[RawBox], depth_m: Float32[np.ndarray, "H W"], camera: Camera, rng: np.random.Generator
) -> list[Bool[np.ndarray, "H W"]]:
    """The visible pixels of each box: depth inside the 3D box and position inside the 2D one; a pixel has one owner, the smallest."""
    height, width = depth_m.shape
    rows, columns = np.nonzero(depth_m > 0)
    xyz = unproject(
        np.stack([columns, rows], -1).astype(np.float64),
        depth_m[rows, columns].astype(np.float64),
        camera.K,
        camera.cam_from_world,
    )
    free = np.ones(len(rows), bool)
    masks = [np.zeros((height, width), bool) for _ in boxes]
    for i in sorted(range(len(boxes)), key=lambda i: (boxes[i].box.volume_m3, i)):
        box_px = boxes[i].box_px or seen_box_px(boxes[i].box, depth_m, camera, rng)
        if box_px is None:
            continue
        x0, y0, x1, y1 = box_px
        mine = free & (columns >= x0 - 1) & (columns <= x1 + 1) & (rows >= y0 - 1) & (rows <= y1 + 1)
        mine[mine] = contains(boxes[i].box, xyz[mine], MASK_MARGIN_M) & (xyz[mine, 2] >= _floor(boxes[i].box))
        if mine.sum() >= MIN_PIXELS:
            masks[i][rows[mine], columns[mine]] = True
            free &= ~mine
    return masks


def _floor(box: OrientedBox) -> float:
    """Where a box's own pixels begin, so that the surface under it is not taken for it; thin things keep most of their height."""
    reach = float(np.abs(box.rotation[2]) @ box.size_m)
    return float(box.center_xyz[2]) - reach / 2 + min(MASK_LIFT_M, reach / 4)


def cloud_of(
    mask: Bool[np.ndarray, "H W"], depth_m: Float32[np.ndarray, "H W"], camera: Camera
) -> Float32[np.ndarray, "N 3"]:
    """World points of a mask's pixels with depth."""
    rows, columns = np.nonzero(mask & (depth_m > 0))
    xy = np.stack([columns, rows], -1).astype(np.float64)
    xyz = unproject(xy, depth_m[rows, columns].astype(np.float64), camera.K, camera.cam_from_world)
    return xyz.astype(np.float32)
