"""What a model is asked on TraceSpatial-Bench and RefSpatial-Bench, per model family, naming the objects of the question.

The published script names a toothpaste or a pillow in every question of the JSON family (`reference/robotracer.md` §6, 9): here it is the
question's own target object. Families: `text` (RoboTracer: one sentence, tuples), `json` (general vision-language models: role,
up to ten key points, JSON, the range of x and y stated).
"""

from __future__ import annotations

from typing import Literal

from traceworld.errors import ConfigError
from traceworld.tracespatial.bench_layout import BenchQuestion

Task = Literal["2D", "3D"]
Family = Literal["text", "json"]
TASKS: tuple[Task, ...] = ("2D", "3D")
_JSON_NAMES = ("gemini", "qwen", "gpt", "claude", "internvl", "openai", "llama", "molmo")


def family_of(model_name: str) -> Family:
    """`json` for general models by their name, `text` for RoboTracer and everything else."""
    name = model_name.lower()
    if "robotracer" in name:
        return "text"
    return "json" if any(known in name for known in _JSON_NAMES) else "text"


def bench_prompt(question: BenchQuestion, task: str, family: str) -> str:
    """The words that go to the model beside the picture.

    Raises:
        ConfigError: unknown task or family.
    """
    if task not in TASKS:
        raise ConfigError(f"unknown task {task!r}", where="task", mend="use 2D or 3D")
    if family == "text":
        return _one_sentence(question, task)
    if family == "json":
        return _role_and_points(question, task)
    raise ConfigError(f"unknown family {family!r}", where="family", mend="use text or json")


def _one_sentence(question: BenchQuestion, task: str) -> str:
    form, depth = ("(x1, y1), (x2, y2)", "") if task == "2D" else ("(x1, y1, d1), (x2, y2, d2)", " and d its depth")
    return (
        f'Point the {task} object-centric visual trace for the task "{question.prompt}". Answer with a list of tuples '
        f"[{form}, ...], where x and y are the coordinates of a point{depth}."
    )


def _role_and_points(question: BenchQuestion, task: str) -> str:
    thing, goal = question.target_object, question.destination
    form = "[[x1, y1], [x2, y2], ...]" if task == "2D" else "[[x1, y1, d1], [x2, y2, d2], ...]"
    depth = (
        "" if task == "2D" else " d is the distance from the camera along its viewing axis, in metres, without a unit."
    )
    return (
        f"You are a robot in a manipulation task and have already picked up {thing}. Task: move {thing} to {goal}. Predict up to "
        f"10 key points of the {task} path of {thing}, in order, starting where it is now. Answer with a JSON list {form}. x and y "
        f"are between 0 and 1000: x from the left edge to the right edge of the image, y from the top to the bottom.{depth}"
    )
