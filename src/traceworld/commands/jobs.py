"""Commands on the ledger of a dataset: what was done, what failed, what is to be tried again."""

from __future__ import annotations

import dataclasses
import json as jsonlib
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitSubcommandPrefixes, Positional, subcommand

from traceworld.commands.printing import emit, table


@dataclasses.dataclass(frozen=True)
class Status:
    """How many items are done, skipped and failed, by stage, and what they cost."""

    dataset: Positional[Path]
    json: bool = False
    """Print as JSON."""

    def run(self) -> int:
        from rich.console import Group

        from traceworld.extract.ledger import summarise

        found = summarise(self.dataset)
        rows = [{"status": "failed", "stage": stage, **row} for stage, row in found["failed_by_stage"].items()]
        rows = [{"status": name, "stage": "", "items": found[name]} for name in ("ok", "skipped")] + rows
        if found["not_recaptioned"]:
            rows.append({"status": "ok, old captions", "stage": "captions", "items": found["not_recaptioned"]})
        seconds = [{"stage": name, "seconds": round(spent, 1)} for name, spent in found["seconds"]["by_stage"].items()]
        shown = Group(
            table(f"{self.dataset}: {found['items']} items", rows, ["status", "stage", "items", "example"]),
            table("seconds of the items that are done", seconds, ["stage", "seconds"]),
        )
        emit(found, self.json, shown)
        return 0


@dataclasses.dataclass(frozen=True)
class Retry:
    """Let failed items count as never tried: the next `traceworld extract` with the same inputs takes them up."""

    dataset: Positional[Path]
    items: Positional[tuple[str, ...]] = ()
    """Item ids; none: all that failed."""
    stage: str = ""
    """Only those that failed in this stage."""
    json: bool = False
    """Print as JSON."""

    def run(self) -> int:
        from traceworld.extract.ledger import retry

        names = retry(self.dataset, self.items, self.stage)
        emit({"retry": names}, self.json, f"{len(names)} items will be tried again")
        return 0 if names else 1


@dataclasses.dataclass(frozen=True)
class ExportFailures:
    """Write all failed items with stage, error and traceback as JSON lines; also those that could not be captioned anew."""

    dataset: Positional[Path]
    out: Path | None = None
    """File to write; none: standard output."""

    def run(self) -> int:
        from traceworld.extract.ledger import failures
        from traceworld.traces.atomic import write_atomically

        lines = "".join(jsonlib.dumps(record) + "\n" for record in failures(self.dataset))
        if self.out is None:
            emit(lines.rstrip("\n"), False)
        else:
            write_atomically(self.out, lambda temporary: temporary.write_text(lines))
        return 0


@dataclasses.dataclass(frozen=True)
class Jobs:
    """The ledger of an extraction: `traceworld jobs status|retry|export-failures DATASET`."""

    action: OmitSubcommandPrefixes[
        Annotated[Status, subcommand("status", prefix_name=False)]
        | Annotated[Retry, subcommand("retry", prefix_name=False)]
        | Annotated[ExportFailures, subcommand("export-failures", prefix_name=False)]
    ]

    def run(self) -> int:
        return self.action.run()
