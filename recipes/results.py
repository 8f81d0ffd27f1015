"""Generated sections of a document: what stands between the two marks of a section is replaced, all else stays as it is.

<!-- begin fewshot -->
…
<!-- end fewshot -->
"""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from stages import write

from traceworld.errors import InvalidInputError

DOCUMENT = Path(__file__).parent.parent / "docs" / "results.md"


def write_section(document: Path, name: str, text: str) -> bool:
    """Put `text` between the marks of section `name`. Returns whether the document changed.

    Raises:
        InvalidInputError: the document has not exactly one such section, or the text holds a mark itself.
    """
    before, _, after = parts_of(document, name)
    if "<!-- begin " in text or "<!-- end " in text:
        raise InvalidInputError("holds a mark of a section", where=f"text of section {name}")
    now = f"{before}\n{text.strip()}\n{after}"
    if now == document.read_text():
        return False
    write(document, now)
    return True


def publish(document: Path, name: str, text: str, *, instead: Path | None = None) -> bool:
    """As `write_section`; with `instead`, into a copy of the document there, which stays as it is."""
    if instead is not None:
        shutil.copyfile(document, instead)
        document = instead
    return write_section(document, name, text)


def read_section(document: Path, name: str) -> str:
    """What stands between the marks of section `name`, without the line breaks around it."""
    return parts_of(document, name)[1].strip()


def parts_of(document: Path, name: str) -> tuple[str, str, str]:
    """The document up to and with the first mark of a section, what is between, and from the second mark on."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    text = document.read_text()
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise InvalidInputError(
            f"has not exactly one section '{name}'", where=str(document), mend=f"give it the lines {begin} and {end}"
        )
    first, second = text.index(begin) + len(begin), text.index(end)
    return text[:first], text[first:second], text[second:]


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table: first column to the left, the others to the right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def command(recipe: str) -> str:
    """How this study was asked for."""
    return shlex.join(["python", f"recipes/{recipe}.py", *sys.argv[1:]])
