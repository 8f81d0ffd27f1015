"""Files that a request names: read only below one folder that the server was told of, and not at all without one."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from traceworld.errors import ConfigError, InvalidInputError

_OUTSIDE = "is no file of the folder that this server reads"


class SharedFolder:
    """The one folder whose files may be named.

    Args:
        root: None: none is; every path is refused.
        max_bytes: of one file.

    Raises:
        ConfigError: it is no folder.
    """

    def __init__(self, root: Path | None, max_bytes: int):
        self.root = None if root is None else root.expanduser().resolve()
        self.max_bytes = max_bytes
        if self.root is not None and not self.root.is_dir():
            raise ConfigError("is no folder", where=str(root), mend="name a folder that clients share with this server")

    def read(self, name: str, where: str) -> bytes:
        """The bytes of a file, named absolutely or from the folder. Links are followed as long as they stay inside.

        Whether a file outside exists does not show: all that cannot be read gives the same error.

        Raises:
            InvalidInputError: no folder is shared; not a regular file inside of it; too large.
        """
        if self.root is None:
            raise InvalidInputError(
                "this server reads no files", where=where, mend="send the picture as base64 (image_url, depth_mm_url)"
            )
        mend = "name a file below it, or send the picture as base64"
        try:
            path = Path(os.path.realpath(self.root / name, strict=True))
            if not path.is_relative_to(self.root):
                raise InvalidInputError(_OUTSIDE, where=where, mend=mend)
            # A pipe must not hold the server up, and what has become a link since it was looked at is not followed.
            file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            raise InvalidInputError(_OUTSIDE, where=where, mend=mend) from error
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise InvalidInputError(_OUTSIDE, where=where, mend=mend)
        with os.fdopen(file, "rb") as opened:
            data = opened.read(self.max_bytes + 1)
        if len(data) > self.max_bytes:
            raise InvalidInputError("is too large", where=where, mend=f"at most {self.max_bytes} bytes")
        return data
