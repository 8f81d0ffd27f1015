"""Which items a machine of many does, and whether an input is still the one that failed."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from traceworld.errors import ConfigError


@dataclass(frozen=True)
class Part:
    """Part `index` (from 0) of `count`. An item's part follows from its name alone: machines need not see the same list."""

    index: int
    count: int

    def __post_init__(self):
        if not 0 <= self.index < self.count:
            raise ConfigError(
                f"there is no part {self.index} of {self.count}", where="shard", mend=f"0/{self.count} is the first"
            )

    @classmethod
    def parse(cls, text: str) -> Part:
        """From `i/n`, as in `--shard $SLURM_ARRAY_TASK_ID/64`.

        Raises:
            ConfigError: it is not of that form, or there is no such part.
        """
        if (match := re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text)) is None:
            raise ConfigError(f"'{text}' is not i/n", where="shard", mend="write 0/64 for the first of 64 parts")
        return cls(int(match[1]), int(match[2]))

    def holds(self, item_id: str) -> bool:
        """Whether an item belongs to this part."""
        digest = hashlib.blake2b(item_id.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.index


def input_mark(path: Path) -> str:
    """Number, size and latest time of the files of an input; "" if there is none. Differs once a file was mended."""
    try:
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        stats = [file.stat() for file in files]
    except OSError:
        return ""
    if not stats:
        return ""
    return f"{len(stats)} {sum(stat.st_size for stat in stats)} {max(stat.st_mtime_ns for stat in stats)}"
