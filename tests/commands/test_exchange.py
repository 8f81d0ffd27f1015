"""`traceworld export lerobot` and `traceworld import lerobot` through the command line's own parser."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "traces"))

from trace_clips import write_dataset
from traceextract_toys import write_official

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


def run(*words):
    return main([str(word) for word in words])


def test_released_episodes_in_and_out(tmp_path, capsys):
    write_official(tmp_path / "in" / "one")
    (tmp_path / "in" / "two" / "samples").mkdir(parents=True)
    (tmp_path / "in" / "two" / "images.npy").write_bytes(b"cut")
    assert run("import", "traceextract", tmp_path / "in", "--out", tmp_path / "d", "--fps", 4, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["ok"], said["failed"]) == (1, 1)
    assert "two/images.npy" in said["failures"][0][1]
    assert run("export", "traceextract", tmp_path / "d", "--out", tmp_path / "te") == 0
    assert "1 episodes written" in capsys.readouterr().out
    assert (tmp_path / "te" / "one" / "samples" / "traj.npy").is_file()
    assert run("export", "traceforge", tmp_path / "d", "--out", tmp_path / "tf", "--every", 10, "--json") == 0
    assert json.loads(capsys.readouterr().out)["ok"] == 1
    assert run("import", "traceforge", tmp_path / "tf", "--out", tmp_path / "d2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["ok"] == 1


def test_an_option_of_another_format_is_refused(tmp_path, capsys):
    assert run("import", "egodex", tmp_path, "--out", tmp_path / "d", "--fps", 4) == 2
    assert run("export", "traceextract", tmp_path, "--out", tmp_path / "d", "--codec", "av1") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "--fps: does nothing with egodex" in said
    assert "--codec: does nothing with traceextract" in said


def test_push_and_pull(tmp_path, capsys, monkeypatch):
    from traceworld.traces import hub

    folder = write_dataset(tmp_path / "d", clips=1, pictures=range(2), T=4)
    asked = []
    monkeypatch.setattr(hub, "push_dataset", lambda *a, **k: asked.append((a, k)) or "https://hub/1")
    monkeypatch.setattr(hub, "pull_dataset", lambda *a, **k: asked.append((a, k)) or open_dataset(folder))
    assert run("push", folder, "me/d", "--public", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"commit": "https://hub/1"}
    assert run("pull", "me/d", "--out", tmp_path / "back", "--json") == 0
    assert json.loads(capsys.readouterr().out)["clips"] == 1
    assert asked[0] == ((folder, "me/d"), {"private": False, "revision": None, "missing_media": False})
    assert asked[1] == (("me/d", tmp_path / "back"), {"revision": None})
