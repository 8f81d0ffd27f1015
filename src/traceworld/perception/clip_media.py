"""Pictures of stored RGB-D clips with depth as extraction saw it: unit mended, registered to the colour camera.

`install()` makes `traces.media.read_frame` and `read_depth` use this reader; importing `perception.sources` does so.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from traceworld.perception.rgbd_folder import RgbdFolderSource
from traceworld.perception.source_base import SourceOptions
from traceworld.traces.media import media_path, register_media_reader, source_frame
from traceworld.traces.types import Clip


@functools.lru_cache(maxsize=32)
def _kept(path: Path, _changed_ns: int, max_side: int, settled: str) -> RgbdFolderSource:
    return RgbdFolderSource(path, SourceOptions(max_side=max_side), json.loads(settled) if settled else None)


def _source(clip: Clip) -> RgbdFolderSource:
    """The clip's folder, with depth unit and calibration from the clip's provenance where they are recorded."""
    path = media_path(clip)
    recorded = clip.provenance.get("source", {})
    settled = json.dumps({key: recorded[key] for key in ("depth", "registration") if key in recorded}, sort_keys=True)
    changed = (path / "clip.json").stat().st_mtime_ns if (path / "clip.json").exists() else 0
    return _kept(path, changed, max(clip.cameras.width, clip.cameras.height), settled if recorded else "")


class RegisteredRgbdReader:
    """`rgbd` media at the size of the clip's cameras; a `traces.media.MediaReader`."""

    def frames(self, clip: Clip) -> list[int]:
        """All of them."""
        return list(range(clip.num_frames))

    def image(self, clip: Clip, frame: int) -> UInt8[np.ndarray, "H W 3"]:
        """RGB of a clip frame."""
        source = _source(clip)
        return source.read_image(source_frame(clip, frame, len(source.files)))

    def depth(self, clip: Clip, frame: int) -> Float32[np.ndarray, "H W"] | None:
        """Registered metres of a clip frame, NaN where unknown; None if the folder has no usable depth."""
        source = _source(clip)
        return source.read_depth(source_frame(clip, frame, len(source.files)))


def install() -> None:
    """Use this reader for `rgbd` media from now on."""
    register_media_reader("rgbd", RegisteredRgbdReader())
