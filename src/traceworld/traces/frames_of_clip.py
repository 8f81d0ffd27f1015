"""The pictures and depth of a clip as if they were arrays over all frames, read one frame at a time."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float16, UInt8
from PIL import Image

from traceworld.errors import MediaError
from traceworld.traces.media import frames_with_pictures, read_depth, read_frame
from traceworld.traces.types import Clip


@runtime_checkable
class Frames(Protocol):
    """An array over frames, or what gives one frame at a time like one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[T, ...]."""
        ...

    def __getitem__(self, frame: Any, /) -> Any:
        """One frame."""
        ...


class ImageStack:
    """Pictures [T,H,W,3]; a frame without one shows the last one before (the first one there is, at the beginning).

    Raises:
        MediaError: the clip has no picture, or pictures of two sizes.
    """

    def __init__(self, clip: Clip):
        self.clip, self.frames = clip, frames_with_pictures(clip)
        if not self.frames:
            raise MediaError(
                "is stored without pictures", where=f"clip {clip.clip_id}", mend="extract it with its media"
            )
        height, width = read_frame(clip, self.frames[0]).shape[:2]
        self.size = (width, height)
        self.shape: tuple[int, ...] = (clip.num_frames, height, width, 3)

    def shown(self, frame: int) -> int:
        """The frame whose picture stands for this one."""
        return max((f for f in self.frames if f <= frame), default=self.frames[0])

    def __getitem__(self, frame: int) -> UInt8[np.ndarray, "H W 3"]:
        picture = read_frame(self.clip, self.shown(frame))
        if picture.shape != self.shape[1:]:
            raise MediaError(
                f"is {picture.shape[1]}×{picture.shape[0]}, others are {self.size[0]}×{self.size[1]}",
                where=f"clip {self.clip.clip_id}, frame {frame}",
                mend="resize the pictures",
            )
        return picture


class DepthStack:
    """Depth [T,H,W] float16 metres pixel for pixel with the pictures (nearest where sizes differ); 0 where unknown."""

    def __init__(self, clip: Clip, images: ImageStack):
        self.clip, self.images = clip, images
        self.shape: tuple[int, ...] = images.shape[:3]
        self.stored = read_depth(clip, images.frames[0]) is not None

    def __getitem__(self, frame: int) -> Float16[np.ndarray, "H W"]:
        depth = read_depth(self.clip, self.images.shown(frame)) if self.stored else None
        if depth is None:
            return np.zeros(self.shape[1:], np.float16)
        if depth.shape != self.shape[1:]:
            depth = np.asarray(Image.fromarray(depth).resize(self.images.size, Image.Resampling.NEAREST))
        known = np.isfinite(depth) & (depth < np.finfo(np.float16).max)
        return np.where(known, depth, 0).astype(np.float16)
