"""What every recipe does around its stages: keep their minutes, write files whole, do nothing twice, and find out how many
steps of training fit into some minutes on this machine."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from traceworld.errors import ConfigError
from traceworld.training import TrainConfig, train

_CALIBRATION_STEPS = 12
log = logging.getLogger("recipe")


@contextmanager
def stage(out: Path, name: str) -> Iterator[None]:
    """Adds the minutes of a stage to `minutes.json`, over all restarts."""
    started, file = time.monotonic(), out / "minutes.json"
    log.info("%s …", name)
    try:
        yield
    finally:
        spent = minutes_of(out)
        spent[name] = round(spent.get(name, 0.0) + (time.monotonic() - started) / 60, 2)
        write(file, json.dumps(spent) + "\n")


def minutes_of(out: Path) -> dict[str, float]:
    """Minutes of each stage so far; empty if none was run in this folder."""
    file = out / "minutes.json"
    return json.loads(file.read_text()) if file.exists() else {}


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def once(path: Path, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """The JSON in `path`; made and written there if it is not."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, json.dumps(make(), indent=1, sort_keys=True) + "\n")
    return json.loads(path.read_text())


def keep_options(out: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Remember the options that decide the result of a run in `out`. Returns them as JSON has them.

    Raises:
        ConfigError: the folder holds a run with others: its stages cannot be taken over.
    """
    now = json.loads(json.dumps(dict(options), default=str))
    stored = once(out / "options.json", lambda: now)
    for name in sorted({*stored, *now}):
        if stored.get(name) != now.get(name):
            raise ConfigError(
                f"was {stored.get(name)!r} when the run in {out} was started, now {now.get(name)!r}",
                where=name,
                mend="go on with the same options, or choose a new folder",
            )
    return now


def seconds_per_step(config: TrainConfig, trial: Path) -> float:
    """Seconds of one training step of this run here, measured over a few steps in the folder `trial`, which is removed."""
    shutil.rmtree(trial, ignore_errors=True)
    steps = _CALIBRATION_STEPS
    result = train(replace(config, out=str(trial), steps=steps, warmup=0, val_fraction=0.0, max_minutes=None))
    shutil.rmtree(trial, ignore_errors=True)
    if result.status != "finished":
        raise SystemExit("stopped while measuring: run the same command again")
    return config.batch * config.grad_accumulation / result.samples_per_s


def finished(config: TrainConfig) -> dict[str, Any]:
    """Train to the last step, from wherever the run in `config.out` is. Returns the fields of its `TrainResult`."""
    result = train(config)
    if result.status != "finished":
        raise SystemExit(f"training stopped at step {result.step}: run the same command again")
    return json.loads((Path(config.out) / "result.json").read_text())


def machine(threads: int) -> dict[str, Any]:
    """What figures of cost were measured on."""
    return {"cpus": os.cpu_count(), "threads": threads, "arch": platform.machine(), "torch": torch.__version__}


def readable(folder: Path) -> None:
    """Let everybody read what goes into a package: weights are written for their owner alone."""
    for file in folder.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
