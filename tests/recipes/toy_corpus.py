"""A stand-in for the simulator: stores laid out as `sim.corpus.build_corpus` lays them out, of small made clips."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from trace_clips import make_clip, picture

from traceworld.sim.tasks import instruction_of, resolve_tasks
from traceworld.traces.media import write_pictures
from traceworld.traces.writer import DatasetWriter


def build_corpus(out, tasks, episodes_per_task, seed=0, workers=2, embodiments=("sawyer",), variety=None, **options):
    """Same arguments, same layout, same resuming as the real one; the motion depends on seed, task and episode alone."""
    settings = {"seed": seed, **options}
    settings |= {} if tuple(embodiments) == ("sawyer",) else {"embodiments": list(embodiments)}
    settings |= {} if variety is None else {"variety": {"surfaces": variety.surfaces}}
    writer = DatasetWriter(out, source=f"traceworld sim {json.dumps(settings, sort_keys=True)}")
    for task in resolve_tasks(tasks):
        count = episodes_per_task[task] if isinstance(episodes_per_task, Mapping) else episodes_per_task
        for episode in range(count):
            item = f"{task}/{episode:05d}"
            if item not in writer.done_items():
                writer.write_item(item, [_clip(writer, item, task, episode, seed, embodiments[0], Path(out))])
    return writer.finalise()


def _clip(writer, item, task, episode, seed, embodiment, root):
    number = zlib.crc32(f"{seed} {task} {episode}".encode()) % 10_000
    clip = make_clip(f"{task}-{episode:05d}", T=50, N=16, seed=number, task=instruction_of(task))
    media = write_pictures(writer.media_folder(item), {f: picture(f) for f in (0, 8)}, relative_to=root)
    provenance = {"task": task, "embodiment": embodiment, "seed": seed}
    return replace(clip, media=media, provenance=provenance)
