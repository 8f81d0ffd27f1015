"""The API key of a server: where it comes from, and whether a request has it."""

from __future__ import annotations

import hmac
import ipaddress
import os
from pathlib import Path

from traceworld.errors import ConfigError

KEY_VARIABLE = "TRACEWORLD_API_KEY"


def find_key(file: Path | None) -> str | None:
    """The key in a file, else in the environment variable TRACEWORLD_API_KEY, else None (anybody may ask).

    A key is never an argument of a command: the arguments of a process are public on its machine.

    Raises:
        ConfigError: the file cannot be read or holds no key.
    """
    if file is None:
        return os.environ.get(KEY_VARIABLE, "").strip() or None
    try:
        key = file.expanduser().read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=str(file), mend="give a text file with one key") from error
    if not key:
        raise ConfigError("holds no key", where=str(file), mend="write one key into it")
    return key


def has_key(header: str | None, key: str | None) -> bool:
    """Whether an Authorization header (`Api-Key KEY`, as openpi's client sends it, or `Bearer KEY`) opens this server."""
    if key is None:
        return True
    scheme, _, given = (header or "").strip().partition(" ")
    known = scheme.lower() in ("api-key", "bearer")
    return hmac.compare_digest(given.strip().encode(), key.encode()) and known


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server on that host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: who can reach it is not known here
        return False
