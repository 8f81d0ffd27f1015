"""All families together: what is asked about one scene, in which shares."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from traceworld.errors import ConfigError
from traceworld.tracespatial.questions import (
    free_space,
    quantitative,
    reasoning,
    referring,
    relative_position,
    size_comparison,
    trace_questions,
)
from traceworld.tracespatial.questions.question import FAMILIES, Question
from traceworld.tracespatial.questions.view import SceneView

MAKERS: Mapping[str, Callable[[SceneView, np.random.Generator, int], list[Question]]] = MappingProxyType(
    {
        "relative_position": relative_position.ask,
        "size_comparison": size_comparison.ask,
        "quantitative": quantitative.ask,
        "referring": referring.ask,
        "free_space": free_space.ask,
        "trace": trace_questions.ask,
        "reasoning": reasoning.ask,
    }
)
_DEFAULT_MIX = {
    "relative_position": 8,
    "size_comparison": 4,
    "quantitative": 8,
    "referring": 6,
    "free_space": 3,
    "trace": 12,
    "reasoning": 4,
}


@dataclass(frozen=True)
class Mix:
    """How many questions of each family are asked about a scene at most; a family that is left out is not asked."""

    per_scene: Mapping[str, int] = field(default_factory=lambda: dict(_DEFAULT_MIX))

    def __post_init__(self):
        if unknown := sorted(set(self.per_scene) - set(FAMILIES)):
            raise ConfigError(f"no family '{unknown[0]}'", where="Mix.per_scene", mend=f"of {', '.join(FAMILIES)}")
        if any(number < 0 for number in self.per_scene.values()) or not sum(self.per_scene.values()):
            raise ConfigError("needs positive numbers", where="Mix.per_scene")


def ask_all(view: SceneView, mix: Mix, seed: int) -> list[Question]:
    """Questions of all families about one scene; the same scene, mix and seed give the same questions."""
    questions: list[Question] = []
    for number, family in enumerate(FAMILIES):
        limit = mix.per_scene.get(family, 0)
        if limit:
            rng = np.random.default_rng([seed, zlib.crc32(view.scene.scene_id.encode()), number])
            questions += MAKERS[family](view, rng, limit)
    return questions
