"""Query points of a scene, chosen from one picture in a few milliseconds (mu0-paper §3.4 asks about semantic keypoints).

In a recorded clip TraceExtract picks entities by how they move (App. A.1). A robot has one picture and 10 ms: here points are
spread by farthest-point sampling over appearance and place together, so that small things of a look of their own get points
that plain surface does not.
"""

from __future__ import annotations

import itertools

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
    """`count` cells of the embedded features, far from each other in appearance and place.

    Raises:
        ConfigError: the picture has fewer cells.
    """
    features = EmbeddedFeatures(_CELLS_ACROSS).describe(image)
    rows, columns = features.shape[:2]
    if rows * columns < count:
        raise ConfigError(f"a picture has only {rows * columns} cells", where="query.count", mend="ask for fewer")
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    uv = _uv(np.stack([x.ravel(), y.ravel()], -1), columns, rows)
    described = np.concatenate([features.reshape(rows * columns, -1), _PLACE_WEIGHT * uv], -1)
    return uv[farthest_point_sampling(described, count)]


def _uv(cells: np.ndarray, columns: int, rows: int) -> Float32[np.ndarray, "N 2"]:
    """Middles of cells (or pixels) as (u, v)."""
    return ((cells + 0.5) / (columns, rows) * 2 - 1).astype(np.float32)
