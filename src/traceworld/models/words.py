"""Models that answer in words, and how one wants to be asked for a trace."""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from traceworld.models.robotracer.config import Prompts

TASK = "{task}"
PUBLISHED = {"3D": Prompts().trace_3d, "2D": Prompts().trace_2d}
"""The words of models that do not say which they were trained on."""


@runtime_checkable
class TextModel(Protocol):
    """Anything that answers questions about a picture in words; told apart from a trace predictor by its `answer`.

    A model that was trained on certain words may say so: `trace_prompts`, a mapping from 2D and 3D to a prompt with `{task}`.
    """

    name: str

    def answer(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        question: str,
        *,
        K: Float[np.ndarray, "3 3"] | None = None,
        depth_m: Float[np.ndarray, "H W"] | None = None,
    ) -> str:
        """The model's words, thinking included. Depth is NaN where unknown."""
        ...


def trace_prompt(model: object, task: Literal["2D", "3D"]) -> str | None:
    """The prompt with `{task}` that a model was trained on; None if it does not say."""
    own: str | None = getattr(model, "trace_prompts", {}).get(task)
    return own


def trace_question(prompt: str, instruction: str) -> str:
    """A prompt with the instruction in its place. At the end of a prompt it is a sentence and gets its full stop."""
    said = instruction.strip()
    if prompt.endswith(TASK) and not said.endswith((".", "!", "?")):
        said += "."
    return prompt.replace(TASK, said)
