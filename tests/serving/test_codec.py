"""The codec: what openpi's client writes is read, and nothing that is sent can cost more than it may."""

import contextlib
import struct

import hypothesis.strategies as st
import msgpack
import numpy as np
import pytest
from hypothesis import given, settings

from traceworld.errors import InvalidInputError
from traceworld.serving.codec import CodecLimits, pack, unpack


def as_openpi_writes(value):
    """The wire format by its description (reference/ecosystem.md §4.1), written down a second time."""

    def default(item):
        if isinstance(item, np.ndarray):
            return {b"__ndarray__": True, b"data": item.tobytes(), b"dtype": item.dtype.str, b"shape": item.shape}
        return {b"__npgeneric__": True, b"data": item.item(), b"dtype": item.dtype.str}

    return msgpack.packb(value, default=default)


DTYPES = ("?", "i1", "u1", "<i2", ">i2", "<u4", "<i8", "<f2", "<f4", ">f4", "<f8")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3, 4)])
def test_arrays_travel_both_ways_in_openpis_bytes(dtype, shape):
    array = np.asarray(np.random.default_rng(0).random(shape) * 100).astype(dtype)
    assert pack({"a": array}) == as_openpi_writes({"a": array})
    back = unpack(as_openpi_writes({"a": array}))["a"]
    assert back.dtype == array.dtype
    assert back.shape == shape
    assert np.array_equal(back, array)
    assert not back.flags.writeable


def test_arrays_that_are_not_in_c_order_keep_their_places():
    array = np.asfortranarray(np.arange(12.0).reshape(3, 4))[:, ::2]
    assert np.array_equal(unpack(pack(array)), array)


@pytest.mark.parametrize("scalar", [np.float32(0.5), np.int64(-3), np.bool_(True), np.uint8(255), np.float16(2)])
def test_scalars_keep_their_type(scalar):
    back = unpack(as_openpi_writes({"s": scalar}))["s"]
    assert back == scalar
    assert back.dtype == scalar.dtype
    assert pack({"s": scalar}) == as_openpi_writes({"s": scalar})


def test_plain_values_and_texts_travel():
    value = {"prompt": "öffne die Schublade", "n": None, "on": True, "list": [1, -2.5, {"x": "y"}], "b": b"raw"}
    assert unpack(pack(value)) == value
    assert unpack(pack({"p": np.asarray("text")}))["p"].item() == "text"


@pytest.mark.parametrize(
    "value",
    [
        np.array([object()]),
        np.zeros(2, complex),
        np.zeros(2, "i4,f4"),
        np.array(["2020"], "M8[Y]"),
        {1, 2},
        object(),
        2**70,
    ],
)
def test_what_must_not_travel_is_refused_before_it_is_sent(value):
    with pytest.raises(InvalidInputError):
        pack({"a": value})


def array_map(**changes):
    value = {b"__ndarray__": True, b"data": bytes(24), b"dtype": "<f4", b"shape": [2, 3]} | changes
    return msgpack.packb({k if isinstance(k, bytes) else k.encode(): v for k, v in value.items()})


@pytest.mark.parametrize(
    "message",
    [
        array_map(dtype="|O"),
        array_map(dtype="<c8"),
        array_map(dtype="|V4"),
        array_map(dtype="f4"),
        array_map(dtype="<M8[s]"),
        array_map(dtype="i4,i4"),
        array_map(dtype=7),
        array_map(dtype="<U0"),
        array_map(dtype="<U99999"),
        array_map(shape=[2, 4]),
        array_map(shape=[-2, -3]),
        array_map(shape=[2**62, 2**62]),
        array_map(shape=[0, 2**40]),
        array_map(shape=[6.0]),
        array_map(shape=[True] * 2),
        array_map(shape=[1] * 9 + [6]),
        array_map(shape=6),
        array_map(data="text"),
        array_map(data=[0] * 24),
        msgpack.packb({b"__ndarray__": True}),
        msgpack.packb({b"__npgeneric__": True, b"data": 300, b"dtype": "|u1"}),
        msgpack.packb({b"__npgeneric__": True, b"data": "x", b"dtype": "<f4"}),
        msgpack.packb({b"__npgeneric__": True, b"data": [1], b"dtype": "<f4"}),
        msgpack.packb({b"__npgeneric__": True, b"data": 1, b"dtype": "|O"}),
    ],
)
def test_arrays_that_lie_about_themselves_are_refused(message):
    with pytest.raises(InvalidInputError):
        unpack(message)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xc1",
        b"\x81\xa1a",  # ends early
        b"\x90\x90",  # goes on after the end
        b"\x82\xa1a\x01\xa1a\x02",  # a key twice
        b"\x81\x01\x02",  # a number for a key
        b"\xa2\xff\xfe",  # text that is not UTF-8
        msgpack.packb(msgpack.ExtType(5, b"1234")),
        msgpack.packb(msgpack.Timestamp(1)),
        b"\xdd\xff\xff\xff\xff",  # says four billion entries
        b"\xc6\xff\xff\xff\xff",  # says four gigabytes
        b"\xdb\xff\xff\xff\xffabc",
    ],
)
def test_what_is_not_a_message_is_refused(message):
    with pytest.raises(InvalidInputError, match="message"):
        unpack(message)


def test_limits_hold():
    limits = CodecLimits(max_bytes=2000, max_entries=20, max_depth=3, max_text=10)
    assert unpack(pack([[[1]]]), limits) == [[[1]]]
    for value, what in (
        (bytes(3000), "bytes"),
        (list(range(21)), "readable"),
        ([[1] * 8, [2] * 8, [3] * 8], "entries"),
        ([[[[1]]]], "deeply"),
        ({"a": {"b": {"c": {}}}}, "deeply"),
        ("x" * 41, "readable"),
    ):
        with pytest.raises(InvalidInputError, match=what):
            unpack(pack(value), limits)


@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1a"])
def test_a_very_deep_message_is_refused_without_harm(opening):
    with pytest.raises(InvalidInputError):
        unpack(opening * 200_000 + b"\xc0")


def test_a_small_message_cannot_take_much_memory():
    import tracemalloc

    bomb = b"\xdc\xff\xff" + b"\x90" * 65535  # 65 kB of empty lists: 4 MB of Python
    nested = b"\xdc\x10\x00" * 2000
    tracemalloc.start()
    for message in (bomb, nested):
        with pytest.raises(InvalidInputError):
            unpack(message)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_never_do_anything_but_refuse(data):
    with contextlib.suppress(InvalidInputError):
        unpack(data)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_message_is_read_or_refused(data):
    message = bytearray(as_openpi_writes({"image": np.zeros((4, 4, 3), np.uint8), "s": np.float32(1), "p": "text"}))
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InvalidInputError):
        unpack(bytes(message[: data.draw(st.integers(0, len(message)))]))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("code", [0xFFFFFFFF, 0x110000, 0xD800, 0xDFFF])
def test_text_arrays_of_what_is_no_letter_are_refused(order, code):
    good = array_map(dtype=f"{order}U3", data=struct.pack(f"{order}3I", 0x41, 0x1F600, 0x10FFFF), shape=[])
    assert unpack(good).item() == "A\U0001f600\U0010ffff"
    with pytest.raises(InvalidInputError, match="no letter"):
        unpack(array_map(dtype=f"{order}U3", data=struct.pack(f"{order}3I", 0x41, code, 0x42), shape=[]))
