"""Entities: pieces of the image that belong together, found by motion first, with one identity through the clip (mu0-paper A.1).

Motion components are cut by feature clusters, so that an arm and the cup it holds become two entities; what does not move
is cut into feature regions alone. Identities pass from one representative frame to the next by bipartite matching on feature
similarity and spatial overlap, across chunks too. An entity that moved once is an entity for good; regions that never moved
are background, unless nothing in the clip moves.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.optimize import linear_sum_assignment

from traceworld.perception.interfaces import BackendInfo

MATCH_SCORE = 0.5  # a piece takes over an identity if similarity and overlap average to this
_CLUSTERS = 10
_SAME_CLUSTER = 1.0  # feature distance; one is a clear difference to the eye
_MIN_CELLS = 3
_DISPLACED_SHARE = 0.15  # of a moving piece's cells must have left their place in 3D
_MAX_STATIC_SHARE = 0.08  # a still region larger than this share of the image is background, not an object


@dataclass(frozen=True, eq=False)
class Piece:
    """One candidate region in one frame."""

    mask: Bool[np.ndarray, "h w"]
    feature: Float[np.ndarray, " C"]
    moving: bool


@dataclass(eq=False)
class EntityMaps:
    """Entities of a chunk. `labels` [R,h,w]: entity per cell of each representative frame, −1 where none;
    `moving`: ids seen moving so far in the clip."""

    labels: Int[np.ndarray, "R h w"]
    moving: frozenset[int]

    def coverage(self) -> dict[int, int]:
        """Visible cells per entity, summed over the representative frames."""
        ids, counts = np.unique(self.labels[self.labels >= 0], return_counts=True)
        return {int(i): int(c) for i, c in zip(ids, counts, strict=True)}


class EmbeddedEntities:
    """`EntityFinder` as an `EntityBackend`: it needs no more of the pictures than their features."""

    info = BackendInfo("entities", "embedded", "1", "Apache-2.0")

    def __init__(self, seed: int = 0):
        self._seed = seed
        self.start()

    def start(self) -> None:
        """See `EntityBackend`."""
        self._finder = EntityFinder(seed=self._seed)

    def find(self, images: np.ndarray, features: np.ndarray, motion: np.ndarray, displaced: np.ndarray | None = None):
        """See `EntityBackend`."""
        return self._finder.find(features, motion, displaced)


@dataclass(eq=False)
class EntityFinder:
    """Finds entities chunk by chunk; remembers the last frame's pieces so that identities go on."""

    seed: int = 0
    _last: list[tuple[int, Piece]] = field(default_factory=list)
    _next_id: int = 0
    _moving: set[int] = field(default_factory=set)

    def find(
        self,
        features: Float[np.ndarray, "R h w C"],
        motion: Bool[np.ndarray, "R h w"],
        displaced: Bool[np.ndarray, "R h w"] | None = None,
    ) -> EntityMaps:
        """Entities of the representative frames of one chunk, in order of time.

        Args:
            features: one descriptor per cell.
            motion: cells whose picture moves against the scene.
            displaced: cells whose surface is elsewhere in frames nearby (needs depth). A piece of motion without any is a
                shadow or a highlight, not an object, unless no piece has any.
        """
        frames, h, w, _ = features.shape
        clusters = cluster_cells(features, _CLUSTERS, self.seed)
        labels = np.full((frames, h, w), -1, np.int32)
        for r in range(frames):
            pieces = cut_pieces(clusters[r], features[r], motion[r], None if displaced is None else displaced[r])
            ids = self._identify(pieces)
            for entity, piece in zip(ids, pieces, strict=True):
                labels[r][piece.mask] = entity
                if piece.moving:
                    self._moving.add(entity)
            self._last = list(zip(ids, pieces, strict=True))
        return EntityMaps(labels, frozenset(self._moving))

    def _identify(self, pieces: list[Piece]) -> list[int]:
        scores = match_scores([old for _, old in self._last], pieces)
        ids = [-1] * len(pieces)
        if scores.size:
            for row, column in zip(*linear_sum_assignment(-scores), strict=True):
                if scores[row, column] >= MATCH_SCORE:
                    ids[column] = self._last[row][0]
        for i, entity in enumerate(ids):
            if entity < 0:
                ids[i], self._next_id = self._next_id, self._next_id + 1
        return ids


def match_scores(old: list[Piece], new: list[Piece]) -> np.ndarray:
    """[old,new] half feature similarity, half spatial overlap (of the smaller one), in [0,1]."""
    if not old or not new:
        return np.zeros((len(old), len(new)))
    apart = np.stack([piece.feature for piece in old])[:, None] - np.stack([piece.feature for piece in new])[None]
    alike = np.exp(-(apart**2).sum(-1) / 8.0).astype(np.float64)
    # Counts of cells below 2^24 are exact in float32, and a product of matrices counts them all at once.
    masks = [np.stack([piece.mask.ravel() for piece in pieces]).astype(np.float32) for pieces in (old, new)]
    both = masks[0] @ masks[1].T
    smaller = np.minimum(masks[0].sum(1)[:, None], masks[1].sum(1)[None])
    overlap = both.astype(np.float64) / np.maximum(1.0, smaller)
    return np.where(alike > 0.1, 0.5 * (alike + overlap), 0.0)


def cluster_cells(features: Float[np.ndarray, "R h w C"], clusters: int, seed: int) -> Int[np.ndarray, "R h w"]:
    """k-means over the cells of all frames together, so that a label means the same in each."""
    frames, h, w, channels = features.shape
    flat = np.ascontiguousarray(features.reshape(-1, channels), np.float32)
    k = min(clusters, len(flat))
    stride = max(1, len(flat) // 8000)
    cv2.setRNGSeed(seed)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 12, 1e-3)
    sample = np.ascontiguousarray(flat[::stride])
    _, _, centres = cv2.kmeans(  # type: ignore[call-overload]  # OpenCV's stubs forget None
        sample, min(k, len(sample)), None, criteria, 1, cv2.KMEANS_PP_CENTERS
    )
    same = np.zeros(1, np.int32)
    if len(centres) > 1:  # k-means cuts even noise into k parts: centres that are hardly apart are one cluster
        same = fcluster(linkage(centres, "average"), _SAME_CLUSTER, "distance").astype(np.int32) - 1
    distance = (flat**2).sum(1)[:, None] - 2 * flat @ centres.T + (centres**2).sum(1)[None]
    return same[distance.argmin(1)].reshape(frames, h, w)


def cut_pieces(
    clusters: Int[np.ndarray, "h w"],
    features: Float[np.ndarray, "h w C"],
    motion: Bool[np.ndarray, "h w"],
    displaced: Bool[np.ndarray, "h w"] | None = None,
) -> list[Piece]:
    """Candidate regions of one frame: motion components cut by cluster, then still regions; crumbs join a neighbour."""
    moving = cv2.morphologyEx(motion.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    regions = _moving_regions(clusters, moving > 0)
    if displaced is not None and displaced.any():
        regions = [
            mask for mask in regions if np.count_nonzero(mask & displaced) >= _DISPLACED_SHARE * np.count_nonzero(mask)
        ]
        moving = np.any(regions, axis=0).astype(np.uint8) if regions else np.zeros_like(moving)
    found = [(mask, True) for mask in regions]
    limit = _MAX_STATIC_SHARE * motion.size
    for cluster in np.unique(clusters):
        masks = _components((clusters == cluster) & (moving == 0), _MIN_CELLS)
        found += [(mask, False) for mask in masks if np.count_nonzero(mask) <= limit]
    found.sort(key=lambda piece: (not piece[1], -np.count_nonzero(piece[0])))
    return [Piece(mask, features[mask].mean(0), moves) for mask, moves in found[:60]]


def _components(mask: np.ndarray, least: int = 1) -> list[np.ndarray]:
    """Connected regions of at least so many cells."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= least
    return [labels == i for i in range(1, len(stats)) if large[i]]


def _moving_regions(clusters: np.ndarray, moving: np.ndarray) -> list[np.ndarray]:
    """Each motion component cut by cluster; cuts too small to stand alone go to the largest cut of their component."""
    regions = []
    for component in _components(moving):
        if np.count_nonzero(component) < _MIN_CELLS - 1:
            continue
        enough = max(_MIN_CELLS, int(0.04 * np.count_nonzero(component)))
        cuts = [cut for c in np.unique(clusters[component]) for cut in _components(component & (clusters == c))]
        large = [cut for cut in cuts if np.count_nonzero(cut) >= enough]
        if not large:
            regions.append(component)
            continue
        crumbs = component & ~np.any(large, axis=0)
        regions.extend(_absorb(large, crumbs))
    return regions


def _absorb(large: list[np.ndarray], crumbs: np.ndarray) -> list[np.ndarray]:
    """Give every crumb cell to the nearest large cut."""
    if not crumbs.any():
        return large
    distances = [cv2.distanceTransform((~cut).astype(np.uint8), cv2.DIST_L2, 3) for cut in large]
    nearest = np.argmin(distances, axis=0)
    return [cut | (crumbs & (nearest == i)) for i, cut in enumerate(large)]
