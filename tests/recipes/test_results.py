"""The writer replaces exactly its section, and only if there is something to change."""

import pytest
from results import DOCUMENT, markdown_table, publish, read_section, write_section

from traceworld.errors import InvalidInputError

TEXT = """# Head

<!-- begin a -->
old a
<!-- end a -->
between
<!-- begin b -->
old b

with two lines
<!-- end b -->

tail without a line break at the end"""


@pytest.fixture
def document(tmp_path):
    path = tmp_path / "results.md"
    path.write_text(TEXT)
    return path


def test_exactly_the_section_is_replaced(document):
    assert write_section(document, "b", "\nnew b\n\n| x |\n")
    assert document.read_text() == TEXT.replace("old b\n\nwith two lines", "new b\n\n| x |")
    assert read_section(document, "a") == "old a"
    assert read_section(document, "b") == "new b\n\n| x |"


def test_the_same_text_again_changes_no_byte_and_touches_no_file(document):
    write_section(document, "a", "new")
    before = document.read_bytes(), document.stat().st_mtime_ns
    assert not write_section(document, "a", "new")
    assert not write_section(document, "a", "\n\nnew  \n")
    assert (document.read_bytes(), document.stat().st_mtime_ns) == before
    assert [path.name for path in document.parent.iterdir()] == ["results.md"]


def test_sections_can_be_written_in_any_order(document, tmp_path):
    other = tmp_path / "other.md"
    other.write_text(TEXT)
    for name in ("a", "b"):
        write_section(document, name, f"text of {name}")
    for name in ("b", "a"):
        write_section(other, name, f"text of {name}")
    assert document.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace("<!-- end a -->", ""),
        TEXT.replace("<!-- begin a -->", ""),
        TEXT + "\n<!-- begin a -->\n<!-- end a -->",
        TEXT.replace("begin a", "x").replace("end a", "begin a").replace("x", "end a"),
    ],
)
def test_a_document_without_exactly_one_such_section_is_left_alone(document, text):
    document.write_text(text)
    with pytest.raises(InvalidInputError, match="section 'a'"):
        write_section(document, "a", "new")
    assert document.read_text() == text


def test_a_text_with_marks_is_refused(document):
    with pytest.raises(InvalidInputError, match="mark"):
        write_section(document, "a", "x <!-- end b --> y")
    assert document.read_text() == TEXT


@pytest.mark.parametrize("name", ["fewshot", "scaling"])
def test_the_document_has_both_sections_with_a_command(name):
    text = read_section(DOCUMENT, name)
    assert f"python recipes/{name}.py " in text
    assert "Not run yet" in text or "|---|" in text.replace(" ", "").replace(":", "")


def test_markdown_tables_are_rectangular():
    lines = markdown_table(["a", "b", "c"], [["x", "1", "2"], ["y", "3", "4"]]).splitlines()
    assert {line.count("|") for line in lines} == {4}
    assert lines[1] == "| --- | ---: | ---: |"


def test_a_smoke_run_writes_a_copy(tmp_path):
    document, copy = tmp_path / "results.md", tmp_path / "copy.md"
    document.write_text("<!-- begin a -->\nold\n<!-- end a -->\n")
    assert publish(document, "a", "new", instead=copy)
    assert read_section(document, "a") == "old"
    assert read_section(copy, "a") == "new"
    assert publish(document, "a", "new")
    assert read_section(document, "a") == "new"
