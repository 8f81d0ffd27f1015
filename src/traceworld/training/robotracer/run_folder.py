"""What the folder of a fine-tuning run holds beside checkpoints: its options (`run.json`) and its log (`log.jsonl`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from traceworld.errors import ConfigError
from traceworld.extras import require
from traceworld.traces.atomic import read_json, write_atomically, write_json

RUN_FILE, LOG_FILE, RESULT_FOLDER = "run.json", "log.jsonl", "model"
FREE_ON_RESUME = frozenset({"workers", "save_every", "log_every"})
"""Options that may change when a run goes on."""


def start_or_continue(out: Path, options: Mapping[str, Any]) -> None:
    """Write the options of a new run, or compare them with those of the one in the folder.

    Raises:
        ConfigError: it was started with others.
    """
    file, now = out / RUN_FILE, json.loads(json.dumps(options))
    if not file.exists():
        write_json(file, now)
        return
    before = read_json(file)
    for name in sorted({*before, *now} - FREE_ON_RESUME):
        if before.get(name) != now.get(name):
            raise ConfigError(
                f"was {before.get(name)!r} when the run in {out} was started, now {now.get(name)!r}",
                where=name,
                mend="continue it with the same options, or give another out folder",
            )


def log_callback(out: Path) -> Any:
    """A callback that keeps `log.jsonl` equal to the Trainer's history: when a run goes on, lines past its step are dropped."""
    transformers = require("transformers")

    class LogFile(transformers.TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self._write(state)

        def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self._write(state)

        def _write(self, state: Any) -> None:
            if state.is_world_process_zero:
                text = "".join(json.dumps(entry, sort_keys=True) + "\n" for entry in state.log_history)
                write_atomically(out / LOG_FILE, lambda path: path.write_text(text))

    return LogFile()


def epoch_callback(examples: Any) -> Any:
    """A callback that tells a dataset the epoch (`set_epoch`); accelerate does so in one process, not in several."""
    transformers = require("transformers")

    class TellEpoch(transformers.TrainerCallback):
        def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            examples.set_epoch(whole_epochs(state))

    return TellEpoch()


def whole_epochs(state: Any) -> int:
    """Epochs that a Trainer has done; its own count is a sum of fractions."""
    return int((state.epoch or 0.0) + 1e-6)
