"""What can go wrong, so that a robot's loop can decide what to do about it."""

from __future__ import annotations

import re


class ClientError(Exception):
    """Base of all errors of this package."""


class InvalidRequestError(ClientError, ValueError):
    """The request is wrong; the message says where. Sending it again will not help."""


class BusyError(ClientError):
    """Too many requests wait at the server. Sending the same again later may help."""


class ServerTimeoutError(ClientError, TimeoutError):
    """There was no answer in time."""


class ConnectionLostError(ClientError, ConnectionError):
    """The server cannot be reached, or the connection broke before the answer."""


class ServerError(ClientError):
    """The server failed on a request that it understood, or answered what cannot be read."""


_WORDS = {"invalid_request": InvalidRequestError, "busy": BusyError, "timeout": ServerTimeoutError}
_FIRST_WORD = re.compile(r"\[([a-z_]+)\] (.*)", re.DOTALL)


def error_of(text: str) -> ClientError:
    """The error that a server's text message means. Any text of a server that knows no words is a `ServerError`."""
    found = _FIRST_WORD.match(text)
    if found is None:
        return ServerError(text)
    return _WORDS.get(found.group(1), ServerError)(found.group(2))


def error_of_kind(kind: str, text: str) -> ClientError:
    """The error for a kind that an HTTP answer names."""
    return _WORDS.get(kind, ServerError)(text)
