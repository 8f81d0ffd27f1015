"""What a TraceSpatial dataset is made of: shares by family, steps and scale, rejects by reason, throughput."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from traceworld.errors import DatasetError
from traceworld.traces.atomic import read_json

_STATED = re.compile(r"\d+\.\d{3}m\b")


def _shares(counts: Mapping[Any, int]) -> dict[str, Any]:
    """{value: {count, share}}, by name (numbers by size)."""
    total = max(sum(counts.values()), 1)
    order = sorted(counts, key=lambda name: (not isinstance(name, int), name))
    return {str(name): {"count": counts[name], "share": round(counts[name] / total, 4)} for name in order}


def _share(values: Iterable[bool]) -> float:
    listed = list(values)
    return round(sum(listed) / len(listed), 4) if listed else 0.0


def statistics_of(records: Sequence[Mapping[str, Any]], shards: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of the questions that were kept, and of what the shards behind them did not keep.

    Returns:
        `families`, `steps` (all and by family), `relations`, `primitives`, `sources`: counts and shares; `metric_share`,
        `outdoor_share_of_metric`; `stated_length_share`: of the trace instructions; `not_asked`: reason → count (too close to
        call, no room …); `faults`: what the checker refused; `duplicates`; `skipped_scenes`.
    """
    families = sorted({record["family"] for record in records})
    programs = [record["provenance"] for record in records]
    instructions = [
        program.get("instruction") or program["trace"]["instruction"]
        for program in programs
        if program["op"] in ("trace", "reason")
    ]
    primitives = Counter(
        int(program["primitive"]) for program in programs if program["op"] == "trace" and program["form"] != "lift"
    )
    keys = [record["key"] for shard in shards for record in shard["records"]]
    return {
        "questions": len(records),
        "scenes": sum(shard["scenes"] for shard in shards),
        "skipped_scenes": dict(sorted(item for shard in shards for item in shard["skipped"].items())),
        "families": _shares(Counter(record["family"] for record in records)),
        "steps": {
            "all": _shares(Counter(int(record["steps"]) for record in records)),
            **{
                family: _shares(Counter(int(record["steps"]) for record in records if record["family"] == family))
                for family in families
            },
        },
        "relations": _shares(
            Counter(
                str(program.get("relation") or program.get("superlative")) for program in programs if _relates(program)
            )
        ),
        "primitives": _shares(primitives),
        "sources": _shares(Counter(record["source"] for record in records)),
        "metric_share": _share(record["metric"] for record in records),
        "outdoor_share_of_metric": _share(record["outdoor"] for record in records if record["metric"]),
        "stated_length_share": _share(bool(_STATED.search(text)) for text in instructions),
        "asked": len(keys),
        "duplicates": len(keys) - len(set(keys)),
        "not_asked": _summed(shard["rejects"] for shard in shards),
        "faults": _summed(shard["faults"] for shard in shards),
    }


def _relates(program: Mapping[str, Any]) -> bool:
    return program["op"] in ("relation", "refer") and bool(program.get("relation") or program.get("superlative"))


def _summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(sorted(total.items()))


def report(out: str | Path) -> dict[str, Any]:
    """The statistics of a finished dataset, with its throughput: questions per second of
    processor time, over the shards that were timed (making scenes and traces, asking, checking and writing are all in it).

    Raises:
        DatasetError: there is no finished dataset.
    """
    folder = Path(out)
    if not (folder / "statistics.json").is_file():
        raise DatasetError("holds no finished dataset", where=str(folder), mend="run `traceworld tracespatial build`")
    figures = read_json(folder / "statistics.json")
    timing = read_json(folder / "timing.json").values() if (folder / "timing.json").is_file() else ()
    core = sum(shard["core_seconds"] for shard in timing)
    if core > 0:
        figures["core_seconds"] = round(core, 2)
        figures["wall_seconds"] = round(sum(shard["seconds"] for shard in timing), 2)
        figures["questions_per_core_second"] = round(sum(shard["questions"] for shard in timing) / core, 3)
    return figures
