"""Captions by any language model that answers a prompt: ask, read, ask once more, else the template, marked as such."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from traceworld.perception.caption_text import (
    INSTRUCTIONS,
    event_prompt,
    merge_prompt,
    overlay_motion,
    read_answer,
    repair_prompt,
)
from traceworld.perception.captions import TemplateCaptioner
from traceworld.perception.interfaces import BackendInfo, Caption, CaptionRequest

FALLBACK = "template (fallback)"
"""`Caption.source` where the model's answer could not be read."""


class LanguageCaptioner:
    """`CaptionBackend` around `say`. A subclass gives `say`, and errors of its own for a model that cannot be asked.

    `Caption.extra` keeps the raw answers (`raw`), the number of attempts and, in the style `traceforge`, the three
    instructions (`instructions`).

    Args:
        style: one of `caption_text.STYLES`. overlay: tint what moves in the first picture (A.5's motion mask).
    """

    info: BackendInfo
    needs_images = True

    def __init__(self, style: str = "structured", overlay: bool = True):
        self._style, self._overlay, self._template = style, overlay, TemplateCaptioner()
        read_answer("", style)

    def say(self, prompt: str, images: Sequence[np.ndarray], merging: bool) -> str:
        """The model's words; `images` is empty when it merges."""
        raise NotImplementedError

    def caption(self, request: CaptionRequest) -> Caption:
        """See `CaptionBackend`."""
        images = list(request.images)
        tinted = bool(self._overlay and images and request.motion_mask is not None and request.motion_mask.any())
        if tinted:
            assert request.motion_mask is not None
            images[0] = overlay_motion(images[0], request.motion_mask)
        prompt = event_prompt(request, self._style, tinted)
        return self._ask(prompt, images) or self._fallback(self._template.caption(request))

    def merge(self, captions: Sequence[Caption], task: str = "") -> Caption:
        """One caption for adjacent events, from their words alone (mu0-paper §2.3)."""
        merged = self._ask(merge_prompt(captions, task, self._style), [], merging=True)
        return merged or self._fallback(self._template.merge(captions, task))

    def _ask(self, prompt: str, images: Sequence[np.ndarray], merging: bool = False) -> Caption | None:
        self._raw: list[str] = []
        asked = prompt
        for _ in range(2):
            self._raw.append(self.say(asked, images, merging))
            found = read_answer(self._raw[-1], self._style)
            if found is not None:
                extra = {"raw": list(self._raw), "attempts": len(self._raw)}
                spoken = {name: found[name] for name in INSTRUCTIONS if name in found}
                if spoken:
                    extra["instructions"] = spoken
                return Caption(
                    found["caption"], found["before"], found["interaction"], found["change"], self.info.name, extra
                )
            asked = repair_prompt(prompt, self._raw[-1])
        return None

    def _fallback(self, caption: Caption) -> Caption:
        extra = {"raw": list(self._raw), "attempts": len(self._raw)}
        return Caption(caption.caption, caption.before, caption.interaction, caption.change, FALLBACK, extra)
