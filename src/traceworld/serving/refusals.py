"""Why a request that was read gets no answer; each has a word that clients can tell it by."""

from __future__ import annotations

from traceworld.errors import InvalidInputError, TraceworldError


class BusyError(TraceworldError):
    """As many requests wait as may wait: nothing was done, the same request may succeed later."""


class TooSlowError(TraceworldError):
    """The answer was not there in time."""


class StoppingError(TraceworldError):
    """The server is shutting down and takes nothing new."""


class PolicyError(TraceworldError):
    """The policy or predictor failed on a request that was well formed."""


def word_of(error: TraceworldError) -> str:
    """`invalid_request`, `busy`, `timeout`, `stopping` or `failed`: the first word of an error on the wire, in brackets."""
    for kind, word in (
        (InvalidInputError, "invalid_request"),
        (BusyError, "busy"),
        (TooSlowError, "timeout"),
        (StoppingError, "stopping"),
    ):
        if isinstance(error, kind):
            return word
    return "failed"
