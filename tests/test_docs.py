"""Every command in the documents runs: those of the README in their order, the others are at least parsed."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tyro
from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes

from traceworld.cli import Command

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "recipes").glob("*.md"))]


def commands(document: Path) -> list[str]:
    """Lines of the ```bash blocks, continuation lines joined, comments left out."""
    blocks = re.findall(r"```bash\n(.*?)```", document.read_text(), re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


ALL = [(document.name, line) for document in DOCUMENTS for line in commands(document)]


def test_the_documents_have_commands():
    assert sum(line.startswith("traceworld ") for _, line in ALL) >= 8


@pytest.mark.parametrize(("document", "line"), [(d, c) for d, c in ALL if c.startswith("traceworld ")])
def test_traceworld_commands_parse(document, line):
    tyro.cli(Command, args=shlex.split(line)[1:], config=(OmitArgPrefixes, OmitSubcommandPrefixes))


@pytest.mark.parametrize(("document", "line"), [(d, c) for d, c in ALL if c.startswith("make ")])
def test_make_targets_exist(document, line):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    words = [word for word in shlex.split(line)[1:] if "=" not in word]
    assert set(words) <= targets


def test_every_other_command_is_known():
    known = ("traceworld ", "make ", "git clone", "cd ", "python recipes/", "python benchmarks/", "pip install")
    assert [line for _, line in ALL if not line.startswith(known)] == []


@pytest.mark.render
@pytest.mark.timeout(600)
def test_the_readme_runs_in_its_order(tmp_path):
    lines = [c for c in commands(ROOT / "README.md") if c.startswith("traceworld ")]
    for line in lines:
        words = shlex.split(line)[1:]
        if words[0] == "view":  # a server: tests/viewer drives it
            continue
        run = subprocess.run(
            [sys.executable, "-m", "traceworld.cli", *words], cwd=tmp_path, capture_output=True, text=True
        )
        assert run.returncode == 0, f"{line}\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}"


def test_links_inside_the_repository_lead_somewhere():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} → {target}"
