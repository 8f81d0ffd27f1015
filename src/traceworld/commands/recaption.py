"""The command that gives a dataset new captions without tracking again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from traceworld.commands.printing import emit, table


@dataclasses.dataclass(frozen=True)
class Recaption:
    """Caption the clips of a dataset again, in place; nothing is tracked again. Options left out stay as they were.

    A clip that cannot be captioned keeps the words it has. Stopped, the same command goes on.
    """

    dataset: Positional[Path]
    captions: str | None = None
    """Captioner, as NAME[:WEIGHTS][#option=value]; a server is openai:MODEL@URL, its key in OPENAI_API_KEY."""
    style: Literal["structured", "traceforge"] | None = None
    """What a language model is asked for; traceforge: three instructions besides. Needs --captions."""
    accept_licence: tuple[Literal["non-commercial", "gated"], ...] = ()
    """Licence classes that this run may use."""
    min_event_s: float | None = None
    """Shortest event, in seconds; with this or one of the next three, clips are cut again."""
    max_event_s: float | None = None
    """Longest event, in seconds."""
    smooth_s: float | None = None
    """Window in seconds over which acceleration is smoothed."""
    peak_prominence: float | None = None
    """Share of the signal's range by which a peak must stand out to be an action."""
    merge_window: int | None = None
    """Adjacent events that one summary covers."""
    merge_stride: int | None = None
    """Events from one summary to the next; as large as the window, summaries do not overlap."""
    workers: int = 1
    """Processes at a time."""
    timeout_s: float | None = None
    """Limit per item, with two workers or more."""
    shard: str = ""
    """Do only part i of n of the items, as i/n from 0."""
    json: bool = False
    """Print the report as JSON."""

    def changes(self) -> dict[str, Any]:
        """Options of `ExtractConfig` that this run asks to differ."""
        from traceworld.errors import ConfigError

        names = ("min_event_s", "max_event_s", "smooth_s", "peak_prominence", "merge_window", "merge_stride")
        given = {name: getattr(self, name) for name in ("captions", *names)}
        given = {name: value for name, value in given.items() if value is not None}
        if self.style is not None:
            if self.captions is None:
                raise ConfigError("says nothing alone", where="style", mend="name the captioner too: --captions")
            given["captions"] += f"{'&' if '#' in self.captions else '#'}style={self.style}"
        return given | ({"accept_licence": self.accept_licence} if self.accept_licence else {})

    def run(self) -> int:
        from traceworld.extract.recaption import recaption_dataset
        from traceworld.extract.shards import Part

        report = recaption_dataset(
            self.dataset,
            self.changes(),
            workers=self.workers,
            timeout_s=self.timeout_s,
            part=Part.parse(self.shard) if self.shard else None,
        )
        result = dataclasses.asdict(report)
        rows = [item for item in result["items"] if item["status"] == "failed"]
        title = f"{self.dataset}: {report.ok} captioned ({report.resumed} of them before), {report.failed} failed"
        emit(result, self.json, table(title, rows, ["item_id", "stage", "error"]))
        return 0 if report.ok else 1
