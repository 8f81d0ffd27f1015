"""The plan's arithmetic by hand, and docs/scale.md word for word what the script says."""

import json
import re
import shlex
from pathlib import Path

import pytest
import tyro
from scale_plan import DAY, Options, amount, main, plan, tables

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scale.md").read_text()
MEASURED = {
    "input": "toy",
    "size": [10, 10],
    "keypoints": 4,
    "stages": {"decode": 0.01, "tracking": 0.09, "write": 0.0},
    "bytes_per_frame": {"traces": 100.0, "source": 1000.0},
    "events_per_s": {"fine": 0.4, "summaries": 0.1},
    "finalise_s_per_clip": 0.001,
    "files_per_clip": 2,
}
JOB = {
    "clips": 1000, "seconds": 2.0, "fps": 5.0, "gpus": 2, "cores_per_gpu": 5, "use": 0.5, "failing": 0.1, "attempts": 3,
    "shards": 8,
}  # fmt: skip


def made(**changes):
    return Options(Path("unused"), **{**JOB, **changes})


def test_by_hand_on_cores_alone():
    """10,000 frames · 0.1 s · 1.2 (a tenth fails three times) on 10 cores half of the time."""
    found = plan(MEASURED, made())
    assert found["frames"] == 10_000
    assert sum(found["cpu_s"].values()) == pytest.approx(1200)
    assert found["wall_s"] == pytest.approx(1200 / 10 / 0.5)
    assert found["held_by"] == "cores"
    assert (found["source_bytes"], found["trace_bytes"], found["files"]) == (1e7, 1e6, 2000)
    assert found["caption_calls"] == 1000
    assert found["dollars"] == {
        "GPUs": 0.0,
        "cores": pytest.approx(240 / 3600 * 10 * 0.04),
        "storage of traces": pytest.approx(1e6 / 1e12 * 20 * 12),
    }
    assert found["loads"]["file operations"]["load"] == pytest.approx((2000 + 1000 * 10) / 240)
    assert found["loads"]["reading"]["load"] == pytest.approx(1e7 / 240 / 1e9)
    assert found["loads"]["captions"]["load"] == 0  # templates


def test_a_stage_on_the_gpu_leaves_the_cores():
    found = plan(MEASURED, made(gpu_ms={"tracking": 50.0}, captions="gpu", captions_ms=200.0))
    assert found["cpu_s"] == {"decode": pytest.approx(120), "write": 0}
    assert found["gpu_s"] == {"tracking": pytest.approx(600), "captions (model)": pytest.approx(200)}
    assert found["wall_s"] == pytest.approx(800 / 2 / 0.5)
    assert found["held_by"] == "GPUs"
    assert found["spare_gpu_ms_per_frame"] == 0
    assert found["loads"]["cores that feed a GPU"]["load"] == pytest.approx(120 / 800)
    with pytest.raises(SystemExit, match="flying"):
        plan(MEASURED, made(gpu_ms={"flying": 1.0}))


def test_time_that_is_left_is_what_other_models_may_take():
    found = plan(MEASURED, made(gpu_ms={"tracking": 0.0}, days=1.0))
    assert found["wall_s"] == DAY
    spare = found["spare_gpu_ms_per_frame"] / 1000
    used = plan(MEASURED, made(gpu_ms={"tracking": 1000 * spare}))
    assert used["wall_s"] == pytest.approx(DAY)


def test_what_breaks_first_is_what_is_used_most():
    found = plan(MEASURED, made(captions="server", captions_s=0.1, folder_files=10_000))
    assert found["loads"]["captions"]["load"] == pytest.approx(1000 / 240)
    assert found["breaks_first"] == "captions"
    assert plan(MEASURED, made(folder_files=100))["breaks_first"] == "files in one folder"
    assert plan(MEASURED, made(datasets=50))["loads"]["files in one folder"]["load"] == 20
    told = tables(MEASURED, found, made())
    assert told.index("| captions | 4.17") < told.index("| files in one folder")


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (1234567.0, "1,234,567"), (1.5, "1.50"), (0.0123, "0.0123"), (123.4, "123"), (99.96, "100.0")],
)
def test_amounts_have_three_figures(value, said):
    assert amount(value) == said


def test_json_is_the_same_plan(tmp_path, capsys):
    (tmp_path / "m.json").write_text(json.dumps(MEASURED))
    options = Options(tmp_path / "m.json", **JOB, json=True)
    found = main(options)
    assert (
        json.loads(capsys.readouterr().out)
        == json.loads(json.dumps(found))
        == json.loads(json.dumps(plan(MEASURED, options)))
    )


LINES = re.findall(r"^python benchmarks/scale_plan.py .*$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("line", LINES)
def test_the_page_says_what_the_script_says(line, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    main(tyro.cli(Options, args=shlex.split(line)[2:]))
    said = capsys.readouterr().out.strip()
    assert said.count("|") > 50
    assert said in PAGE.split(line)[1]


def test_the_page_has_plans():
    assert len(LINES) == 2


def test_the_array_script_is_a_command_that_parses():
    from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes

    from traceworld.cli import Command
    from traceworld.extract.shards import Part

    (line,) = [line for line in PAGE.splitlines() if "SLURM_ARRAY_TASK_ID" in line]
    words = shlex.split(line.replace("$SLURM_ARRAY_TASK_ID", "5"))
    command = tyro.cli(Command, args=words[1:], config=(OmitArgPrefixes, OmitSubcommandPrefixes))
    assert Part.parse(command.shard) == Part(5, 64)
    assert (command.executor, command.workers) == ("processes", 14)
    assert f"--array=0-{Part.parse(command.shard).count - 1}" in PAGE
