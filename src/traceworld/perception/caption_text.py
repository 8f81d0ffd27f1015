"""What captioners ask a language model, and how its words become a `Caption`: prompts, lenient reading, motion overlay."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from traceworld.errors import ConfigError
from traceworld.perception.captions import length
from traceworld.perception.interfaces import Caption, CaptionRequest, PartMotion

STYLES = ("structured", "traceforge")
"""`structured`: mu0-paper A.5. `traceforge`: besides that TraceForge's three kinds of instruction."""

INSTRUCTIONS = {
    "instruction_1": "a short command, at most 10 words",
    "instruction_2": "the same as explicit steps, at most 20 words",
    "instruction_3": "the same as a person would ask for it, at most 15 words",
}
_PARTS = {
    "before": "the state of the things concerned when the event begins",
    "interaction": "what happens: who or what moves what, how and where to",
    "change": "what is different when it ends",
    "caption": "one sentence for the whole event",
}
_ALIASES = {
    "before": ("before", "initial_state", "start_state"),
    "interaction": ("interaction", "action"),
    "change": ("change", "final_state", "end_state", "state_change"),
    "caption": ("caption", "summary", "description"),
}
_RED = np.array([255.0, 40.0, 40.0], np.float32)
_MAX_CHARACTERS = 2**16
_MAX_FIELD = 2000


def _fields(style: str) -> dict[str, str]:
    if style not in STYLES:
        raise ConfigError(f"unknown style '{style}'", where="captions style", mend=f"one of {', '.join(STYLES)}")
    return {**_PARTS, **(INSTRUCTIONS if style == "traceforge" else {})}


def _form(style: str) -> str:
    lines = ",\n".join(f'  "{name}": "{meaning}"' for name, meaning in _fields(style).items())
    return f"Answer with one JSON object and nothing else:\n{{\n{lines}\n}}"


def _motion(part: PartMotion) -> str:
    across, down, away = part.shift
    unit = "m" if part.metric else "image widths"
    return (
        f"- {part.num_points} points, path {length(part.path, part.metric)}, "
        f"shift right {across:+.2f}, down {down:+.2f}, away {away:+.2f} {unit}"
    )


def event_prompt(request: CaptionRequest, style: str = "structured", overlay: bool = False) -> str:
    """The question about one event; the pictures go with it (start, midpoint, end)."""
    lines = [
        f"The pictures show the start, the middle and the end of step {request.index + 1} of {request.count} "
        f"of a manipulation video ({request.start_s:.1f} s to {request.end_s:.1f} s)."
    ]
    if overlay:
        lines.append(
            "In the first picture the places that will move are tinted red; the tint is not part of the scene."
        )
    if request.task:
        lines.append(f"The whole video is about: {request.task}. Describe this step only, not the whole task.")
    if request.parts:
        lines.append("Measured motion, largest first:")
        lines += [_motion(part) for part in request.parts[:3]]
    lines.append("Say only what can be seen. Do not mention pictures, frames, points or tints.")
    return "\n".join([*lines, _form(style)])


def merge_prompt(captions: Sequence[Caption], task: str = "", style: str = "structured") -> str:
    """The question for one caption of adjacent events; text only."""
    steps = [
        json.dumps({"before": c.before, "interaction": c.interaction, "change": c.change}, ensure_ascii=False)
        for c in captions
    ]
    about = [f"The whole video is about: {task}."] if task else []
    return "\n".join(
        [
            f"These are {len(captions)} consecutive steps of a manipulation video, in order:",
            *steps,
            *about,
            "Describe them together as one longer step. Add nothing that they do not say.",
            _form(style),
        ]
    )


def repair_prompt(prompt: str, answer: str) -> str:
    """The second and last question, after an answer that could not be read."""
    return (
        f"{prompt}\n\nYour last answer could not be read as that JSON object:\n{answer[:_MAX_FIELD]}\n"
        "Give the JSON object alone."
    )


def overlay_motion(
    image: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"], strength: float = 0.45
) -> UInt8[np.ndarray, "H W 3"]:
    """The picture with the mask tinted red (A.5's motion mask)."""
    tinted = (1 - strength) * image.astype(np.float32) + strength * _RED
    return np.where(mask[..., None], tinted, image).round().astype(np.uint8)


def read_answer(text: str, style: str = "structured") -> dict[str, str] | None:
    """The fields of an answer, or None if it does not hold them all as words.

    Thinking is dropped; fenced blocks and the outermost braces are tried as JSON, trailing commas forgiven. A missing
    `caption` is taken from `interaction` (and the other way round).
    """
    text = re.sub(r"<think>.*?(?:</think>|\Z)", " ", text[:_MAX_CHARACTERS], flags=re.DOTALL | re.IGNORECASE)
    for block in _blocks(text):
        try:
            value = json.loads(re.sub(r",(\s*[}\]])", r"\1", block), strict=False)
        except (ValueError, RecursionError):
            continue
        found = _read_fields(value, style)
        if found is not None:
            return found
    return None


def _blocks(text: str) -> list[str]:
    blocks = [block.strip() for block in re.findall(r"```(?:json)?(.*?)```", text, re.DOTALL | re.IGNORECASE)]
    first, last = text.find("{"), text.rfind("}")
    return [*blocks, text[first : last + 1]] if 0 <= first < last else blocks


def _read_fields(value: Any, style: str) -> dict[str, str] | None:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, Mapping):
        return None
    found = {name: _words(value, aliases) for name, aliases in _ALIASES.items()}
    found["caption"] = found["caption"] or found["interaction"]
    found["interaction"] = found["interaction"] or found["caption"]
    found |= {name: _words(value, (name,)) for name in _fields(style) if name not in found}
    return found if all(found.values()) else None


def _words(value: Mapping[str, Any], names: Sequence[str]) -> str:
    for name in names:
        said = value.get(name)
        if isinstance(said, list) and all(isinstance(item, str) for item in said):
            said = "; ".join(said)
        if isinstance(said, str) and said.strip():
            return " ".join(said.split())[:_MAX_FIELD]
    return ""
