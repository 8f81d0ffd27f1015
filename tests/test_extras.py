"""Optional packages: whatever the source may ask for, the message names an extra that brings it, by the name pip knows."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest

import traceworld
from traceworld.errors import MissingExtraError
from traceworld.extras import EXTRA_OF, OWN_PACKAGES, package_of, require

ROOT = Path(__file__).parents[1]
SRC = Path(traceworld.__file__).parent
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def plain(requirement: str) -> str:
    """The package of a requirement, as pip compares names."""
    return re.split(r"[\s<>=!~;\[(]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def brought_by(extra: str) -> set[str]:
    """Packages that an extra names, and those that these cannot do without (where they are installed)."""
    found = {plain(requirement) for requirement in EXTRAS[extra]}
    for package in sorted(found):
        try:
            needed = importlib.metadata.requires(package) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found |= {plain(requirement) for requirement in needed if "extra ==" not in requirement}
    return found


def asked_for() -> dict[str, str]:
    """Module → file, of every `require("…")` in the source."""
    found = {}
    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "require"):
                continue
            if node.args and isinstance(node.args[0], ast.Constant):
                found[node.args[0].value] = str(path.relative_to(SRC))
    return found


def test_the_search_sees_what_is_asked_for():
    found = asked_for()
    assert {"mujoco", "yaml", "websockets.asyncio.server", "torch.utils.tensorboard", "huggingface_hub"} <= set(found)


@pytest.mark.parametrize("module", sorted(asked_for()))
def test_every_module_that_is_asked_for_comes_with_an_extra(module):
    if module in OWN_PACKAGES:
        assert (ROOT / OWN_PACKAGES[module] / "pyproject.toml").is_file()
        return
    needed = "tensorboard" if module == "torch.utils.tensorboard" else module.split(".")[0]
    assert needed in EXTRA_OF, f"{asked_for()[module]} requires {module}: say in extras.py which extra brings it"


@pytest.mark.parametrize("module", sorted(EXTRA_OF))
def test_the_extra_brings_the_package_of_the_module(module):
    assert plain(package_of(module)) in brought_by(EXTRA_OF[module])


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("yaml", "pyyaml", "sim"),
        ("websockets.exceptions", "websockets", "serve"),
        ("torch.utils.tensorboard", "tensorboard", "logging"),
        ("prometheus_client", "prometheus-client", "serve"),
    ],
)
def test_what_is_missing_is_said_by_its_package_and_extra(module, package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)  # importing it is an error now
    with pytest.raises(MissingExtraError, match=f"'{package}' is needed") as caught:
        require(module)
    assert caught.value.mend == f"pip install 'traceworld[{extra}]'"


def test_a_package_of_no_extra_is_asked_for_by_itself():
    with pytest.raises(MissingExtraError) as caught:
        require("no_such_module.inner")
    assert caught.value.mend == "pip install no_such_module"


def test_installed_modules_are_packages_of_that_name():
    """A wrong name would send people to somebody else's package."""
    owners = importlib.metadata.packages_distributions()
    for module in EXTRA_OF:
        if module in owners:
            assert plain(package_of(module)) in {plain(name) for name in owners[module]}
