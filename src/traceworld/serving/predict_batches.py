"""Questions that are asked at the same time, answered together.

A predictor that offers `predict_many(observations, num_samples, seeds) -> predictions` gets those with equal `num_samples` in one
call; any other is asked one by one. An observation that fails takes none of the others with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from traceworld.models.predictor import TracePredictor
from traceworld.traces.types import Observation, TracePrediction


@dataclass(frozen=True, eq=False)
class Asked:
    """One question to a predictor."""

    observation: Observation
    num_samples: int
    seed: int


Answers = list[TracePrediction | Exception]


def predict_together(predictor: TracePredictor) -> Callable[[Sequence[Asked]], Answers]:
    """What an `InferenceWorker` runs: questions → predictions or the errors they raised, in the same order."""
    many: Any = getattr(predictor, "predict_many", None)

    def one(asked: Asked) -> TracePrediction | Exception:
        try:
            return predictor.predict(asked.observation, asked.num_samples, asked.seed)
        except Exception as error:
            return error

    def together(group: Sequence[Asked]) -> Answers:
        if many is None or len(group) == 1:
            return [one(asked) for asked in group]
        try:
            observations, seeds = [asked.observation for asked in group], [asked.seed for asked in group]
            found = list(many(observations, group[0].num_samples, seeds))
        except Exception:  # whose fault it is shows when each is asked alone
            return [one(asked) for asked in group]
        if len(found) != len(group):
            return [RuntimeError(f"{len(found)} predictions for {len(group)} observations")] * len(group)
        return found

    def process(batch: Sequence[Asked]) -> Answers:
        groups: dict[int, list[int]] = {}
        for index, asked in enumerate(batch):
            groups.setdefault(asked.num_samples, []).append(index)
        answers: dict[int, TracePrediction | Exception] = {}
        for indices in groups.values():
            answers.update(zip(indices, together([batch[index] for index in indices]), strict=True))
        return [answers[index] for index in range(len(batch))]

    return process
