"""A header that claims a vast picture is refused before memory is taken for it."""

import resource
import struct
import zlib
from pathlib import Path

import av
import numpy as np
import pytest

from traceworld.errors import MediaError
from traceworld.traces.media import open_depth, open_picture
from traceworld.traces.picture_size import MAX_PIXELS, check_picture_size
from traceworld.traces.video_frames import VideoFrames

SIDE = 9_000  # 81 million pixels: Pillow alone would only warn


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(path: Path, side: int, bits: int, colour: int) -> Path:
    header = struct.pack(">IIBBBBB", side, side, bits, colour, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")))
    return path


def test_the_limit_itself_is_allowed():
    check_picture_size(MAX_PIXELS // 8, 8, "here")
    with pytest.raises(MediaError, match="here"):
        check_picture_size(MAX_PIXELS // 8 + 1, 8, "here")


@pytest.mark.parametrize("read", [open_picture, lambda path: open_depth(path, 0.001)])
def test_pictures_of_a_clip_are_refused_by_their_header(tmp_path, read):
    path = png_of(tmp_path / "vast.png", SIDE, 16, 0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(MediaError, match=f"{SIDE}×{SIDE}.*million pixels"):
        read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB; the pixels would be 162 MB


def test_a_video_of_vast_frames_is_refused(tmp_path):
    path = tmp_path / "vast.gif"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("gif", rate=5)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "rgb8"
        for _ in range(2):
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="rgb8")))
        container.mux(stream.encode())
    assert VideoFrames(path).read(0).shape == (16, 16, 3)
    data = bytearray(path.read_bytes())
    data[6:10] = struct.pack("<HH", 12_000, 12_000)
    path.write_bytes(data)
    with pytest.raises(MediaError):
        VideoFrames(path).read(0)
