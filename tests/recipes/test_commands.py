"""Every recipe command that stands in a document or a recipe's docstring is one that the recipe takes."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import tyro

ROOT = Path(__file__).parents[2]
OPTIONS = {
    "mu0_nano": "Recipe",
    "tracegen_nano": "Recipe",
    "robotracer_nano": "Recipe",
    "fewshot": "FewShot",
    "scaling": "Scaling",
}
PLACES = [
    ROOT / "README.md",
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "recipes").glob("*.md"),
    *(ROOT / "recipes").glob("*.py"),
]
COMMANDS = sorted(
    {
        line.split("  #")[0].strip(" `")
        for place in PLACES
        for line in re.findall(rf"^ *(python recipes/(?:{'|'.join(OPTIONS)})\.py .*)$", place.read_text(), re.MULTILINE)
    }
)


def test_each_recipe_is_shown_with_a_command():
    assert {re.match(r"python recipes/(\w+)\.py", line)[1] for line in COMMANDS} == set(OPTIONS)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line):
    _, script, *arguments = shlex.split(line)
    name = Path(script).stem
    made = tyro.cli(getattr(importlib.import_module(name), OPTIONS[name]), args=arguments)
    assert made.out.name


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_explained(name):
    options = getattr(importlib.import_module(name), OPTIONS[name])
    for field in options.__dataclass_fields__:
        assert re.search(rf"\b{field}\b", options.__doc__), field
