"""Quality figures of the clips of a dataset, and conditions on them that training keeps clips by."""

from __future__ import annotations

import json
import logging
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from traceworld.errors import ConfigError
from traceworld.traces.schema import Shard
from traceworld.traces.store import Dataset

log = logging.getLogger(__name__)

Figure = float | str | None

FIGURES = {
    "keypoints": "points followed",
    "moving_fraction": "share of the points that move",
    "visible_fraction": "share of frames in which a point is seen, from its first on",
    "valid_fraction": "share of frames in which a point's place is known, from its first on",
    "alive_at_end": "share of the points whose place is known in the last frame",
    "jitter_px": "frame-to-frame noise in the picture, px at 640 px width",
    "static_wander_px": "how far points at rest wander, px at 640 px width",
    "reprojection_px": "disagreement of depth and camera poses, px at 640 px width",
    "alignment_residual": "worst residual of a chunk against the global frame (eq. 1)",
    "frames": "pictures",
    "captions": "who wrote the captions",
    "status": "ok, or what is special about the clip",
}
"""Figure → what it says. A clip has those that its maker measured."""

_OPERATORS = {
    ">=": operator.ge, "<=": operator.le, "!=": operator.ne, "==": operator.eq, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
_CONDITION = re.compile(r"\s*([a-z_]+)\s*(>=|<=|!=|==|>|<)\s*(.+?)\s*")


def quality_table(dataset: Dataset) -> dict[str, dict[str, Figure]]:
    """Clip id → its figures (None: not measured), read from the provenance alone, in the order of the dataset.

    Raises:
        DatasetError: a shard is damaged.
    """
    table = {}
    for shard in dataset.shards:
        columns = Shard(shard).columns(["clip_id", "num_frames", "num_keypoints", "provenance"])
        for clip_id, frames, keypoints, provenance in zip(*columns.values(), strict=True):
            table[clip_id] = _figures(json.loads(provenance or "{}"), frames, keypoints)
    return {clip_id: table[clip_id] for clip_id in dataset.clip_ids}


def _figures(provenance: Mapping[str, Any], frames: int, keypoints: int) -> dict[str, Figure]:
    measured = provenance.get("quality") or {}
    found: dict[str, Figure] = {name: measured.get(name) for name in FIGURES}
    chunks = (provenance.get("source") or {}).get("geometry", {}).get("chunks", []) if provenance.get("source") else []
    found["alignment_residual"] = max((chunk["residual"] for chunk in chunks), default=None)
    found["captions"] = (provenance.get("captions") or {}).get("source")
    found["status"] = provenance.get("status")
    found["frames"], found["keypoints"] = float(frames), float(keypoints)
    return found


@dataclass(frozen=True)
class Condition:
    """`figure operator value`, as `visible_fraction>=0.5` or `captions!=template`."""

    figure: str
    comparison: str
    value: float | str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """From words.

        Raises:
            ConfigError: it is not of that form, names no figure, or compares words by size.
        """
        if (match := _CONDITION.fullmatch(text)) is None:
            raise ConfigError(f"'{text}' is no condition", where="keep", mend="write e.g. visible_fraction>=0.5")
        figure, comparison, written = match.groups()
        if figure not in FIGURES:
            raise ConfigError(f"there is no figure '{figure}'", where="keep", mend=f"one of {', '.join(FIGURES)}")
        if figure in ("captions", "status"):
            if comparison not in ("==", "!="):
                raise ConfigError(f"'{figure}' is a word", where=f"keep: {text}", mend="compare it by == or !=")
            return cls(figure, comparison, written)
        try:
            return cls(figure, comparison, float(written))
        except ValueError:
            raise ConfigError(f"'{written}' is no number", where=f"keep: {text}") from None

    def holds(self, figures: Mapping[str, Figure]) -> bool:
        """Whether a clip meets it. One without the figure does not."""
        found = figures[self.figure]
        return found is not None and bool(_OPERATORS[self.comparison](found, self.value))


def clips_that_meet(dataset: Dataset, conditions: Sequence[str]) -> frozenset[str]:
    """Ids of the clips that meet all conditions; how many do not is logged, condition by condition.

    Raises:
        ConfigError: a condition cannot be read, or no clip of the dataset has the figure.
    """
    table, kept = quality_table(dataset), set(dataset.clip_ids)
    for text in conditions:
        condition = Condition.parse(text)
        if table and all(figures[condition.figure] is None for figures in table.values()):
            raise ConfigError(
                f"no clip has the figure '{condition.figure}'",
                where=str(dataset.path),
                mend="it is measured by `traceworld extract`; leave the condition out for other data",
            )
        met = {name for name, figures in table.items() if condition.holds(figures)}
        log.info("%s: %d of %d clips meet %s", dataset.path, len(met), len(table), text)
        kept &= met
    return frozenset(kept)


def quantiles(table: Mapping[str, Mapping[str, Figure]], figure: str) -> dict[str, float] | None:
    """min, p5, median, p95, max of a figure over the clips that have it; None if none has."""
    values = [float(row[figure]) for row in table.values() if isinstance(row[figure], (int, float))]  # type: ignore[arg-type]
    if not values:
        return None
    low, p5, median, p95, high = np.quantile(values, [0, 0.05, 0.5, 0.95, 1]).tolist()
    return {"min": low, "p5": p5, "median": median, "p95": p95, "max": high, "clips": len(values)}
