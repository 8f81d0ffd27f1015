"""What is found by name (predictors, policies): weights inside the package, other packages' plug-ins, the user's folders."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from traceworld.errors import CheckpointError, ConfigError, MissingWeightsError, TraceworldError


def shipped_folder(weights: Path, name: str, recipe: str) -> Path:
    """The folder of a model inside the package.

    Raises:
        MissingWeightsError: it is not in this installation; `recipe` says how to make it.
    """
    folder = weights / name
    if not (folder / "config.json").exists():
        raise MissingWeightsError(
            f"the weights of '{name}' are not in this installation",
            where=str(folder),
            mend=f"reinstall traceworld, or train them with {recipe}",
        )
    return folder


def plugin_names(group: str) -> set[str]:
    """All names that other packages register in an entry-point group."""
    return {entry.name for entry in entry_points(group=group)}


def make_plugin(group: str, name: str, protocol: Any, what: str, needs: str) -> Any:
    """What another package registered as `name`, called without arguments, or as `NAME` of `NAME:TEXT`, called with the text.
    None if there is no such entry.

    Args:
        protocol: class that it must be of. what, needs: the same in words, for the error.

    Raises:
        ConfigError: it cannot be loaded or called, or is something else; names the plug-in. What it raises itself of
            `TraceworldError` comes out as it is.
    """
    kind, _, rest = name.partition(":")
    for entry in entry_points(group=group):
        if entry.name in (name, kind):
            return _made(entry, [] if entry.name == name else [rest], protocol, what, needs)
    return None


def own_folder(name: str | Path, what: str) -> Path | None:
    """A folder of the user's; None if there is no such thing.

    Raises:
        CheckpointError: it is a file.
    """
    path = Path(name).expanduser()
    if path.is_file():
        raise CheckpointError("is a file", where=str(path), mend=f"give the {what}'s folder")
    return path if path.is_dir() else None


def _made(entry: EntryPoint, arguments: list[str], protocol: Any, what: str, needs: str) -> Any:
    where = f"{entry.group}: {entry.name} = {entry.value}"
    try:
        made = entry.load()(*arguments)
    except TraceworldError:
        raise  # it knows best what is wrong
    except Exception as error:
        raise ConfigError(f"the plug-in fails: {error!r}", where=where, mend="update or remove its package") from error
    if not isinstance(made, protocol):
        raise ConfigError(f"is no {what}", where=where, mend=f"give it {needs}")
    return made
