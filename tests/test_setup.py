"""Installing: pins, extras, and the helper that gets system packages."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)


def packages(path, *pairs):
    command = [sys.executable, str(ROOT / "tools" / "system_packages.py"), *pairs]
    return subprocess.run(command, capture_output=True, text=True, env={"PATH": str(path)})


def test_nothing_is_said_when_all_is_there(tmp_path):
    done = packages(tmp_path, "libc.so.6=libc6")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_is_missing_is_named_and_the_run_goes_on(tmp_path):
    done = packages(tmp_path, "libc.so.6=libc6", "libdoesnotexist.so.9=libdoesnotexist9", "noprogram=nopackage")
    assert done.returncode == 0
    assert "libdoesnotexist9 nopackage" in done.stderr
    assert "libc6" not in done.stderr


def test_every_requirement_is_pinned_for_the_makefile():
    extras = PROJECT["optional-dependencies"]
    (others,) = [
        re.findall(r"\w+", requirement)[1:] for requirement in extras["dev"] if requirement.startswith("traceworld[")
    ]
    wanted = [*PROJECT["dependencies"], *(r for extra in ("dev", *others) for r in extras[extra])]
    names = {re.split(r"[<>=\[]", requirement)[0] for requirement in wanted} - {"traceworld"}
    pinned = {name.lower().replace("_", "-") for name in PINS}
    assert {name.lower() for name in names} <= pinned


def test_torch_is_open_above_and_pinned_here():
    assert "torch>=2.7" in PROJECT["dependencies"]
    assert PINS["torch"] == "2.13.0"


def test_every_optional_module_names_an_extra_that_exists():
    from traceworld.extras import EXTRA_OF

    assert set(EXTRA_OF.values()) <= set(PROJECT["optional-dependencies"])


def test_packaged_files_are_declared():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["traceworld"]
    assert {"py.typed", "models/weights/*/*", "viewer/assets/*"} <= set(data)
