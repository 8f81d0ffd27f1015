"""Spatial relations that geometry decides, each with three answers: it holds, it does not, or it is too close to call.

Left, right, front and behind are the viewer's: along the ground, as the camera looks, and the picture must agree. The margins
are the least by which a relation must hold (or fail) before anything is asked about it. 17 relations of two objects, 3 of
three and 8 superlatives: 28 types, as many as §5.2 counts; relations that need a facing direction ("in front of the sofa" as
the sofa sees it) are left out, since boxes do not say which side is the front.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import cv2
import numpy as np
from jaxtyping import Float

from traceworld.tracespatial.questions.view import SceneView, Thing

SIDE_MARGIN_M = 0.04
"""Left, right, front, behind: centres at least so far apart along the axis."""
SIDE_SHARE = 0.35
"""… and at least so large a part of the distance on the ground."""
SIDE_MARGIN_PX_SHARE = 0.02
"""… and, for left and right, visible centroids so far apart, in picture widths."""
DEPTH_MARGIN = 0.05
"""Nearer, farther: this share of the nearer depth, and 3 cm, at least."""
DEPTH_MARGIN_M = 0.03
CONTACT_M = 0.02
"""On: the bottom of one is so near the top of the other."""
NO_CONTACT_M = 0.05
ON_OVERLAP, OFF_OVERLAP = 0.6, 0.1
"""On, above: share of the footprint that lies over the other; below the second it does not."""
LEVEL_MARGIN_M = 0.03
NEXT_M, APART_M = 0.12, 0.35
"""Next to: gap on the ground below the first; not next to: above the second."""
CLOSER_RATIO, CLOSER_M = 1.25, 0.04
"""Closer to: centre distances differ by this factor and by this much."""
INNER = 0.9
"""Inside: a box shrunk to this lies within the other."""

Verdict = bool | None

BINARY_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "left": "to the left of",
        "right": "to the right of",
        "front": "in front of",
        "behind": "behind",
        "above": "above",
        "below": "below",
        "on": "on top of",
        "under": "directly under",
        "inside": "inside",
        "contains": "around",
        "next_to": "next to",
        "nearer_camera": "closer to the camera than",
        "farther_camera": "farther from the camera than",
        "left_front": "in front and to the left of",
        "right_front": "in front and to the right of",
        "left_behind": "behind and to the left of",
        "right_behind": "behind and to the right of",
    }
)
TERNARY = ("between", "closer_to", "farther_from")
SUPERLATIVE_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "leftmost": "farthest to the left",
        "rightmost": "farthest to the right",
        "nearest_camera": "closest to the camera",
        "farthest_camera": "farthest from the camera",
        "highest": "highest up",
        "lowest": "lowest down",
        "nearest_to": "closest to",
        "farthest_from_all": "farthest away from",
    }
)


def overlap_share(a: Thing, b: Thing) -> float:
    """Share of a's footprint that lies over b's."""
    area, _ = cv2.intersectConvexConvex(a.footprint.astype(np.float32), b.footprint.astype(np.float32))
    return float(area) / max(float(cv2.contourArea(a.footprint.astype(np.float32))), 1e-9)


def ground_gap(a: Thing, b: Thing) -> float:
    """Shortest distance between two footprints, metres; 0 where they overlap."""
    if overlap_share(a, b) > 0:
        return 0.0
    return min(_points_to_outline(a.footprint, b.footprint), _points_to_outline(b.footprint, a.footprint))


def _points_to_outline(points: Float[np.ndarray, "N 2"], outline: Float[np.ndarray, "M 2"]) -> float:
    start, along = outline, np.roll(outline, -1, 0) - outline
    offset = points[:, None] - start
    share = (offset * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-12)
    nearest = start + np.clip(share, 0, 1)[..., None] * along
    return float(np.linalg.norm(points[:, None] - nearest, axis=-1).min())


def _beyond(view: SceneView, value: float, margin: float) -> Verdict:
    """True above the margin, False below its negative, None between."""
    limit = margin * view.unit_m
    return True if value >= limit else False if value <= -limit else None


def _agree(*verdicts: Verdict) -> Verdict:
    """What all say; None when they differ."""
    return verdicts[0] if all(verdict == verdicts[0] for verdict in verdicts) else None


def _both(first: Verdict, second: Verdict) -> Verdict:
    if first and second:
        return True
    return False if first is False or second is False else None


def _along(view: SceneView, a: Thing, b: Thing, axis: Float[np.ndarray, 2]) -> Verdict:
    shift = (b.center - a.center)[:2]
    along = float(shift @ axis)
    clear = abs(along) >= SIDE_SHARE * float(np.linalg.norm(shift))
    return _beyond(view, along, SIDE_MARGIN_M) if clear else None


def left(view: SceneView, a: Thing, b: Thing) -> Verdict:
    in_picture = (b.centroid_px - a.centroid_px)[0] / view.scene.camera.width
    seen = True if in_picture > SIDE_MARGIN_PX_SHARE else False if in_picture < -SIDE_MARGIN_PX_SHARE else None
    return _agree(_along(view, a, b, view.right), seen)


def front(view: SceneView, a: Thing, b: Thing) -> Verdict:
    return _agree(_along(view, a, b, view.forward), nearer_camera(view, a, b))


def nearer_camera(view: SceneView, a: Thing, b: Thing) -> Verdict:
    margin = max(DEPTH_MARGIN * min(a.depth_m, b.depth_m) / view.unit_m, DEPTH_MARGIN_M)
    centres = view.px(np.stack([a.center, b.center]))[:, 2]
    return _agree(
        _beyond(view, b.depth_m - a.depth_m, margin),
        _beyond(view, float(centres[1] - centres[0]), DEPTH_MARGIN_M),
    )


def above(view: SceneView, a: Thing, b: Thing) -> Verdict:
    share = max(overlap_share(a, b), overlap_share(b, a))
    if share >= ON_OVERLAP and a.low_m >= b.high_m - CONTACT_M * view.unit_m:
        return True
    clearly_lower = a.center[2] < b.center[2] - LEVEL_MARGIN_M * view.unit_m and a.low_m < b.high_m
    return False if clearly_lower else None


def on(view: SceneView, a: Thing, b: Thing) -> Verdict:
    gap, share = abs(a.low_m - b.high_m), overlap_share(a, b)
    if gap <= CONTACT_M * view.unit_m and share >= ON_OVERLAP:
        return True
    return False if gap >= NO_CONTACT_M * view.unit_m or share <= OFF_OVERLAP else None


def inside(view: SceneView, a: Thing, b: Thing) -> Verdict:
    local = ((a.corners_world - a.center) * INNER + a.center - b.center) @ b.item.box.rotation
    half = b.item.box.size_m / 2
    if (np.abs(local) <= half).all() and a.item.box.volume_m3 < b.item.box.volume_m3:
        return True
    outside = np.abs((a.center - b.center) @ b.item.box.rotation) - half
    return False if outside.max() > LEVEL_MARGIN_M * view.unit_m else None


def next_to(view: SceneView, a: Thing, b: Thing) -> Verdict:
    level = min(a.high_m, b.high_m) - max(a.low_m, b.low_m)
    gap = ground_gap(a, b)
    if gap >= APART_M * view.unit_m:
        return False
    stacked = overlap_share(a, b) > 0
    return True if gap <= NEXT_M * view.unit_m and level > 0 and not stacked else None


_BINARY: dict[str, Callable[[SceneView, Thing, Thing], Verdict]] = {
    "left": left,
    "right": lambda view, a, b: left(view, b, a),
    "front": front,
    "behind": lambda view, a, b: front(view, b, a),
    "above": above,
    "below": lambda view, a, b: above(view, b, a),
    "on": on,
    "under": lambda view, a, b: on(view, b, a),
    "inside": inside,
    "contains": lambda view, a, b: inside(view, b, a),
    "next_to": next_to,
    "nearer_camera": nearer_camera,
    "farther_camera": lambda view, a, b: nearer_camera(view, b, a),
    "left_front": lambda view, a, b: _both(left(view, a, b), front(view, a, b)),
    "right_front": lambda view, a, b: _both(left(view, b, a), front(view, a, b)),
    "left_behind": lambda view, a, b: _both(left(view, a, b), front(view, b, a)),
    "right_behind": lambda view, a, b: _both(left(view, b, a), front(view, b, a)),
}


def holds(view: SceneView, relation: str, a: Thing, b: Thing) -> Verdict:
    """Whether "a is `relation` b": True, False, or None where the margin is too small to ask."""
    return _BINARY[relation](view, a, b)


def between(view: SceneView, a: Thing, b: Thing, c: Thing) -> Verdict:
    """Whether a lies between b and c: in the middle 60 % of their connection and near it."""
    line = c.center - b.center
    length = float(np.linalg.norm(line))
    if length < APART_M / 2 * view.unit_m:
        return None
    share = float((a.center - b.center) @ line) / length**2
    aside = float(np.linalg.norm(a.center - b.center - share * line)) / length
    if 0.2 <= share <= 0.8 and aside <= 0.15:
        return True
    return False if share < -0.1 or share > 1.1 or aside > 0.6 else None


def closer_to(view: SceneView, anchor: Thing, first: Thing, second: Thing) -> Verdict:
    """Whether `first` is closer to the anchor than `second`, centre to centre."""
    one, two = (float(np.linalg.norm(thing.center - anchor.center)) for thing in (first, second))
    clear = max(one, two) >= CLOSER_RATIO * min(one, two) and abs(one - two) >= CLOSER_M * view.unit_m
    return one < two if clear else None


def extreme(view: SceneView, kind: str, among: Sequence[Thing], anchor: Thing | None = None) -> Thing | None:
    """The one of `among` that is `kind` (a key of `SUPERLATIVE_WORDS`) beyond doubt against each other; None if no one is."""

    def beats(a: Thing, b: Thing) -> Verdict:
        if kind in ("leftmost", "rightmost"):
            return left(view, a, b) if kind == "leftmost" else left(view, b, a)
        if kind in ("nearest_camera", "farthest_camera"):
            return nearer_camera(view, a, b) if kind == "nearest_camera" else nearer_camera(view, b, a)
        if kind in ("highest", "lowest"):
            upper, lower = (a, b) if kind == "highest" else (b, a)
            edge = "high_m" if kind == "highest" else "low_m"
            return _beyond(view, getattr(upper, edge) - getattr(lower, edge), LEVEL_MARGIN_M)
        assert anchor is not None
        return closer_to(view, anchor, a, b) if kind == "nearest_to" else closer_to(view, anchor, b, a)

    for one in among:
        if all(beats(one, other) for other in among if other is not one):
            return one
    return None
