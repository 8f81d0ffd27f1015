"""The checker's own geometry: sampled points and plain loops, written apart from what the question makers use.

Margins are looser than the makers': what they ask about must still be true here by the smaller margins. Verdicts are True,
False or None (too close to call).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import ConvexHull

from traceworld.tracespatial.fingerprint import scene_fingerprint
from traceworld.tracespatial.scene import Scene, SceneObject

SIDE_M, SIDE_SHARE = 0.02, 0.25
DEPTH_M = 0.02
CONTACT_M, NO_CONTACT_M = 0.03, 0.04
OVER_SHARE, OFF_SHARE = 0.5, 0.2
NEXT_M, APART_M = 0.15, 0.30
CLOSER_RATIO = 1.15
SIZE_RATIO = 1.12
TYPICAL_DEPTH_M = 1.5
FACE_MARGIN = 0.1
GRID = 9

Verdict = bool | None


def box_points(item: SceneObject, count: int = GRID, shrink: float = 1.0) -> Float[np.ndarray, "P 3"]:
    """A lattice of points through a box, its faces included."""
    steps = np.linspace(-0.5, 0.5, count) * shrink
    x, y, z = np.meshgrid(steps, steps, steps, indexing="ij")
    local = np.stack([x.ravel(), y.ravel(), z.ravel()], 1) * item.box.size_m
    return local @ item.box.rotation.T + item.box.center_xyz


def inside_box(item: SceneObject, points: Float[np.ndarray, "P 3"], grow_m: float = 0.0) -> Bool[np.ndarray, " P"]:
    local = (points - item.box.center_xyz) @ item.box.rotation
    return (np.abs(local) <= item.box.size_m / 2 + grow_m).all(1)


def over(item: SceneObject, ground: Float[np.ndarray, "P 2"], grow_m: float = 0.0) -> Bool[np.ndarray, " P"]:
    """Which points lie over a box, seen from above."""
    hull = ConvexHull(box_points(item, 2)[:, :2])
    return (ground @ hull.equations[:, :2].T + hull.equations[:, 2] <= grow_m + 1e-9).all(1)


def over_share(a: SceneObject, b: SceneObject) -> float:
    """Share of the points of a that lie over b."""
    return float(over(b, box_points(a)[:, :2]).mean())


def low(item: SceneObject) -> float:
    return float(box_points(item, 2)[:, 2].min())


def high(item: SceneObject) -> float:
    return float(box_points(item, 2)[:, 2].max())


class Facts:
    """A scene's camera and figures, computed by the checker; `verdicts` remembers what was said of a path."""

    def __init__(self, scene: Scene):
        self.scene = scene
        self.fingerprint = scene_fingerprint(scene)
        self.verdicts: dict[str, str] = {}
        self.R = np.asarray(scene.camera.cam_from_world[:3, :3], np.float64)
        self.t = np.asarray(scene.camera.cam_from_world[:3, 3], np.float64)
        self.K = np.asarray(scene.camera.K, np.float64)
        known = scene.depth_m[scene.depth_m > 0].astype(np.float64)
        self.mean_depth = float(known.sum() / max(known.size, 1))
        self.unit = 1.0 if scene.metric else self.mean_depth / TYPICAL_DEPTH_M
        look = np.array([self.R[2, 0], self.R[2, 1]])
        if np.hypot(*look) < 1e-3:  # straight down: the top of the picture is ahead
            look = -np.array([self.R[1, 0], self.R[1, 1]])
        self.ahead = look / np.hypot(*look)
        self.to_right = np.array([self.ahead[1], -self.ahead[0]])

    def camera_xyz(self, xyz_world: np.ndarray) -> np.ndarray:
        return xyz_world @ self.R.T + self.t

    def pixels(self, xyz_world: np.ndarray) -> np.ndarray:
        """[P,3] x_px, y_px, depth."""
        xyz = self.camera_xyz(np.atleast_2d(xyz_world))
        homogeneous = xyz @ self.K.T
        return np.stack([homogeneous[:, 0] / xyz[:, 2], homogeneous[:, 1] / xyz[:, 2], xyz[:, 2]], 1)

    def world(self, u: float, v: float, depth_m: float) -> np.ndarray:
        """World point of thousandths and a depth."""
        pixel = np.array([u / 1000 * self.scene.camera.width, v / 1000 * self.scene.camera.height, 1.0])
        ray = np.linalg.solve(self.K, pixel)
        return self.R.T @ (ray / ray[2] * depth_m - self.t)

    def pixel(self, u: float, v: float) -> tuple[int, int]:
        """(row, column) that thousandths name."""
        width, height = self.scene.camera.width, self.scene.camera.height
        column, row = int(u * width / 1000 + 0.5), int(v * height / 1000 + 0.5)
        return min(row, height - 1), min(column, width - 1)

    def middle_depth(self, item: SceneObject) -> float:
        depths = sorted(depth for depth in self.scene.depth_m[item.mask].tolist() if depth > 0)
        if not depths:
            return float("nan")
        half = len(depths) // 2
        return depths[half] if len(depths) % 2 else (depths[half - 1] + depths[half]) / 2

    def middle_column(self, item: SceneObject) -> float:
        counts = item.mask.sum(0)
        return float((counts * np.arange(len(counts))).sum() / max(int(counts.sum()), 1))

    # --- relations -----------------------------------------------------------------------------------------------

    def relation(self, name: str, a: SceneObject, b: SceneObject) -> Verdict:
        """Whether "a is <name> b"."""
        swapped = {
            "right": "left", "behind": "front", "below": "above", "under": "on", "contains": "inside",
            "farther_camera": "nearer_camera",
        }  # fmt: skip
        if name in swapped:
            return self.relation(swapped[name], b, a)
        if name in ("left_front", "right_front", "left_behind", "right_behind"):
            side, depth = (self.relation(part, a, b) for part in name.split("_"))
            return True if side and depth else False if side is False or depth is False else None
        return getattr(self, f"_{name}")(a, b)

    def _along(self, a: SceneObject, b: SceneObject, axis: np.ndarray) -> Verdict:
        apart = b.box.center_xyz[:2] - a.box.center_xyz[:2]
        along = float(apart[0] * axis[0] + apart[1] * axis[1])
        if abs(along) < SIDE_M * self.unit or abs(along) < SIDE_SHARE * np.hypot(*apart):
            return None
        return along > 0

    def _left(self, a: SceneObject, b: SceneObject) -> Verdict:
        verdict = self._along(a, b, self.to_right)
        seen = self.middle_column(a) < self.middle_column(b)
        return verdict if verdict is seen else None

    def _front(self, a: SceneObject, b: SceneObject) -> Verdict:
        verdict = self._along(a, b, self.ahead)
        return verdict if verdict is self._nearer_camera(a, b) else None

    def _nearer_camera(self, a: SceneObject, b: SceneObject) -> Verdict:
        apart = self.middle_depth(b) - self.middle_depth(a)
        return None if not abs(apart) >= DEPTH_M * self.unit else apart > 0

    def _above(self, a: SceneObject, b: SceneObject) -> Verdict:
        over_each_other = max(over_share(a, b), over_share(b, a)) >= OVER_SHARE
        if over_each_other and low(a) >= high(b) - CONTACT_M * self.unit:
            return True
        return False if a.box.center_xyz[2] < b.box.center_xyz[2] and low(a) < high(b) else None

    def _on(self, a: SceneObject, b: SceneObject) -> Verdict:
        gap, share = abs(low(a) - high(b)) / self.unit, over_share(a, b)
        if gap <= CONTACT_M and share >= OVER_SHARE:
            return True
        return False if gap >= NO_CONTACT_M or share <= OFF_SHARE else None

    def _inside(self, a: SceneObject, b: SceneObject) -> Verdict:
        share = float(inside_box(b, box_points(a)).mean())
        if share >= 0.5 and a.box.size_m.prod() < b.box.size_m.prod():
            return True
        return False if not inside_box(b, a.box.center_xyz[None])[0] else None

    def _next_to(self, a: SceneObject, b: SceneObject) -> Verdict:
        here, there = np.unique(box_points(a)[:, :2], axis=0), np.unique(box_points(b)[:, :2], axis=0)
        gap = float(np.sqrt(((here[:, None] - there[None]) ** 2).sum(-1)).min()) / self.unit
        # A lattice overstates a gap by up to half its step along an edge; the margin covers it.
        step = float(max(a.box.size_m.max(), b.box.size_m.max())) / (GRID - 1) / self.unit
        if gap >= APART_M:
            return False
        level = min(high(a), high(b)) > max(low(a), low(b))
        return True if gap <= NEXT_M + step and level else None

    def between(self, a: SceneObject, b: SceneObject, c: SceneObject) -> Verdict:
        start, end, point = b.box.center_xyz, c.box.center_xyz, a.box.center_xyz
        length = float(np.linalg.norm(end - start))
        if length == 0:
            return None
        share = float(np.dot(point - start, end - start)) / length**2
        aside = float(np.linalg.norm(np.cross(point - start, end - start))) / length**2
        if 0.15 <= share <= 0.85 and aside <= 0.2:
            return True
        return False if not 0 <= share <= 1 or aside > 0.5 else None

    def closer(self, anchor: SceneObject, first: SceneObject, second: SceneObject) -> Verdict:
        """Whether `first` is closer to the anchor than `second`."""
        one = float(np.linalg.norm(first.box.center_xyz - anchor.box.center_xyz))
        two = float(np.linalg.norm(second.box.center_xyz - anchor.box.center_xyz))
        return one < two if max(one, two) >= CLOSER_RATIO * min(one, two) else None

    def beats(self, kind: str, a: SceneObject, b: SceneObject, anchor: SceneObject | None) -> Verdict:
        """Whether a is more `kind` (leftmost, highest, nearest_to …) than b."""
        pair = {
            "leftmost": ("left", a, b), "rightmost": ("left", b, a),
            "nearest_camera": ("nearer_camera", a, b), "farthest_camera": ("nearer_camera", b, a),
        }  # fmt: skip
        if kind in pair:
            return self.relation(*pair[kind])
        if kind in ("highest", "lowest"):
            difference = high(a) - high(b) if kind == "highest" else low(b) - low(a)
            return None if abs(difference) < SIDE_M * self.unit else difference > 0
        assert anchor is not None
        return self.closer(anchor, a, b) if kind == "nearest_to" else self.closer(anchor, b, a)

    # --- sizes ---------------------------------------------------------------------------------------------------

    def side(self, item: SceneObject, measure: str) -> float | None:
        """Length, width or height in metres, or volume in m³; None where the side cannot be told."""
        if measure == "volume":
            return float(item.box.size_m[0] * item.box.size_m[1] * item.box.size_m[2])
        axes = item.box.rotation.T
        upright = max(range(3), key=lambda i: abs(axes[i][2]))
        if abs(axes[upright][2]) < 0.94:
            return None
        if measure == "height":
            return float(item.box.size_m[upright])
        eye = -self.R.T @ self.t
        towards = (eye - item.box.center_xyz)[:2]
        towards = towards / np.hypot(*towards)
        ground = [i for i in range(3) if i != upright]
        looks = [abs(float(axes[i][:2] @ towards)) for i in ground]
        sizes = [float(item.box.size_m[i]) for i in ground]
        if abs(looks[0] - looks[1]) < FACE_MARGIN and max(sizes) > 1.05 * min(sizes):
            return None
        front = 0 if looks[0] > looks[1] else 1
        return sizes[1 - front] if measure == "length" else sizes[front]

    def more(self, measure: str, a: SceneObject, b: SceneObject) -> Verdict:
        one, two = self.side(a, measure), self.side(b, measure)
        if one is None or two is None:
            return None
        return one > two if max(one, two) >= SIZE_RATIO * min(one, two) else None
