"""benchmarks/stage_costs.py at toy sizes: what it calls stages is there, and the shares add up."""

import ast
import cProfile
import json
import types
from pathlib import Path

import pytest
import scale_plan
import stage_costs
from made_clips import write_clip
from stage_costs import STAGES, Options, main, source_bytes_per_frame, stage_shares

import traceworld

SRC = Path(traceworld.__file__).parent
HOMES = {
    "source_base": "perception", "motion": "perception", "odometry": "perception", "depth_source": "perception",
    "hybrid": "perception", "features": "perception", "dino": "perception/backends", "entities": "perception",
    "sam2": "perception/backends", "keypoints": "extract", "passes": "perception", "tracker_base": "perception/backends",
    "events": "extract", "captioning": "extract", "writer": "traces",
}  # fmt: skip


@pytest.mark.parametrize(("module", "function"), STAGES)
def test_every_stage_names_a_function_that_exists(module, function):
    tree = ast.parse((SRC / HOMES[module] / f"{module}.py").read_text())
    assert any(isinstance(node, ast.FunctionDef) and node.name == function for node in ast.walk(tree))


def test_a_measurement_can_be_planned_with(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(stage_costs, "FINALISED", 2)
    clip = write_clip(tmp_path / "clip.mp4", 20, 160, 120)
    found = main(Options(clip, out=tmp_path / "measured.json", max_frames=12, keypoints=32))
    assert json.loads((tmp_path / "measured.json").read_text()) == found
    assert json.loads(capsys.readouterr().out) == found
    assert (found["frames"], found["size"]) == (12, [160, 120])
    assert sum(found["stages"].values()) == pytest.approx(found["seconds_per_frame"])
    for name in ("decode", "flow", "features", "entities", "tracking", "events", "captions", "write"):
        assert found["stages"][name] > 0, name
    assert found["bytes_per_frame"]["source"] == clip.stat().st_size / 20
    assert found["bytes_per_frame"]["traces"] > 0
    assert found["files_per_clip"] == 2  # shard and status
    plan = scale_plan.plan(found, scale_plan.Options(tmp_path / "measured.json", clips=1000))
    assert plan["wall_s"] > 0


def test_of_two_functions_with_one_name_the_outer_counts(monkeypatch):
    stats = {
        ("/x/traceworld/perception/entities.py", 10, "find"): (1, 1, 0.0, 6.0, {}),
        ("/x/traceworld/perception/entities.py", 50, "find"): (1, 1, 6.0, 6.0, {}),
        ("/x/traceworld/extract/events.py", 5, "cut_events"): (1, 1, 2.0, 2.0, {}),
        ("/y/other/events.py", 5, "cut_events"): (1, 1, 2.0, 2.0, {}),
    }
    monkeypatch.setattr(stage_costs.pstats, "Stats", lambda profile: types.SimpleNamespace(stats=stats))
    shares = stage_shares(cProfile.Profile())
    assert (shares["entities"], shares["events"]) == (0.6, 0.2)
    assert shares["other"] == pytest.approx(0.2)
    assert shares["tracking"] == 0


def test_the_size_of_a_folder_of_pictures(tmp_path):
    from PIL import Image

    for number in range(3):
        Image.new("RGB", (32, 24), (number, 0, 0)).save(tmp_path / f"{number}.png")
    assert source_bytes_per_frame(tmp_path) == sum(file.stat().st_size for file in tmp_path.iterdir()) / 3
