"""Pictures and depth into the forms that LeRobot stores: PNG or JPEG bytes, TIFF depth, mp4 video."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from jaxtyping import Float, UInt8, UInt16
from PIL import Image

from traceworld.errors import ConfigError, InvalidInputError, MediaError
from traceworld.traces.lerobot.layout import Feature
from traceworld.traces.lerobot.videos import DEPTH_DEFAULTS

Codec = Literal["h264", "av1"]
_ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "h264": ("libx264", {"crf": "20", "preset": "medium", "bf": "0"}),
    "av1": ("libsvtav1", {"crf": "30", "preset": "10"}),
    "hevc": ("libx265", {"x265-params": "lossless=1:log-level=error", "preset": "medium", "bf": "0"}),
}
GOP = 2
"""Every second frame stands alone: LeRobot's choice, which makes reading single frames quick."""


def png_bytes(image: UInt8[np.ndarray, "H W 3"] | UInt16[np.ndarray, "H W"]) -> bytes:
    """RGB, or one channel of 16 bits. Lossless; equal pictures give equal bytes."""
    return _saved(Image.fromarray(image), format="PNG", compress_level=6)


def jpeg_bytes(image: UInt8[np.ndarray, "H W 3"], quality: int = 95) -> bytes:
    return _saved(Image.fromarray(image), format="JPEG", quality=quality)


def tiff_bytes(depth: np.ndarray) -> bytes:
    """A depth map [H,W], uint16 or float32, in its own unit."""
    return _saved(Image.fromarray(depth), format="TIFF")


def millimetres(depth_m: Float[np.ndarray, "H W"]) -> UInt16[np.ndarray, "H W"]:
    """Metres as a LeRobot depth image stores them: whole millimetres, 0 where nothing is known or it is beyond 65.5 m."""
    steps = np.nan_to_num(np.rint(depth_m.astype(np.float64) * 1000.0), nan=0.0)
    return np.where((steps > 0) & (steps <= 65535), steps, 0).astype(np.uint16)


def depth_feature(key: str, shape: tuple[int, int], fps: float | int, video: bool) -> Feature:
    """A depth feature of (height, width): 12-bit video, or 16-bit images in millimetres (`millimetres`)."""
    names = ["height", "width", "channels"]
    if video:
        info = video_info((shape[1], shape[0]), fps, "hevc", DEPTH_DEFAULTS)
        return Feature(key, "video", (*shape, 1), names, info)
    return Feature(key, "image", (*shape, 1), names, {"is_depth_map": True, "depth_unit": "mm"})


def _saved(picture: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    return buffer.getvalue()


def write_video(
    path: Path, frames: Iterable[np.ndarray], fps: float | int, size: tuple[int, int], codec: str, depth: bool = False
) -> int:
    """Encode frames to an mp4 file whose frame n is shown at n / fps. Same frames, same bytes (h264, one thread).

    Args:
        path: the file.
        frames: RGB uint8 [H,W,3], or with `depth` 12-bit levels uint16 [H,W].
        size: width, height in pixels.
        codec: `h264` or `av1`; `hevc` for depth.

    Returns:
        The number of frames written.

    Raises:
        InvalidInputError: a frame has another size.
        ConfigError: this build of PyAV has no such encoder.
        MediaError: the encoder failed.
    """
    name, options = _ENCODERS[codec]
    rate, count = Fraction(fps).limit_denominator(100_000), 0
    try:
        with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
            stream: Any = container.add_stream(name, rate=rate, options={**options, "g": str(GOP)})
            stream.width, stream.height = size
            stream.pix_fmt = _pixel_format(size, codec, depth)
            stream.codec_context.thread_count = 1
            stream.codec_context.time_base = 1 / rate
            for count, picture in enumerate(frames, 1):
                if picture.shape[:2] != (size[1], size[0]):
                    raise InvalidInputError(
                        f"is {picture.shape[1]}×{picture.shape[0]}, not {size[0]}×{size[1]}",
                        where=f"{path.parent.parent.name}, frame {count - 1}",
                        mend="all pictures of a feature must have one size",
                    )
                frame = av.VideoFrame.from_ndarray(picture, format="gray12le" if depth else "rgb24")
                frame.pts, frame.time_base = count - 1, 1 / rate
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    except av.error.FFmpegError as error:
        if count == 0:
            raise ConfigError(f"the encoder {name} cannot be used: {error}", where=f"codec '{codec}'") from error
        raise MediaError(f"cannot be encoded: {error}", where=str(path)) from error
    return count


def _pixel_format(size: tuple[int, int], codec: str, depth: bool) -> str:
    if depth:
        return "gray12le"
    # 4:2:0 halves the colour planes, which odd sides do not allow.
    return "yuv420p" if codec == "av1" or (size[0] % 2 == 0 and size[1] % 2 == 0) else "yuv444p"


def video_info(
    size: tuple[int, int], fps: float | int, codec: str, depth_range: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The facts about a video feature that LeRobot keeps in its `info`."""
    depth = depth_range is not None
    canonical = "hevc" if depth else codec
    facts: dict[str, Any] = {
        "video.height": size[1],
        "video.width": size[0],
        "video.codec": canonical,
        "video.pix_fmt": _pixel_format(size, canonical, depth),
        "video.fps": round(fps),
        "video.channels": 1 if depth else 3,
        "video.g": GOP,
        "has_audio": False,
        "is_depth_map": depth,
    }
    return facts | {f"video.{name}": value for name, value in (depth_range or {}).items()}
