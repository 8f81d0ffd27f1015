"""docs/fidelity.md holds: every path, name, test and constant that it states is there."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "fidelity.md").read_text()
TOKENS = sorted({token for token in re.findall(r"`([^`\n]+)`", PAGE) if ".py" in token})
CONSTANTS = re.findall(r"^\|[^|]+\|[^|]+\| `([^`]+)` \| `([\w/.]+\.py):([\w.]+)` \|$", PAGE, re.MULTILINE)
FORM = re.compile(r"(?P<path>[\w/]+\.py)(?:::(?P<test>test_\w+)|:(?P<name>\w+(?:\.\w+)*))?")


def find(path: str) -> Path:
    """Paths are below src/traceworld/ or tests/, or the repository's own."""
    places = [root / path for root in (ROOT / "src" / "traceworld", ROOT / "tests", ROOT)]
    found = [place for place in places if place.is_file()]
    assert found, f"{path} does not exist"
    return found[0]


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def member(node: ast.AST, name: str) -> ast.AST | None:
    """The definition of `name` directly inside `node`: function, class, variable, field, or argument default."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        arguments = node.args
        positional = [*arguments.posonlyargs, *arguments.args]
        defaults = dict(zip([a.arg for a in positional[::-1]], arguments.defaults[::-1], strict=False))
        defaults |= {
            a.arg: d for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d is not None
        }
        return defaults.get(name)
    for child in getattr(node, "body", []):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and child.name == name:
            return child
        targets = child.targets if isinstance(child, ast.Assign) else [getattr(child, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return child.value
    return None


def lookup(path: str, dotted: str) -> ast.AST:
    node: ast.AST | None = tree_of(find(path))
    for name in dotted.split("."):
        node = member(node, name) if node is not None else None
    assert node is not None, f"{path} has no {dotted}"
    return node


def test_the_page_is_read():
    assert len(TOKENS) > 150
    assert sum("::" in token for token in TOKENS) > 90
    assert len(CONSTANTS) > 45
    assert len(CONSTANTS) == len(re.findall(r"^\|", PAGE.split("## Constants")[1].split("\n## ")[0], re.MULTILINE)) - 2


def test_everything_it_points_to_exists():
    wrong = []
    for token in TOKENS:
        match = FORM.fullmatch(token.removeprefix("src/traceworld/").removeprefix("tests/"))
        try:
            assert match, f"{token} is not path.py, path.py:name or path.py::test"
            if match["test"] or match["name"]:
                lookup(match["path"], match["test"] or match["name"])
            find(match["path"])
        except AssertionError as error:
            wrong.append(str(error).splitlines()[0])
    assert wrong == []


@pytest.mark.parametrize(("stated", "path", "dotted"), CONSTANTS)
def test_constants_are_what_it_says(stated, path, dotted):
    assert ast.unparse(lookup(path, dotted)) == ast.unparse(ast.parse(stated, mode="eval").body)


def test_references_to_differences_lead_somewhere():
    entries = [int(n) for n in re.findall(r"^(\d+)\. \*\*", PAGE, re.MULTILINE)]
    assert entries == list(range(1, len(entries) + 1))
    cited = [
        int(n)
        for row in re.findall(r"\|([^|\n]*differs[^|\n]*)\|$", PAGE, re.MULTILINE)
        for n in re.findall(r"\d+", row)
    ]
    assert cited
    assert set(cited) <= set(entries)
