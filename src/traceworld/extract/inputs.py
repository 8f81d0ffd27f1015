"""What a user gives on the command line → a list of clips to extract."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from traceworld.perception.frame_folder import natural_key
from traceworld.perception.sources import clip_kind, is_truth


def _absolute(path: str | Path) -> Path:
    return Path(path).expanduser().absolute()


def _clips_under(folder: Path) -> Iterator[Path]:
    """Clips in a folder and below, in natural order; a folder that is itself a clip is not looked into."""
    for child in sorted(folder.iterdir(), key=lambda path: (natural_key(path.name), path.name)):
        if child.name.startswith(".") or is_truth(child):
            continue
        if clip_kind(child):
            yield child
        elif child.is_dir():
            yield from _clips_under(child)


def _expand_one(path: str | Path) -> list[Path]:
    whole = _absolute(path)
    if whole.exists():
        if whole.is_dir() and clip_kind(whole) is None and not is_truth(whole):
            return list(_clips_under(whole)) or [whole]
        return [whole]
    if glob.has_magic(str(whole)):
        matches = sorted(glob.glob(str(whole), recursive=True), key=natural_key)
        return [clip for match in matches for clip in _expand_one(match)] or [whole]
    return [whole]


def expand_inputs(paths: Iterable[str | Path]) -> list[Path]:
    """Absolute paths of the clips that these paths, folders and glob patterns mean, each once, in the order given.

    A video, an RGB-D folder and a folder of pictures are one clip each; any other folder stands for all clips below it.
    Folders of exact answers (`*.truth`) are passed over, unless nothing else is given. What does not exist, or holds no
    clip, stays in the list, so that it is reported as failed and does not vanish.
    """
    found = list(dict.fromkeys(clip for path in paths for clip in _expand_one(path)))
    return [clip for clip in found if not is_truth(clip)] or found


def item_id(path: str | Path) -> str:
    """Name of an input in a dataset: its file name and eight digits that tell equal names in different folders apart."""
    whole = _absolute(path)
    return f"{whole.stem}-{hashlib.sha256(str(whole).encode()).hexdigest()[:8]}"
