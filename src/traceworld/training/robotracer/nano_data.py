"""A TraceSpatial dataset as `robotracer-nano` learns it: one entry per picture with all its questions, each apart, in few words.

Kept are traces (in 3D, and some in 2D) and pointing; the task stands in the words the predictor will use (`Prompts`), without the
form of the answer, and coordinates are rounded to the tokenizer's (`nano_words.coarse`). Pose is left out: no benchmark gives it.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from traceworld.errors import DatasetError
from traceworld.models.robotracer.config import Prompts
from traceworld.models.robotracer.nano_words import coarse
from traceworld.models.words import trace_question
from traceworld.traces.atomic import write_atomically
from traceworld.tracespatial.dataset import IMAGE_TOKEN, read_records

FILE = "nano.json"
_TASK = re.compile(r'"(.+)"', re.DOTALL)
_FORM = " Answer with "


def write_nano_data(dataset: Path, prompts: Prompts) -> Path:
    """Write `nano.json` into the folder of a dataset (`tracespatial.dataset.build`), for `records.read_records`.

    Raises:
        DatasetError: there is no finished dataset, or it holds neither traces nor pointing.
    """
    entries = [
        entry
        for _, group in itertools.groupby(read_records(dataset), key=lambda record: record["scene_id"])
        if (entry := _entry(list(group), prompts)) is not None
    ]
    if not entries:
        raise DatasetError("holds no trace and no pointing", where=str(dataset), mend="build it with these families")
    text = "\n".join(json.dumps(entry, sort_keys=True) for entry in entries) + "\n"
    path = dataset / FILE
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def _entry(records: list[dict[str, Any]], prompts: Prompts) -> dict[str, Any] | None:
    """One picture with its questions; None if none of them is kept."""
    said: list[dict[str, str]] = []
    for record in records:
        pair = short_words(record, prompts)
        if pair is not None:
            said += [{"from": "human", "value": pair[0]}, {"from": "gpt", "value": pair[1]}]
    if not said:
        return None
    first = records[0]
    kept = {name: first[name] for name in ("image", "depth", "intrinsics", "metric_depth")}
    return {"id": first["scene_id"], "apart": True, "conversations": said, **kept}


def short_words(record: Mapping[str, Any], prompts: Prompts) -> tuple[str, str] | None:
    """Question and answer of a record in few words; None for a kind of question that is left out."""
    asked, answer = (turn["value"] for turn in record["conversations"])
    asked, program = asked.removeprefix(IMAGE_TOKEN), record["provenance"]
    if record["family"] == "referring":
        return f"{'3D' if program['with_depth'] else '2D'}: {asked.partition(_FORM)[0]}", coarse(answer)
    if record["family"] != "trace" or program["form"] not in ("2d", "3d"):
        return None
    task = _TASK.search(asked)
    if task is None:
        return None
    prompt = prompts.trace_3d if program["form"] == "3d" else prompts.trace_2d
    return trace_question(prompt, task[1]), coarse(answer)
