"""Scores of extracted 3D tracks against exact ones: the TAPVid-3D metrics (AJ, APD3D, OA)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from traceworld.errors import ConfigError, InvalidInputError

THRESHOLDS_PX = (1, 2, 4, 8, 16)
"""Distances, in pixels of an image whose smaller side is `REFERENCE_SIDE_PX`, within which a position is right."""
REFERENCE_SIDE_PX = 256


def _scale_to_truth(true: np.ndarray, pred: np.ndarray, both_visible: np.ndarray, scaling: str) -> float:
    """The one number that predictions are multiplied by: ratio of median distances to the camera (TAPVid-3D `median`)."""
    if scaling == "none":
        return 1.0
    if scaling != "median":
        raise ConfigError(
            f"unknown scaling {scaling!r}", where="tapvid3d_metrics.scaling", mend="use 'none' or 'median'"
        )
    known = both_visible & np.isfinite(pred).all(-1)
    if not known.any():
        return 1.0
    size = float(np.median(np.linalg.norm(pred[known], axis=-1)))
    return float(np.median(np.linalg.norm(true[known], axis=-1))) / max(size, 1e-6)


def tapvid3d_metrics(
    true_xyz_cam: Float[np.ndarray, "N T 3"],
    true_visible: Bool[np.ndarray, "N T"],
    pred_xyz_cam: Float[np.ndarray, "N T 3"],
    pred_visible: Bool[np.ndarray, "N T"],
    K: Float[np.ndarray, "3 3"],
    image_size: tuple[int, int],
    scaling: str = "none",
) -> dict[str, float]:
    """TAPVid-3D: average Jaccard, average points within distance, occlusion accuracy.

    A position is right within δ if it is nearer than δ · z_true / sqrt(fx fy) (strictly), the radius that δ pixels span at the
    true depth, with K scaled so that the smaller side of the image is 256; δ in {1, 2, 4, 8, 16}, and the scores are means
    over δ. All frames count, the query frame too. With TP = truly visible, predicted visible and right; P = truly visible;
    FP = predicted visible but truly hidden or wrong:

    - `aj`: TP / (P + FP).
    - `apd3d`: right and truly visible / truly visible, whatever visibility was predicted.
    - `oa`: share of all (point, frame) whose visibility is predicted rightly.

    Args:
        true_xyz_cam, pred_xyz_cam: metres in the camera of each frame. A prediction that is not finite is never right; truth may
            be anything where hidden.
        K: pixels of an image of `image_size` = (width, height).
        scaling: `none` for metric predictions; `median` multiplies predictions by the ratio of the median distances of points
            visible in both (for reconstructions known up to scale).

    Returns:
        `aj`, `apd3d`, `oa`. NaN where nothing is defined: `apd3d` without truly visible points, `aj` without points visible in
        either, `oa` without points.

    Raises:
        InvalidInputError: truth visible but not finite, an empty image, focal lengths that are not positive.
        ConfigError: unknown scaling.
    """
    if not np.isfinite(true_xyz_cam[true_visible]).all():
        raise InvalidInputError("truth is visible but not finite", where="tapvid3d_metrics.true_xyz_cam")
    width, height = image_size
    focal = np.sqrt(float(K[0, 0]) * float(K[1, 1])) if K[0, 0] > 0 and K[1, 1] > 0 else 0.0
    if min(width, height) < 1 or focal == 0:
        raise InvalidInputError(
            f"image {width}×{height} with focal lengths {K[0, 0]:.4g}, {K[1, 1]:.4g}", where="tapvid3d_metrics.K"
        )
    true, pred = true_xyz_cam.astype(np.float64), pred_xyz_cam.astype(np.float64)
    pred = pred * _scale_to_truth(true, pred, true_visible & pred_visible, scaling)
    px_span = true[..., 2] / (
        focal * REFERENCE_SIDE_PX / min(width, height)
    )  # metres that one pixel spans at the truth
    distance = np.linalg.norm(np.where(true_visible[..., None], pred - true, np.nan), axis=-1)
    positives = int(true_visible.sum())
    jaccard, within = [], []
    for threshold in THRESHOLDS_PX:
        right = distance < threshold * px_span  # NaN, and so everything hidden or not predicted, compares False
        true_positives = int((right & pred_visible).sum())
        false_positives = int((pred_visible & ~right).sum())
        union = positives + false_positives
        jaccard.append(true_positives / union if union else np.nan)
        within.append(int(right.sum()) / positives if positives else np.nan)
    return {
        "aj": float(np.mean(jaccard)),
        "apd3d": float(np.mean(within)),
        "oa": float((true_visible == pred_visible).mean()) if true_visible.size else float("nan"),
    }
