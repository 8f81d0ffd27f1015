"""Frozen dataclasses from JSON, strictly: configurations in checkpoints are read by this alone."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from traceworld.errors import ConfigError

T = TypeVar("T")


def read_config(cls: type[T], values: Any, path: str = "config") -> T:
    """The dataclass `cls` that `dataclasses.asdict` (through JSON) wrote.

    Fields may be numbers, strings, `Literal`s, fixed-length tuples, dataclasses, any of these or None, and unions of
    dataclasses that tell themselves apart by a field `kind`.

    Raises:
        ConfigError: an unknown field, or a value of the wrong kind; named with its path.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"must be an object, not {type(values).__name__}", where=path)
    hints = typing.get_type_hints(cls)
    if unknown := sorted(set(values) - set(hints)):
        raise ConfigError(
            f"unknown field{'s' * (len(unknown) > 1)} {', '.join(unknown)}",
            where=path,
            mend="it was written by another version",
        )
    return cls(**{name: _convert(hints[name], value, f"{path}.{name}") for name, value in values.items()})


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return read_config(typing.cast(type, hint), value, path)
    if origin is Literal:
        if value not in typing.get_args(hint):
            raise ConfigError(f"{value!r} is none of {typing.get_args(hint)}", where=path)
        return value
    if origin is tuple:
        return _convert_tuple(typing.get_args(hint), value, path)
    if origin in (typing.Union, types.UnionType):
        choices = [choice for choice in typing.get_args(hint) if choice is not type(None)]
        if value is None and len(choices) < len(typing.get_args(hint)):
            return None
        return _convert(choices[0], value, path) if len(choices) == 1 else _by_kind(choices, value, path)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"must be {hint.__name__}, not {value!r}", where=path)
    return value


def _convert_tuple(items: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError("must be a list", where=path)
    if items[-1:] == (Ellipsis,):
        items = items[:1] * len(value)
    if len(value) != len(items):
        raise ConfigError(f"must be a list of {len(items)}", where=path)
    return tuple(_convert(item, v, path) for item, v in zip(items, value, strict=True))


def _by_kind(choices: list[Any], value: Any, path: str) -> Any:
    kinds = {choice.__dataclass_fields__["kind"].default: choice for choice in choices}
    kind = value.get("kind") if isinstance(value, Mapping) else None
    if kind not in kinds:
        raise ConfigError(f"unknown kind {kind!r}, known are {sorted(kinds)}", where=path)
    return read_config(kinds[kind], value, path)
