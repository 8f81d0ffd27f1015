"""The record of a run: log.jsonl always, a progress line on a terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class RunLog:
    """Appends one JSON object per line to `<out>/log.jsonl`; when a run is continued, lines past its step are dropped."""

    def __init__(self, out: Path, *, start: int, steps: int):
        self.path = out / "log.jsonl"
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
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("train", total=steps, completed=start, note="")

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
        self._file.close()

    def write(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Add a line `{"kind": kind, **fields}`, at once readable by others."""
        self._file.write(json.dumps({"kind": kind, **fields}) + "\n")
        self._file.flush()

    def advance(self, step: int, note: str) -> None:
        """Move the progress line."""
        self._progress.update(self._task, completed=step, note=note)
