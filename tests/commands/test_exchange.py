"""`traceworld export lerobot` and `traceworld import lerobot` through the command line's own parser."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "traces"))

from trace_clips import write_dataset

from traceworld.cli import main
from traceworld.traces.store import open_dataset


def test_export_and_import(tmp_path, capsys):
    write_dataset(tmp_path / "clips", clips=2, pictures=range(4), T=4)
    assert (
        main(
            [
                "export",
                "lerobot",
                str(tmp_path / "clips"),
                "--out",
                str(tmp_path / "out"),
                "--pictures",
                "png",
                "--json",
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["episodes"] == 2
    assert main(["import", "lerobot", str(tmp_path / "out"), "--out", str(tmp_path / "back"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"ok": 2, "failed": 0, "done": 0}
    assert sorted(open_dataset(tmp_path / "back").clip_ids) == ["clip-0", "clip-1"]
    assert main(["import", "lerobot", str(tmp_path / "nothing"), "--out", str(tmp_path / "x")]) == 1
    assert "not a LeRobot dataset" in " ".join(capsys.readouterr().err.split())
