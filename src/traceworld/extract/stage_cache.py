"""What the stages of a clip have made, kept by content and configuration: the traces, and the words for its events.

A stage's key is a hash of all that its result follows from: the bytes of the input, the options up to that stage (not those
after it), the weights of its backends, the code, and the libraries that compute. So other captions or other cuts never
track again, another tracking option does, and a file that was replaced is a new input. A key says nothing of paths: copies
of a video share an entry. Entries are written whole, named by a hash of their own bytes, checked when read, and made again
if they are damaged; any number of processes may share a folder, and it may be deleted at any moment.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2

import traceworld
from traceworld.errors import DatasetError, MediaError
from traceworld.extract.config import CAPTION_OPTIONS, ExtractConfig
from traceworld.extract.shards import input_mark
from traceworld.perception import registry
from traceworld.traces.atomic import write_atomically
from traceworld.traces.schema import Shard, write_shard
from traceworld.traces.types import Clip

log = logging.getLogger(__name__)

TRACKS, CAPTIONS = "tracks", "captions"
STAGES = "stages"
"""Where a clip's provenance keeps the keys of its stages."""
AFTER_TRACKS = (
    "extract/captioning.py", "extract/events.py", "extract/jobs.py", "extract/ledger.py", "extract/memory.py",
    "extract/ray_workers.py", "extract/recaption.py", "extract/workers.py", "perception/backends/endpoint.py", "perception/backends/vlm.py",
    "perception/caption_text.py", "perception/captions.py", "perception/http_json.py", "perception/language_captioner.py",
)  # fmt: skip
"""Files of the rooms up to extraction that no trace follows from; a change in them leaves the traces that are kept."""
_LIBRARIES = ("numpy", "scipy", "av", "pillow")
_AFTER = ("events", "captions", "config", "config_hash", "version")
"""Entries of a finished clip's provenance that the stages after the tracks wrote."""


def tracks_key(path: Path, config: ExtractConfig) -> str:
    """Key of the traces of the clip at `path`: 32 hexadecimal digits.

    Raises:
        MediaError: the input cannot be read.
    """
    chosen = {kind: text for kind, text in config.backends().items() if kind != CAPTIONS}
    return _digest(
        {
            "content": content_mark(path),
            "options": config.tracking_options(),
            "backends": {kind: _backend_mark(kind, text) for kind, text in chosen.items() if text != "embedded"},
            "code": _code_mark(AFTER_TRACKS),
            "libraries": _versions(any(text != "embedded" for text in chosen.values())),
        }
    )


def captions_key(tracks: str, spans: Sequence[tuple[int, int]], task: str, config: ExtractConfig) -> str:
    """Key of the words for the events `spans` of a clip whose traces have the key `tracks`: 32 hexadecimal digits."""
    told = config.as_dict()
    return _digest(
        {
            "tracks": tracks,
            "spans": [list(span) for span in spans],
            "task": task,
            "options": {name: told[name] for name in CAPTION_OPTIONS if name in told},
            "backend": _backend_mark(CAPTIONS, config.captions),
            "code": _code_mark(()),
            "libraries": _versions(True),
        }
    )


def content_mark(path: Path) -> str:
    """Hash of the bytes of a file, or of a folder's files with their names (hidden ones left out); no path is in it.

    Raises:
        MediaError: it cannot be read.
    """
    try:
        if path.is_file():
            return f"{path.suffix.lower()} {_file_mark(path)}"
        names = {file.relative_to(path): file for file in sorted(path.rglob("*")) if file.is_file()}
        shown = {name: file for name, file in names.items() if not any(part.startswith(".") for part in name.parts)}
        return _digest([(name.as_posix(), _file_mark(file)) for name, file in shown.items()])
    except OSError as error:
        raise MediaError(
            f"cannot be read: {error.strerror}", where=str(path), mend="check the path and its rights"
        ) from error


def _file_mark(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def _backend_mark(kind: str, text: str) -> dict[str, str]:
    """What a backend is besides the text it is chosen by: whose code, and which weights. Nothing is imported or loaded."""
    choice = registry.parse_choice(text)
    spec = registry.find(kind, choice.name)
    mark = {"target": spec.target, "code": _package_version(spec.target)}
    if spec.checkout:
        mark["clone"] = input_mark(Path(os.environ.get(spec.checkout, "")))
    mark |= {f"needs {name}": _package_version(name) for name in spec.needs}
    if spec.weights is not None:
        named = choice.argument and choice.argument != spec.weights.source
        weights = dataclasses.replace(spec.weights, source=choice.argument, revision=None) if named else spec.weights
        found = weights.find()
        mark["weights"] = weights.source
        mark["revision"] = weights.found_revision() or ("" if found is None else input_mark(found))
    return mark


@functools.cache
def _packages() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def _package_version(target: str) -> str:
    """Version of the package that holds a module; "" for this one (its code is told by `_code_mark`) and for clones."""
    top = target.partition(":")[0].partition(".")[0]
    names = [] if top == "traceworld" else _packages().get(top, [])
    return " ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


@functools.cache
def _code_mark(left_out: tuple[str, ...]) -> str:
    """Hash of the library's own code up to extraction. Its version would not do: it stays while code is being written."""
    root = Path(traceworld.__file__).parent
    files = sorted(file for room in ("geometry", "perception", "extract") for file in (root / room).rglob("*.py"))
    names = [file.relative_to(root).as_posix() for file in files]
    return _digest([(name, _file_mark(file)) for name, file in zip(names, files, strict=True) if name not in left_out])


@functools.cache
def _versions(networks: bool) -> dict[str, str]:
    names = (*_LIBRARIES, "torch", "transformers") if networks else _LIBRARIES
    found = {"opencv": cv2.__version__}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found


class StageCache:
    """Where finished stages of one clip are looked for, and kept.

    Args:
        folder: of the cache, shared by processes, datasets and configurations; None: nothing is kept.
        shards: files in which a dataset may have this clip already, perhaps made with other options; its traces are used
            again if they are the ones that are asked for. So a dataset is a cache of its own, at no cost in disk space.
    """

    def __init__(self, folder: str | Path | None = None, shards: Sequence[Path] = ()):
        self.folder = Path(folder).expanduser() if folder else None
        self._shards = [path for path in shards if path.is_file()]

    def tracked(self, key: str) -> Clip | None:
        """The clip without events that was kept under this key, else None."""
        for path in self._entries(TRACKS, key, ".parquet"):
            try:
                return self._without_events(Shard(path).clip(0, path.parent))
            except DatasetError as error:  # its bytes are as they were written: by a newer traceworld
                log.info("not used: %s", error)
        return self._own(key)

    def keep_tracked(self, key: str, clip: Clip) -> None:
        """Keep the traces of a clip, with what its provenance says of them so far."""
        self._keep(TRACKS, key, ".parquet", lambda path: write_shard(path, [clip]))

    def captioned(self, key: str) -> dict[str, Any] | None:
        """The JSON object that was kept under this key, else None."""
        for path in self._entries(CAPTIONS, key, ".json"):
            return dict(json.loads(path.read_text(encoding="utf-8")))
        return None

    def keep_captioned(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep the words for a clip's events."""
        text = json.dumps(value, sort_keys=True, ensure_ascii=False)
        self._keep(CAPTIONS, key, ".json", lambda path: path.write_text(text, encoding="utf-8"))

    def _entries(self, stage: str, key: str, suffix: str) -> list[Path]:
        """Whole entries of a key; damaged ones are removed. There are two where a backend does not repeat itself."""
        if self.folder is None:
            return []
        whole = []
        for path in sorted((self.folder / stage / key[:2]).glob(f"{key}.*{suffix}")):
            try:
                if _file_mark(path) == path.name.split(".")[1]:
                    whole.append(path)
                    continue
                log.warning("%s is damaged and is made again", path)
                path.unlink(missing_ok=True)
            except OSError as error:  # removed just now, or unreadable: then it is not there
                log.warning("%s cannot be read: %s", path, error)
        return whole

    def _keep(self, stage: str, key: str, suffix: str, write: Callable[[Path], object]) -> None:
        """A cache that cannot be written (disk full) costs time, not results."""
        if self.folder is None:
            return
        folder = self.folder / stage / key[:2]
        nameless = folder / f".{key}.{uuid.uuid4().hex}"
        try:
            write_atomically(nameless, write)
            os.replace(nameless, folder / f"{key}.{_file_mark(nameless)}{suffix}")
        except (DatasetError, OSError) as error:
            log.warning("not kept: %s", error)

    def _own(self, key: str) -> Clip | None:
        for path in self._shards:
            try:
                shard = Shard(path)
                for row, told in enumerate(shard.columns(["provenance"])["provenance"]):
                    if json.loads(told or "{}").get(STAGES, {}).get(TRACKS) == key:
                        return self._without_events(shard.clip(row, path.parent))
            except DatasetError as error:
                log.warning("%s: its traces are made again", error)
        return None

    @staticmethod
    def _without_events(clip: Clip) -> Clip:
        told = {name: value for name, value in clip.provenance.items() if name not in _AFTER}
        told["backends"] = {kind: about for kind, about in told["backends"].items() if kind != CAPTIONS}
        return dataclasses.replace(clip, events=(), provenance=told)
