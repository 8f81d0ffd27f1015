"""`traceworld tracespatial`: build, report, check and bench over the command line."""

import json

import pytest

from traceworld.cli import main


def run(capsys, *words):
    code = main(["tracespatial", *map(str, words)])
    return code, capsys.readouterr()


@pytest.mark.render
def test_build_report_check_and_bench(capsys, tmp_path):
    data, options = tmp_path / "d", ("--questions", 40, "--seed", 3, "--proposals", 4)
    code, said = run(capsys, "build", "--source", "sim", "--out", data, *options, "--json")
    assert code == 0
    assert json.loads(said.out)["questions"] == 40
    code, said = run(capsys, "report", data, "--json")
    figures = json.loads(said.out)
    assert (code, figures["questions"], figures["duplicates"], figures["faults"]) == (0, 40, 0, {})
    code, said = run(capsys, "report", data)
    assert code == 0
    assert "families" in said.out
    code, said = run(capsys, "check", "--data", data, "--seed", 3, "--json")
    assert (code, json.loads(said.out)["wrong"]) == (0, 0)
    # Built with seed 3, so its scenes are not those of seed 4: nothing can be right there.
    records = json.loads((data / "train.json").read_text())
    records[0]["conversations"][1]["value"] += " Or not."
    records[0]["provenance"]["scene"] = "0"
    (data / "train.json").write_text(json.dumps(records))
    code, said = run(capsys, "check", "--data", data, "--seed", 3, "--json")
    assert (code, json.loads(said.out)["wrong"]) == (1, 1)
    code, said = run(capsys, "bench", "--out", tmp_path / "b", "--scenes", 2, "--json")
    assert code == 0
    assert json.loads(said.out)["questions"] == 2
    assert (tmp_path / "b" / "trajectory_dataset.json").is_file()


@pytest.mark.parametrize("source", ["ca1m", "video", "web", "clips"])
def test_a_source_of_files_needs_its_folder(capsys, tmp_path, source):
    code, said = run(capsys, "build", "--source", source, "--out", tmp_path / "d")
    assert code == 2
    assert "--input" in said.err


def test_a_report_of_nothing(capsys, tmp_path):
    code, said = run(capsys, "report", tmp_path)
    assert code == 1
    assert "tracespatial build" in said.err.replace("\n", " ")
