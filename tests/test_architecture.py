"""The house has one direction: a room imports only rooms above it. And importing the house is quick and light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import traceworld

SRC = Path(traceworld.__file__).parent
ROOMS = [
    "geometry", "traces", "perception", "extract", "sim", "tracespatial", "models", "policies",
    "training", "evaluation", "serving", "viewer",
]  # fmt: skip
EVERYWHERE = {"errors", "extras", "named"}
COMPAT = {"official", "compat"}
ON_TOP = {"cli", "commands", "demo", "doctor"}  # compose all rooms; no room may import them


def imported_names(path: Path) -> set[str]:
    """The first part below `traceworld` of every import in a file, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "traceworld":
                found |= {f"traceworld.{alias.name}" for alias in node.names}
            elif node.module:
                found.add(node.module)
    return {name.split(".")[1] for name in found if name.startswith("traceworld.")}


def files_of(room: str) -> list[Path]:
    return sorted((SRC / room).rglob("*.py"))


@pytest.mark.parametrize("room", [room for room in ROOMS if (SRC / room).is_dir()])
def test_a_room_imports_only_rooms_above_it(room):
    allowed = set(ROOMS[: ROOMS.index(room) + 1]) | EVERYWHERE
    assert files_of(room)
    for path in files_of(room):
        below = imported_names(path) & (set(ROOMS) | ON_TOP) - allowed
        assert not below, f"{path.relative_to(SRC)} imports {sorted(below)}, which lie below '{room}'"


def module_imports() -> dict[str, set[str]]:
    """Module → modules of the house that it imports, in functions and for types too."""
    modules = {
        ".".join(("traceworld", *path.relative_to(SRC).with_suffix("").parts)): path for path in SRC.rglob("*.py")
    }
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                parts = {f"{node.module}.{alias.name}" for alias in node.names} & modules.keys()
                found |= parts or {node.module}
        graph[name] = (found & modules.keys()) - {name}
    return graph


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """Groups of modules that import each other, directly or through others."""
    reach = {}
    for start in graph:
        todo, seen = list(graph[start]), set()
        while todo:
            if (name := todo.pop()) not in seen:
                seen.add(name)
                todo += graph[name]
        reach[start] = seen
    groups = {
        frozenset(other for other in reach[name] if name in reach[other]) for name in graph if name in reach[name]
    }
    return groups


def test_no_modules_import_each_other_in_a_circle():
    """Only a compat mode may point back: the default path asks it, in one line, what differs."""
    wrong = {group for group in circles(module_imports()) if not any(COMPAT & set(n.split(".")) for n in group)}
    assert not wrong, [sorted(group) for group in wrong]


def test_the_rule_against_circles_sees_one():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}
    assert circles(graph) == {frozenset("abc")}
    assert not circles({"a": {"b"}, "b": {"c"}, "c": set()})


def test_every_folder_is_a_known_room():
    folders = {path.parent.relative_to(SRC).parts[0] for path in SRC.rglob("*.py") if path.parent != SRC}
    assert folders <= {*ROOMS, "commands"}


def test_the_rule_sees_a_breach(tmp_path):
    breach = tmp_path / "breach.py"
    breach.write_text("def f():\n    from traceworld.viewer import report\n    import traceworld.models.mu0\n")
    assert imported_names(breach) == {"viewer", "models"}


@pytest.mark.parametrize("forbidden", ["torchvision", "torchcodec", "decord", "pickle"])
def test_forbidden_packages_are_imported_nowhere(forbidden):
    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == forbidden for name in names), f"{path} imports {forbidden}"


def test_files_fit_in_one_reading():
    long = {
        str(path.relative_to(SRC)): n for path in SRC.rglob("*.py") if (n := len(path.read_text().splitlines())) > 600
    }
    assert not long


def test_base_import_is_light():
    code = "import sys, traceworld, traceworld.traces.types; print(','.join(m for m in ('torch','cv2','transformers','mujoco','plotly','viser') if m in sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == ""


def test_no_prints_in_the_library():
    for path in SRC.rglob("*.py"):
        if path.name in {"cli.py"}:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            is_print = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            assert not is_print, f"{path}:{node.lineno} prints"
