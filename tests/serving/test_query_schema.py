"""Requests of any kind: each is read, or refused in words; nothing else may be raised."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from traceworld.errors import InvalidInputError
from traceworld.serving.query_files import SharedFolder
from traceworld.serving.query_schema import Query, QueryRequest, read_query

rng = np.random.default_rng(0)


def png(array, kind="PNG"):
    data = io.BytesIO()
    Image.fromarray(array).save(data, kind)
    return data.getvalue()


PICTURE = png(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
DEPTH = png(rng.integers(0, 3000, (6, 8), dtype=np.uint16))


def text(data):
    return base64.b64encode(data).decode()


def odd(draw):
    """A value of a kind that no field expects, or nearly expects."""
    values = (
        None, True, -1, 2**70, 1e308, float("nan"), "", "x", "\0", "é" * 50, [], [[]], {}, {"a": 1}, [None], [1, 2], "A===",
        text(PICTURE), text(DEPTH), text(PICTURE[: draw.integers(1, len(PICTURE))]), [text(DEPTH)], [text(PICTURE)],
        [text(draw.bytes(30))], [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]], [[1.0, 2, 3]] * 3, [[0] * 4] * 4, ["/etc/passwd"], ["../x"],
    )  # fmt: skip
    return values[draw.integers(len(values))]


def test_whatever_is_sent_is_read_or_refused(tmp_path):
    draw, folder = np.random.default_rng(1), SharedFolder(tmp_path, 1000)
    fields = list(QueryRequest.model_fields)
    read = 0
    for _ in range(3000):
        body = {"text": "Where?", "image_url": [text(PICTURE)]}
        for name in draw.choice(fields, draw.integers(0, 4), replace=False):
            body[str(name)] = odd(draw)
        try:
            query = read_query(QueryRequest.model_validate(body), folder)
        except (InvalidInputError, ValidationError):
            continue
        read += 1
        assert isinstance(query, Query)
        assert query.image.shape == (6, 8, 3)
        assert query.depth_m is None or query.depth_m.shape == (6, 8)
        assert query.K is None or (np.isfinite(query.K).all() and query.K[0, 0] > 0)
    assert 100 < read < 2900


def test_pictures_may_be_jpeg_or_data_urls():
    picture = np.full((6, 8, 3), 90, np.uint8)
    for data in (text(png(picture, "JPEG")), f"data:image/png;base64,{text(png(picture))}"):
        query = read_query(QueryRequest(text="?", image_url=[data]), SharedFolder(None, 1))
        assert np.abs(query.image.astype(int) - 90).max() <= 2


def test_a_bomb_is_refused_before_it_is_decoded():
    wide = io.BytesIO()
    Image.new("1", (5000, 10)).save(wide, "PNG")
    with pytest.raises(InvalidInputError, match="5000×10"):
        read_query(QueryRequest(text="?", image_url=[text(wide.getvalue())]), SharedFolder(None, 1))
