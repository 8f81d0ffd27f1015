"""Template captioner: sentences from the traces alone. Deterministic, sees no pictures, knows no object names, and says so."""

from __future__ import annotations

import math
from collections.abc import Sequence

from traceworld.perception.interfaces import BackendInfo, Caption, CaptionRequest, PartMotion

_HORIZONTAL = ("left", "right")
_VERTICAL = ("up", "down")
_DEPTH = ("towards the camera", "away from the camera")
STILL_M, STILL_WIDTHS = 0.01, 0.02
"""Net displacement below which a part ends where it began: 1 cm, or 2 % of the image width."""


def direction(shift: tuple[float, float, float]) -> str:
    """Words for a displacement (right, down, away): every axis that has at least half of the largest one's size."""
    largest = max(abs(component) for component in shift)
    words = []
    for component, (negative, positive) in zip(shift, (_HORIZONTAL, _VERTICAL, _DEPTH), strict=True):
        if largest > 0 and abs(component) >= 0.5 * largest:
            words.append(negative if component < 0 else positive)
    return " and ".join(words) if words else "nowhere"


def place(uv: tuple[float, float]) -> str:
    """Words for a position in the image: a cell of a 3 × 3 grid."""
    column = "left" if uv[0] < -1 / 3 else "right" if uv[0] > 1 / 3 else ""
    row = "top" if uv[1] < -1 / 3 else "bottom" if uv[1] > 1 / 3 else ""
    return " ".join(word for word in (row, column) if word) or "centre"


def length(value: float, metric: bool) -> str:
    """A length with its unit: centimetres, or per cent of the image width."""
    if not metric:
        return f"{100 * value:.0f} % of the image width"
    return f"{100 * value:.1f} cm" if value < 0.1 else f"{100 * value:.0f} cm"


def _net(part: PartMotion) -> float:
    return math.sqrt(sum(component**2 for component in part.shift))


def _describe(part: PartMotion, seconds: float) -> str:
    net = _net(part)
    points = f"{part.num_points} point{'s' * (part.num_points != 1)}"
    if net < (STILL_M if part.metric else STILL_WIDTHS):
        return f"a part ({points}) moves along a path of {length(part.path, part.metric)} and ends where it began"
    speed = f"{length(part.path / seconds, part.metric)}/s" if seconds > 0 else "unknown speed"
    return f"a part ({points}) moves {length(net, part.metric)} {direction(part.shift)} at {speed}"


class TemplateCaptioner:
    """Fills fixed sentences with direction, distance, speed and number of moving parts."""

    info = BackendInfo("captions", "template", "1", "Apache-2.0")
    needs_images = False

    def caption(self, request: CaptionRequest) -> Caption:
        """Words for one event. The task text, where there is one, leads the sentence; nothing is said about meaning."""
        lead = (
            f"{request.task.strip().rstrip('.')}, step {request.index + 1} of {request.count}: " if request.task else ""
        )
        if not request.parts:
            text = f"{lead}nothing moves"
            return Caption(text, "nothing moves", "nothing moves", "no change", self.info.name)
        seconds = request.end_s - request.start_s
        main = request.parts[0]
        count = len(request.parts)
        others = f"; {count - 1} more part{'s' * (count != 2)} move{'s' * (count == 2)}" if count > 1 else ""
        interaction = f"{_describe(main, seconds)}{others}"
        start, end = place(main.start_uv), place(main.end_uv)
        change = f"the part moved from the {start} to the {end}" if start != end else f"the part is still at the {end}"
        return Caption(f"{lead}{interaction}", f"the part is at the {start}", interaction, change, self.info.name)

    def merge(self, captions: Sequence[Caption], task: str = "") -> Caption:
        """One caption for adjacent events: what happens in each, in order; state before the first and after the last."""
        steps = [caption.interaction for caption in captions]
        joined = "; then ".join(step for k, step in enumerate(steps) if k == 0 or step != steps[k - 1])
        lead = f"{task.strip().rstrip('.')}: " if task else ""
        return Caption(f"{lead}{joined}", captions[0].before, joined, captions[-1].change, self.info.name)
