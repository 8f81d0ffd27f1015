"""Query points of a scene, chosen from one picture in a few milliseconds (mu0-paper §3.4 asks about semantic keypoints).

In a recorded clip TraceExtract picks entities by how they move (App. A.1). A robot has one picture and 10 ms: here half of
the points lie on small things, which differ from what is around them on every side, and the others are spread by farthest-point
sampling over appearance and place together. Without the first half a puck on a table, or a mark of where it shall go, which is
what the task is about, is passed over in favour of the corners of the robot's base.
"""

from __future__ import annotations

import itertools
import math

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from traceworld.errors import ConfigError
from traceworld.geometry.sampling import farthest_point_sampling
from traceworld.perception.features import EmbeddedFeatures
from traceworld.policies.action_expert.config import QueryConfig

_CELLS_ACROSS = 48
_PLACE_WEIGHT = 3.0
"""Half a picture apart weighs as much as three clear differences to the eye."""

_SPOT_CELLS_ACROSS = 96
_SPOT_RADII = (2, 4, 7)
"""Cells from a thing's middle to what is around it: things of 1 % to 7 % of the picture's width."""

_SPOT_DIFFERENCE = 0.7
"""Least difference of a small thing from what is around it (1: clear to the eye)."""

_SPOTS_APART = 5
"""Side of the window, in cells, in which only the clearest small thing counts."""


def choose_queries(image: UInt8[np.ndarray, "H W 3"], config: QueryConfig) -> Float32[np.ndarray, "N 2"]:
    """The query points (u, v) of a picture, as many for every picture."""
    if config.kind == "uniform_grid":
        return uniform_grid(*config.grid)
    if config.kind == "salient_grid":
        return salient_grid(image, *config.grid)
    return semantic_keypoints(image, config.count)


def uniform_grid(columns: int, rows: int) -> Float32[np.ndarray, "N 2"]:
    """linspace(−1, 1) both ways, u fastest: the outer points lie on the picture's edge, as in the released policy."""
    u, v = np.meshgrid(np.linspace(-1, 1, columns), np.linspace(-1, 1, rows))
    return np.stack([u.ravel(), v.ravel()], -1).astype(np.float32)


def salient_grid(image: UInt8[np.ndarray, "H W 3"], columns: int, rows: int) -> Float32[np.ndarray, "N 2"]:
    """The strongest corner of each cell; the middle of a cell without any."""
    height, width = image.shape[:2]
    if width < columns or height < rows:
        raise ConfigError(f"a picture of {width}×{height} has no {columns}×{rows} cells", where="query.grid")
    corner = cv2.cornerMinEigenVal(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY), 5)
    across, down = (np.linspace(0, side, n + 1).astype(int) for side, n in ((width, columns), (height, rows)))
    points = []
    for top, bottom in itertools.pairwise(down):
        for left, right in itertools.pairwise(across):
            cell = corner[top:bottom, left:right]
            y, x = divmod(int(cell.argmax()), cell.shape[1]) if cell.any() else (cell.shape[0] // 2, cell.shape[1] // 2)
            points.append((left + x, top + y))
    return _uv(np.array(points), width, height)


def semantic_keypoints(image: UInt8[np.ndarray, "H W 3"], count: int) -> Float32[np.ndarray, "N 2"]:
    """`count` points: small things, the clearest first, at most half of all; then cells far from these and each other in appearance
    and place.

    Raises:
        ConfigError: the picture has fewer cells.
    """
    features = EmbeddedFeatures(_CELLS_ACROSS).describe(image)
    rows, columns = features.shape[:2]
    if rows * columns < count:
        raise ConfigError(f"a picture has only {rows * columns} cells", where="query.count", mend="ask for fewer")
    spots = small_things(image)[: count // 2]
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    uv = _uv(np.stack([x.ravel(), y.ravel()], -1), columns, rows)
    described = np.concatenate([features.reshape(rows * columns, -1), _PLACE_WEIGHT * uv], -1)
    column, row = ((spots + 1) / 2 * (columns, rows)).astype(int).T
    held = described[row * columns + column]
    rest = farthest_point_sampling(described, count - len(spots), seeds=held if len(spots) else None)
    return np.concatenate([spots, uv[rest]])


def small_things(image: UInt8[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "M 2"]:
    """Middles (u, v) of small things, the clearest first: what differs in colour from its surroundings in all eight directions. Edges,
    which look the same along themselves, are none."""
    colours = EmbeddedFeatures(_SPOT_CELLS_ACROSS).describe(image)[..., :3]
    rows, columns = colours.shape[:2]
    clear = np.max([_least_difference(colours, radius) for radius in _SPOT_RADII], axis=0)
    clear[[0, -1]] = clear[:, [0, -1]] = 0  # beyond the picture's edge nothing is known
    peak = clear == cv2.dilate(clear, np.ones((_SPOTS_APART, _SPOTS_APART), np.uint8))
    y, x = np.nonzero(peak & (clear > _SPOT_DIFFERENCE))
    order = np.argsort(-clear[y, x], kind="stable")
    return _uv(np.stack([x, y], -1)[order], columns, rows)


def _least_difference(colours: Float32[np.ndarray, "h w C"], radius: int) -> Float32[np.ndarray, "h w"]:
    """How much each cell differs from the most alike of eight cells around it; the picture goes on beyond its edge as it ends there."""
    h, w = colours.shape[:2]
    padded = np.pad(colours, ((radius, radius), (radius, radius), (0, 0)), mode="edge")
    slanted = round(radius * math.sqrt(0.5))
    around = [(radius, 0), (0, radius), (slanted, slanted), (slanted, -slanted)]
    least = np.full((h, w), np.inf, np.float32)
    for down, right in [*around, *((-down, -right) for down, right in around)]:
        there = padded[radius + down : radius + down + h, radius + right : radius + right + w]
        np.minimum(least, np.square(colours - there).sum(-1), out=least)
    return np.sqrt(least)


def _uv(cells: np.ndarray, columns: int, rows: int) -> Float32[np.ndarray, "N 2"]:
    """Middles of cells (or pixels) as (u, v)."""
    return ((cells + 0.5) / (columns, rows) * 2 - 1).astype(np.float32)
