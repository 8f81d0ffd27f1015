"""`traceworld eval forecast` from its words to JSON, Markdown and exit codes."""

import json
import sys
from pathlib import Path

import pytest

from traceworld.cli import main

sys.path.insert(0, str(Path(__file__).parents[1] / "traces"))
from trace_clips import write_dataset


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    write_dataset(folder / "corpus", clips=2, T=50, N=40, occluded=0.0)
    return write_dataset(folder / "clips", clips=2, T=60, N=40, occluded=0.0, pictures=range(0, 60, 4))


def test_several_entrants_json_and_markdown(store, tmp_path, capsys):
    corpus = store.parent / "corpus"
    words = ["eval", "forecast", "--data", str(store), "--models", f"nothing-moves,nearest-example:{corpus}"]
    words += ["--max-windows", "2", "--samples", "2", "--markdown", str(tmp_path / "table.md")]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"time", "arc"}
    assert {"nothing-moves", "constant-velocity", "nearest-example"} <= set(found["time"]["models"])
    text = (tmp_path / "table.md").read_text()
    assert text.count("Table 1, 3D") == 2
    assert "| nearest-example |" in text


def test_the_papers_protocol(store, capsys):
    words = ["eval", "forecast", "--data", str(store), "--model", "nothing-moves", "--protocol", "mu0-paper"]
    assert main([*words, "--step", "0.005", "--noise-seeds", "2", "--samples", "1"]) == 0
    shown = capsys.readouterr().out
    assert "mu0-paper: " in shown
    assert "minFrechet_1_uvz" in shown
    assert "over 2 noise seeds" in shown
    assert main([*words, "--max-clips", "1"]) == 2
    assert "fixed by the protocol" in capsys.readouterr().err


def test_unknown_entrants_are_named(store, capsys):
    assert main(["eval", "forecast", "--data", str(store), "--models", "mu0-nan"]) == 2
    assert "mu0-nano" in capsys.readouterr().err
