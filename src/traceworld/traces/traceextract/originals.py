"""What an imported episode says beyond our clip, kept beside it, so that an unchanged clip goes back as it came.

The clock of `traj` depends on points that the released writer drops, and float16 rows cannot be had again to the last bit
from a mean of them. So the sample arrays are kept, compressed, with a fingerprint of the clip made from them; an export of
a clip that was edited since makes them anew.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from traceworld.traces.atomic import read_json, write_atomically, write_json
from traceworld.traces.exchange import fingerprint
from traceworld.traces.traceextract import layout
from traceworld.traces.traceextract.episode import Episode
from traceworld.traces.traceextract.layout import check_array, damaged, read_npz, save_npz
from traceworld.traces.types import Clip

FOLDER_KEY = "traceextract_originals"
"""Provenance key: the folder of originals, relative to the dataset folder."""
_INDEX, _ARRAYS = "index.json", "arrays.npz"
_PLAIN = (layout.META, layout.DESCRIPTION, layout.CAPTIONS, "curated_captions.json")


def keep_originals(folder: Path, source: Path, episode: Episode, clip: Clip, depth: bool) -> None:
    """Keep an episode's arrays and texts in `folder`; its depth too where our pictures round it (`depth`)."""
    arrays = {f"samples/{name}": np.asarray(values) for name, values in episode.samples.items()}
    if episode.acceleration is not None:
        arrays["acceleration"] = episode.acceleration
    arrays |= {f"statistics/{name}": values for name, values in episode.statistics.items()}
    if depth and episode.depth is not None:
        arrays["depth"] = np.asarray(episode.depth)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / _ARRAYS, lambda temporary: save_npz(temporary, arrays, compressed=True))
    for name in [*_PLAIN, *(f"curated/{path.name}" for path in sorted((source / "curated").glob("*.json")))]:
        if (source / name).is_file():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, folder / name)
    write_json(folder / _INDEX, {"fingerprint": fingerprint(clip), "task": clip.task})


class Originals:
    """The originals of a clip, as far as they still hold for it."""

    def __init__(self, folder: Path, clip: Clip):
        index = read_json(folder / _INDEX)
        self.folder, self.path = folder, folder / _ARRAYS
        self.unchanged = index.get("fingerprint") == fingerprint(clip)
        self.same_task = index.get("task") == clip.task
        self.arrays = read_npz(self.path) if self.unchanged else {}

    @staticmethod
    def of(clip: Clip) -> Originals | None:
        """Those of a clip that was imported with them and whose folder is still there."""
        name = clip.provenance.get(FOLDER_KEY)
        if name is None or clip.root is None or not (clip.root / name).is_dir():
            return None
        return Originals(clip.root / name, clip)

    def samples(self) -> dict[str, np.ndarray]:
        """The arrays of samples/.

        Raises:
            DatasetError: one is missing or not as the format says.
        """
        sizes: dict[str, int] = {}
        found = {}
        for name, spec in layout.SAMPLE_FILES.items():
            key = f"samples/{name}"
            if key not in self.arrays:
                raise damaged(self.path, "is missing", key)
            found[name] = check_array(self.arrays[key], spec, sizes, self.path, key)
        return found

    def statistics(self) -> dict[str, np.ndarray]:
        """The keys of movement_statistics.npz."""
        return {k.removeprefix("statistics/"): v for k, v in self.arrays.items() if k.startswith("statistics/")}

    def copy_texts(self, folder: Path, captions: bool) -> None:
        """Copy description, meta and, if they still hold, captions into an episode folder."""
        plain = {layout.META} | ({layout.DESCRIPTION} if self.same_task else set())
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            captioning = name.startswith("curated")
            if path.is_file() and (name in plain or (captioning and captions)):
                (folder / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(path, folder / name)
