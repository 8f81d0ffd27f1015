"""Entrants named by an address: `openai:MODEL@URL#option=value&…` and `robotracer:URL#option=value&…`.

Options stand in the URL's fragment, which is never sent. A key does not belong into an address: addresses are printed and
stored with every report.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from traceworld.errors import ConfigError

PREFIXES = ("openai:", "robotracer:")

Options = TypeVar("Options")


@dataclass(frozen=True)
class Address:
    """A parsed address: `model` is empty for RoboTracer, `url` has no trailing slash, `options` are still text."""

    model: str
    url: str
    options: dict[str, str]


def parse_address(text: str) -> Address:
    """Take an entrant's address apart.

    Raises:
        ConfigError: not of the form, no http(s) URL, or credentials in it.
    """
    prefix, _, rest = text.partition(":")
    at = min((i for i in (rest.find("@http://"), rest.find("@https://")) if i >= 0), default=-1)
    model, url = (rest[:at], rest[at + 1 :]) if prefix == "openai" and at >= 0 else ("", rest)
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            "holds a user name or password", where=f"{prefix}:…", mend="keep keys in the environment (OPENAI_API_KEY)"
        )
    form = "openai:MODEL@http://HOST/v1" if prefix == "openai" else "robotracer:http://HOST:25547"
    if parts.scheme not in ("http", "https") or not parts.hostname or (prefix == "openai" and not model):
        raise ConfigError("is not an entrant's address", where=text, mend=f"write {form}")
    plain = url.partition("#")[0].rstrip("/")
    return Address(model, plain, dict(parse_qsl(parts.fragment, keep_blank_values=True)))


def read_options(kind: type[Options], given: dict[str, str], where: str) -> Options:
    """A dataclass of options with defaults, some replaced by text (`key=value`), converted to the default's type.

    Raises:
        ConfigError: unknown name or a value of another type.
    """
    defaults = kind()
    known = {field.name: getattr(defaults, field.name) for field in fields(kind)}  # type: ignore[arg-type]
    found: dict[str, Any] = {}
    for name, text in given.items():
        if name not in known:
            raise ConfigError(f"'{name}' is unknown", where=where, mend=f"options: {', '.join(known)}")
        default = known[name]
        as_type = float if default is None else type(default)
        try:
            found[name] = as_type(text)
        except ValueError:
            raise ConfigError(f"'{text}' is no {as_type.__name__}", where=f"{where}: {name}") from None
    return replace(defaults, **found)  # type: ignore[type-var]
