"""Parts of a job, and the mark that tells a mended input from the one that failed."""

import os

import pytest

from traceworld.errors import ConfigError
from traceworld.extract.shards import Part, input_mark


def test_every_item_is_in_exactly_one_part():
    names = [f"videos/{number}.mp4" for number in range(300)]
    held = [[part for part in range(7) if Part(part, 7).holds(name)] for name in names]
    assert all(len(parts) == 1 for parts in held)
    sizes = [sum(parts == [part] for parts in held) for part in range(7)]
    assert min(sizes) > 20  # about 43 each
    assert all(Part(0, 1).holds(name) for name in names)


def test_parts_are_written_as_i_of_n_from_zero():
    assert Part.parse("0/8") == Part(0, 8)
    assert Part.parse(" 7 / 8 ") == Part(7, 8)
    for text in ("8/8", "1", "a/b", "-1/4", "0/0", "1/2/3", ""):
        with pytest.raises(ConfigError, match=r"part|i/n"):
            Part.parse(text)


def test_the_mark_changes_when_an_input_does(tmp_path):
    file = tmp_path / "clip.mp4"
    assert input_mark(file) == ""
    file.write_bytes(b"abc")
    first = input_mark(file)
    assert first.startswith("1 3 ")
    assert input_mark(file) == first
    os.utime(file, ns=(1, 1))
    assert input_mark(file) == "1 3 1"
    folder = tmp_path / "frames"
    (folder / "color").mkdir(parents=True)
    assert input_mark(folder) == ""
    (folder / "color" / "0.png").write_bytes(b"12345")
    before = input_mark(folder)
    (folder / "color" / "1.png").write_bytes(b"1")
    assert input_mark(folder) != before
    assert input_mark(folder).startswith("2 6 ")
