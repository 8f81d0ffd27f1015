"""Every error that traceworld raises on purpose.

Each names the thing that is wrong (`where`: a file, frame, field or option) and the mend (`mend`: what to do about it),
so that a message read in a log of ten thousand clips is enough to act on.
"""

from __future__ import annotations


class TraceworldError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: what is wrong, in one sentence.
        where: the file, frame, field or option it concerns.
        mend: what the user can do about it.
    """

    def __init__(self, message: str, *, where: str | None = None, mend: str | None = None):
        self.message, self.where, self.mend = message, where, mend
        text = f"{where}: {message}" if where else message
        super().__init__(f"{text} ({mend})" if mend else text)

    def __reduce__(self):  # keyword-only arguments do not survive pickling between worker processes otherwise
        return _rebuild, (type(self), self.message, self.where, self.mend)


def _rebuild(cls: type[TraceworldError], message: str, where: str | None, mend: str | None) -> TraceworldError:
    return cls(message, where=where, mend=mend)


class InvalidInputError(TraceworldError, ValueError):
    """A value or array given by the caller breaks a stated rule (shape, range, NaN, unit)."""


class MediaError(TraceworldError):
    """A video, image or folder of frames cannot be read: missing, empty, truncated, not a video, frames of two sizes."""


class DepthError(TraceworldError):
    """Depth cannot be used: all zero, wrong unit, wrong size, unreadable."""


class ExtractionError(TraceworldError):
    """A clip could be read but no traces could be made of it."""


class DatasetError(TraceworldError):
    """A dataset folder is missing, incomplete or damaged."""


class FormatVersionError(DatasetError):
    """A dataset was written by a newer traceworld than this one."""


class CheckpointError(TraceworldError):
    """A checkpoint is missing, truncated, or of another model or size."""


class NonFiniteLossError(TraceworldError):
    """The loss or its gradient became NaN or infinite; `where` names step and windows."""


class ConfigError(TraceworldError, ValueError):
    """An option has an unknown name or an impossible value."""


class MissingExtraError(TraceworldError, ImportError):
    """An optional package is not installed; `mend` is the exact command."""


class MissingWeightsError(TraceworldError):
    """Published weights are needed and absent; the message gives licence and command."""


class RenderingError(TraceworldError):
    """The simulator cannot render on this machine (EGL missing)."""
