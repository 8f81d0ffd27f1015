"""Where the weights of perception backends are on this machine, and the exact command that brings them here.

Nothing is downloaded by the library. Hub weights are looked for in the hub's local cache, files from elsewhere in
`$TRACEWORLD_WEIGHTS` (default `~/.cache/traceworld/weights`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

FOLDER_VARIABLE = "TRACEWORLD_WEIGHTS"


def weights_folder() -> Path:
    """The folder of downloaded single files."""
    return Path(os.environ.get(FOLDER_VARIABLE) or Path.home() / ".cache" / "traceworld" / "weights")


@dataclass(frozen=True)
class Weights:
    """Published weights, or the user's own.

    Attributes:
        source: hub id, URL of one file, or a local path (folder or file).
        file: the file within a hub repository whose presence shows that they are there.
        revision: of the hub repository; None: `main`.
        whole: True if the repository is loaded as a folder, False if only `file` is.
    """

    source: str
    file: str = "config.json"
    revision: str | None = None
    whole: bool = True

    def find(self) -> Path | None:
        """Folder (or file, for single files) on this machine; None if they are not here."""
        path = Path(self.source).expanduser()
        if path.exists():
            return path
        if "://" in self.source:
            kept = weights_folder() / self.source.rsplit("/", 1)[-1]
            return kept if kept.is_file() else None
        found = self._cached()
        return None if found is None else found.parent if self.whole else found

    def _cached(self) -> Path | None:
        try:
            from huggingface_hub import try_to_load_from_cache
            from huggingface_hub.errors import HFValidationError
        except ImportError:
            return None
        try:
            found = try_to_load_from_cache(self.source, self.file, revision=self.revision or "main")
        except HFValidationError:  # a path that does not exist is no hub id either
            return None
        return Path(found) if isinstance(found, str) else None

    def found_revision(self) -> str | None:
        """The commit of the hub repository in the cache; None for files and folders."""
        if "://" in self.source or Path(self.source).expanduser().exists():
            return None
        found = self._cached()
        # …/snapshots/COMMIT/FILE, and FILE may lie in a folder of its own
        parts = found.parts if found is not None else ()
        return parts[parts.index("snapshots") + 1] if "snapshots" in parts else None

    def command(self) -> str:
        """What to type to have them."""
        if "://" in self.source:
            kept = weights_folder() / self.source.rsplit("/", 1)[-1]
            return f"curl -L --create-dirs -o {kept} {self.source}"
        if self.source.startswith(("/", ".", "~")):
            return f"check the path {self.source}"
        pin = f" --revision {self.revision}" if self.revision else ""
        return f"hf download {self.source}{'' if self.whole else ' ' + self.file}{pin}"
