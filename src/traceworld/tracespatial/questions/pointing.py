"""The point that stands for an object in the picture: well inside its largest visible piece, with the depth measured there."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool

from traceworld.tracespatial.questions.quantities import pixel_of, thousandths
from traceworld.tracespatial.questions.view import SceneView, Thing


def largest_piece(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """The largest connected piece of a mask (the mask itself when empty)."""
    count, numbers, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    if count <= 2:
        return mask
    return numbers == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))


def point_of(view: SceneView, thing: Thing) -> tuple[np.ndarray, float] | None:
    """(u, v) in 0..1000 and depth in metres of a point on the object; None where none can be told.

    The centroid of the largest visible piece where that lies on the object, else the pixel farthest from the piece's edge.
    The depth is read at the pixel that the rounded coordinates name, so that the answer agrees with itself.
    """
    piece = largest_piece(thing.item.mask & (view.scene.depth_m > 0))
    rows, columns = np.nonzero(piece)
    if not len(rows):
        return None
    inner = cv2.distanceTransform(np.pad(piece, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    deepest = np.unravel_index(int(np.argmax(inner)), inner.shape)
    width, height = view.scene.camera.width, view.scene.camera.height
    for x, y in ((columns.mean(), rows.mean()), (float(deepest[1]), float(deepest[0]))):
        uv = thousandths(np.array([x, y]), width, height)
        column, row = pixel_of(uv, width, height)
        if piece[row, column]:
            return uv, float(view.scene.depth_m[row, column])
    return None
