"""docs/robots.md as it stands: demonstrations, a policy, a server, and the code that drives the robot."""

import os
import re
import shlex
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

GUIDE = (Path(__file__).parent.parent / "docs" / "robots.md").read_text()
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", GUIDE, re.DOTALL) for line in block.splitlines()]
CODE = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


@contextmanager
def serving(words, folder):
    """The port of a server that a command starts."""
    process = subprocess.Popen(
        [sys.executable, "-m", "traceworld.cli", *words, "--port", "0", "--json"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield re.search(r":(\d+)", line.partition("//")[2])[1]
    finally:
        process.terminate()
        process.communicate(timeout=60)


def finished(words):
    """What a command says to people, when it is done."""
    run = subprocess.run(
        [sys.executable, "-m", "traceworld.cli", *words],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert run.returncode == 0, f"{words}\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}"
    return run.stderr


@pytest.mark.render
@pytest.mark.timeout(600)
def test_the_guide_runs_in_its_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    demonstrations, train, serve, rollout = [shlex.split(line)[1:] for line in COMMANDS]
    finished(demonstrations)
    assert "not read" not in finished(train)  # all cameras of the dataset are read
    over_a_socket, in_one_process = CODE
    names = {}
    with serving(serve, tmp_path) as port:
        finished([word.replace("8000", port) for word in rollout])
        assert over_a_socket.count("8000") == 1
        exec(compile(over_a_socket.replace("8000", port), "robots.md", "exec"), names)
    said = capsys.readouterr().out
    assert "steps without an action" in said, said
    assert said.count("\n") == 1  # no error was printed
    assert 0 < names["player"].stayed < 200
    exec(compile(in_one_process, "robots.md", "exec"), names)
    assert names["player"].delays
