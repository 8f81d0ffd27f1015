"""The `traceworld` command: puts the commands of `commands/` together, says errors, gives exit codes.

Every command that prints a figure takes `--json`. Exit codes: 0 done, 1 nothing succeeded or an error, 2 wrong usage.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import tyro
from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, subcommand

from traceworld.commands.data import Extract, Info, Report, View
from traceworld.commands.evaluation import Eval
from traceworld.commands.exchange import Export, Import, Pull, Push
from traceworld.commands.house import Demo, Doctor
from traceworld.commands.jobs import Jobs
from traceworld.commands.models import Convert, Predict, Train
from traceworld.commands.recaption import Recaption
from traceworld.commands.robotracer import Ask, TrainRoboTracerRft, TrainRoboTracerSft
from traceworld.commands.robots import Rollout, TrainPolicy
from traceworld.commands.serving import Serve
from traceworld.commands.simulation import Sim
from traceworld.commands.tracespatial_data import Tracespatial
from traceworld.errors import ConfigError, TraceworldError

Command = (
    Annotated[Extract, subcommand("extract", prefix_name=False)]
    | Annotated[Recaption, subcommand("recaption", prefix_name=False)]
    | Annotated[Jobs, subcommand("jobs", prefix_name=False)]
    | Annotated[Info, subcommand("info", prefix_name=False)]
    | Annotated[Report, subcommand("report", prefix_name=False)]
    | Annotated[View, subcommand("view", prefix_name=False)]
    | Annotated[Sim, subcommand("sim", prefix_name=False)]
    | Annotated[Tracespatial, subcommand("tracespatial", prefix_name=False)]
    | Annotated[Train, subcommand("train", prefix_name=False)]
    | Annotated[TrainPolicy, subcommand("train-policy", prefix_name=False)]
    | Annotated[TrainRoboTracerSft, subcommand("train-robotracer-sft", prefix_name=False)]
    | Annotated[TrainRoboTracerRft, subcommand("train-robotracer-rft", prefix_name=False)]
    | Annotated[Predict, subcommand("predict", prefix_name=False)]
    | Annotated[Ask, subcommand("ask", prefix_name=False)]
    | Annotated[Eval, subcommand("eval", prefix_name=False)]
    | Annotated[Rollout, subcommand("rollout", prefix_name=False)]
    | Annotated[Serve, subcommand("serve", prefix_name=False)]
    | Annotated[Convert, subcommand("convert", prefix_name=False)]
    | Annotated[Import, subcommand("import", prefix_name=False)]
    | Annotated[Export, subcommand("export", prefix_name=False)]
    | Annotated[Push, subcommand("push", prefix_name=False)]
    | Annotated[Pull, subcommand("pull", prefix_name=False)]
    | Annotated[Demo, subcommand("demo", prefix_name=False)]
    | Annotated[Doctor, subcommand("doctor", prefix_name=False)]
)

_TRAINED = ("policy", "robotracer-sft", "robotracer-rft")
"""What `train` can train beside trace models."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code (the console script exits with it)."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] == "--version":
        from traceworld import __version__

        sys.stdout.write(f"traceworld {__version__}\n")
        return 0
    # `train` takes folders: one of this name is `./policy`
    if argv[:1] == ["train"] and argv[1:2] and argv[1] in _TRAINED:
        argv = [f"train-{argv[1]}", *argv[2:]]
    os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        command = tyro.cli(
            Command,
            prog="traceworld",
            description="Video to 3D traces, models of how traces move, and robots driven by them.",
            args=argv,
            config=(OmitArgPrefixes, OmitSubcommandPrefixes),
        )
        _log_to_stderr()
        return command.run()
    except TraceworldError as error:
        _say_error(error)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command goes on from here\n")
        return 130
    except BrokenPipeError:  # `| head` closed the pipe
        sys.stdout = None  # type: ignore[assignment]
        return 0


def _log_to_stderr() -> None:
    from rich.console import Console
    from rich.logging import RichHandler

    level = os.environ.get("TRACEWORLD_LOG", "WARNING").upper()
    handler = RichHandler(console=Console(stderr=True), show_time=False, show_path=False)
    logging.basicConfig(level=level, handlers=[handler], format="%(message)s")


def _say_error(error: TraceworldError) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)
    where = f"{error.where}: " if error.where else ""
    console.print(f"[bold red]error[/] {escape(where + error.message)}")
    if error.mend:
        console.print(f"[bold]mend[/]  {escape(error.mend)}")


if __name__ == "__main__":
    sys.exit(main())
