"""`traceworld rollout` and `traceworld sim demos`, from the command line to what is printed and written."""

import json

import pytest

from traceworld.cli import main

pytest.importorskip("metaworld")

FEW = ["--max-steps", "4", "--image-size", "32", "24", "--episodes", "2", "--cameras", "corner2"]


@pytest.mark.render
def test_rollout_counts_writes_and_goes_on(tmp_path, capsys):
    words = tmp_path / "words.json"
    words.write_text('{"reach-v3": "Reach it"}')
    command = ["rollout", "--policy", "random", "--env", "metaworld:reach", "--out", str(tmp_path / "run"), *FEW]
    command += ["--instructions", str(words), "--json"]
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["overall"]["episodes"] == 2
    assert report["overall"]["successes"] == 0
    assert report["by_task"]["metaworld:reach-v3"]["interval95"][0] == 0
    assert json.loads((tmp_path / "run" / "results.json").read_text())["policy"] == "random"
    assert "random on metaworld:reach" in (tmp_path / "run" / "results.md").read_text()
    records = (tmp_path / "run" / "episodes.jsonl").read_bytes()
    assert main(command) == 0  # nothing is left to do
    assert (tmp_path / "run" / "episodes.jsonl").read_bytes() == records
    assert main([*command, "--seed", "1"]) == 2
    assert "seed = 0, not 1" in capsys.readouterr().err.replace("\n", " ")


def test_rollout_says_what_it_does_not_know(tmp_path, capsys):
    assert main(["rollout", "--policy", "random", "--env", "mt11"]) == 2
    assert "mt10" in capsys.readouterr().err
    bad = tmp_path / "bad.json"
    bad.write_text("[1]")
    assert main(["rollout", "--policy", "random", "--env", "mt10", "--instructions", str(bad)]) == 2
    assert main(["rollout", "--policy", "random", "--env", "atomic8", "--episodes", "1"]) == 1
    assert "download_kitchen_assets" in capsys.readouterr().err.replace("\n", "")


@pytest.mark.render
def test_sim_demos_records_and_exports(tmp_path, capsys):
    from traceworld.traces.lerobot.reader import LeRobotDemonstrations

    command = ["sim", "demos", "reach", "--episodes", "1", "--out", str(tmp_path / "demos"), "--json"]
    command += ["--width", "48", "--height", "36", "--cameras", "corner2", "--lerobot", str(tmp_path / "lerobot")]
    assert main(command) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["task"] == "reach-v3"
    assert rows[0]["demonstrations"] == 1
    exported = LeRobotDemonstrations(tmp_path / "lerobot")
    assert len(exported) == 1
    assert main(["sim", "demos", "atomic8", "--out", str(tmp_path / "x")]) == 2
