"""What is written down of a closed-loop evaluation: its settings, and a line per episode, kept whole at every moment."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from traceworld.errors import ConfigError, DatasetError
from traceworld.traces.atomic import read_json, write_atomically, write_json

RUN_FILE, EPISODES_FILE = "run.json", "episodes.jsonl"
FORMAT = 1


@dataclass(frozen=True)
class EpisodeRecord:
    """One episode.

    Attributes:
        env, episode, seed: which one; `group` it is reported in ("" for none).
        success: done in any step. steps: control steps played.
        calls: how often the policy was asked. waits: steps with nothing to play.
        seconds: wall time of the whole episode; `act_ms`, `act_ms_p95`, `act_ms_max` of an inference, `observe_ms` of an
            observation, `step_ms` of a step of physics.
        jitter, seam_jump, inner_jump: see `execution.smoothness`.
        error: what ended it early; such an episode counts as failed, and is played again when the run is resumed.
        video: its file, relative to the run's folder.
        touched: whether a distractor was touched; None where there are none.
    """

    env: str
    episode: int
    seed: int
    group: str
    success: bool
    steps: int
    calls: int
    waits: int
    seconds: float
    act_ms: float | None
    act_ms_p95: float | None
    act_ms_max: float | None
    observe_ms: float | None
    step_ms: float | None
    jitter: float | None
    seam_jump: float | None
    inner_jump: float | None
    error: str | None = None
    video: str | None = None
    touched: bool | None = None

    @property
    def key(self) -> tuple[str, int]:
        return self.env, self.episode


class RecordBook:
    """The records of a run. With a folder, every addition is on disk before the next episode counts.

    Args:
        folder: None keeps the records in memory.
        settings: everything that decides what the episodes are. A folder with other settings is refused.

    Raises:
        ConfigError: the folder holds a run of other settings; names the first that differs.
        DatasetError: it cannot be read or written.
    """

    def __init__(self, folder: Path | None, settings: Mapping[str, Any]):
        self._folder = folder
        self._records: dict[tuple[str, int], EpisodeRecord] = {}
        if folder is None:
            return
        described = {"format": FORMAT, "settings": json.loads(json.dumps(dict(settings)))}
        if (folder / EPISODES_FILE).exists():
            if not (folder / RUN_FILE).exists():
                raise DatasetError("has episodes but no settings", where=str(folder), mend="choose a new folder")
            _must_be_same(read_json(folder / RUN_FILE), described, folder)
            self._records = {record.key: record for record in read_records(folder)}
        else:  # a run that ended before its first episode binds nobody
            write_json(folder / RUN_FILE, described)

    def add(self, record: EpisodeRecord) -> None:
        """Write an episode down (again, if it was there)."""
        self._records[record.key] = record
        if self._folder is None:
            return
        text = "".join(json.dumps(asdict(each), allow_nan=False) + "\n" for each in self.records())
        write_atomically(self._folder / EPISODES_FILE, lambda path: path.write_text(text, encoding="utf-8"))

    def finished(self) -> set[tuple[str, int]]:
        """(env, episode) of what need not be played again."""
        return {record.key for record in self._records.values() if record.error is None}

    def records(self) -> list[EpisodeRecord]:
        """All, by environment and episode."""
        return [self._records[key] for key in sorted(self._records)]


def read_records(folder: Path) -> list[EpisodeRecord]:
    """The episodes of a run's folder ([] before the first).

    Raises:
        DatasetError: the file is damaged.
    """
    path = folder / EPISODES_FILE
    if not path.exists():
        return []
    known = {each.name for each in fields(EpisodeRecord)}
    try:
        lines: Iterable[str] = path.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        return [EpisodeRecord(**{name: value for name, value in row.items() if name in known}) for row in rows]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DatasetError(f"cannot be read: {error}", where=str(path), mend="restore it or start a new run") from error


def _must_be_same(found: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    if found.get("format") != FORMAT:
        raise DatasetError(
            f"has format {found.get('format')}", where=str(folder), mend="use the traceworld that made it"
        )
    old, new = found.get("settings", {}), wanted["settings"]
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            raise ConfigError(
                f"holds a run with {name} = {old.get(name)}, not {new.get(name)}",
                where=str(folder),
                mend="choose another folder, or the same settings to go on",
            )
