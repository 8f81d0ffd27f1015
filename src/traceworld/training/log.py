"""The record of a run: log.jsonl always, a progress line on a terminal, and the trackers that are asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from traceworld.training.config import TrainConfig
from traceworld.training.trackers import Tracker, open_tracker

_TRACKED = ("step", "val")
_NO_CURVE = frozenset({"step", "time", "windows"})


class RunLog:
    """Appends one JSON object per line to `<out>/log.jsonl`; when a run is continued, lines past its step are dropped.

    Args:
        out: folder of the run.
        config: whose trackers are opened.
        start: steps done so far.
        writes: False on ranks other than the first: nothing is written, tracked or shown.

    Raises:
        MissingExtraError: a tracker that is asked for is not installed.
    """

    def __init__(self, out: Path, config: TrainConfig, *, start: int, writes: bool = True):
        self.path = out / "log.jsonl"
        self._file: TextIO | None = None
        self._trackers: list[Tracker] = []
        if writes:
            self._trackers = [open_tracker(name, out, config, start) for name in config.trackers]
            self._drop_after(start)
            self._file = self.path.open("a")
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("train"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not (writes and console.is_terminal),
        )
        self._task = self._progress.add_task("train", total=config.steps, completed=start, note="")

    def _drop_after(self, start: int) -> None:
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # the run was killed while it wrote this line
                continue
            if entry.get("step", 0) <= start:
                kept.append(line + "\n")
        temporary = self.path.with_name(".log.jsonl.tmp")
        temporary.write_text("".join(kept))
        os.replace(temporary, self.path)

    def __enter__(self) -> RunLog:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._progress.stop()
        if self._file:
            self._file.close()
        for tracker in self._trackers:
            tracker.close()

    def write(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Add a line `{"kind": kind, **fields}`, at once readable by others; trackers get the curves of `step` and `val`."""
        if self._file is None:
            return
        self._file.write(json.dumps({"kind": kind, **fields}) + "\n")
        self._file.flush()
        if kind in _TRACKED:
            prefix = "train" if kind == "step" else kind
            values = {f"{prefix}/{name}": float(value) for name, value in fields.items() if name not in _NO_CURVE}
            for tracker in self._trackers:
                tracker.log(int(fields["step"]), values)

    def advance(self, step: int, note: str) -> None:
        """Move the progress line."""
        self._progress.update(self._task, completed=step, note=note)
