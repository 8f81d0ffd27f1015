"""How large a picture may claim to be: a header of a few bytes can name any size, and memory is taken by what it says."""

from __future__ import annotations

from traceworld.errors import MediaError

MAX_PIXELS = 2**26
"""Pixels of a picture, as its header states them, above which nothing is decoded: twice 8K."""

DECODING = {"max_pixels": str(MAX_PIXELS)}
"""The same limit as FFmpeg's decoders take it; a container must be given it too, and passes it on to none of them."""


def check_picture_size(width: int, height: int, where: str) -> None:
    """Refuse a picture by the size in its header, before memory is taken for it.

    Raises:
        MediaError: it has more than `MAX_PIXELS`.
    """
    if width * height > MAX_PIXELS:
        raise MediaError(
            f"states a size of {width}×{height}, more than {MAX_PIXELS / 1e6:.0f} million pixels",
            where=where,
            mend="scale it down; if the size is not true, the header is damaged",
        )
