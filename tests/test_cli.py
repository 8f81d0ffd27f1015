"""The command: exit codes, messages, JSON on standard output and nothing else there."""

import json
import subprocess
import sys

import pytest

from traceworld import __version__, doctor
from traceworld.cli import main


def run(*words, **kwargs):
    return subprocess.run(
        [sys.executable, "-m", "traceworld.cli", *map(str, words)], capture_output=True, text=True, **kwargs
    )


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"traceworld {__version__}"


def test_help_is_quick_and_names_every_command():
    out = run("--help").stdout
    for command in ("extract", "info", "view", "sim", "train", "predict", "eval", "demo", "doctor"):
        assert command in out


def test_help_imports_nothing_heavy():
    code = (
        "import sys, traceworld.cli\n"
        "try: traceworld.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'torch', 'cv2', 'transformers', 'mujoco'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize("words", [["rollout", "--help"], ["info", "mu0-nano"]])
def test_a_pipe_that_is_closed_early_leaves_no_traceback(words):
    process = subprocess.Popen(
        [sys.executable, "-m", "traceworld.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()  # as `| head` does, here before the first line
    assert process.stderr.read() == ""
    process.wait(60)


def test_unknown_option_names_the_nearest():
    done = run("extract", "a.mp4", "--out", "o", "--num-keypoint", "3")
    assert done.returncode == 2
    assert "--num-keypoints" in done.stdout + done.stderr


def test_unknown_command_lists_the_known():
    done = run("extrakt")
    assert done.returncode == 2
    assert "extract" in done.stdout + done.stderr


def test_unknown_model_names_the_nearest(capsys, tmp_path):
    assert main(["info", "mu0-nan"]) == 2
    assert "mu0-nano" in capsys.readouterr().err


def test_missing_dataset_is_an_error_with_a_mend(capsys, tmp_path):
    assert main(["eval", "tracks", str(tmp_path / "absent")]) == 1
    error = capsys.readouterr().err
    assert "absent" in error.replace("\n", "")
    assert "mend" in error


def test_extract_of_nothing_readable_fails_and_says_why(tmp_path, capsys):
    (tmp_path / "noise.mp4").write_bytes(b"not a video at all")
    assert main(["extract", str(tmp_path / "noise.mp4"), "--out", str(tmp_path / "clips"), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["failed"] == 1
    assert "noise.mp4" in json.dumps(report["items"])


@pytest.mark.parametrize("size", ["nano", "small", "base", "large"])
def test_info_counts_parameters_without_weights(size, capsys):
    assert main(["info", f"mu0:{size}", "--json"]) == 0
    counted = json.loads(capsys.readouterr().out)["parameters"]
    assert counted["total"] >= counted["trainable"] > 0


def test_the_doctor_does_not_take_somebodys_folder_for_a_package(tmp_path, monkeypatch):
    (tmp_path / "trackio").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    real = doctor.importlib.metadata.version

    def version(name):
        if name == "trackio":
            raise doctor.importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    (found,) = [finding for finding in doctor._extras() if finding.name == "trackio"]
    assert not found.ok
    assert "logging" in found.mend


def test_doctor_reports_every_backend(capsys):
    code = main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == (0 if report["ok"] else 1)
    names = {finding["name"] for finding in report["findings"]}
    assert {"python", "torch", "device", "rendering", "mu0-nano", "transformers"} <= names
    for finding in report["findings"]:
        assert finding["ok"] or finding["mend"], finding
    backends = {
        (f["group"].removeprefix("backend "), f["name"]): f for f in report["findings"] if "backend" in f["group"]
    }
    assert {kind for kind, name in backends if name == "embedded"} == {"features", "geometry", "tracking", "entities"}
    vggt = backends["geometry", "vggt"]
    assert "[non-commercial]" in vggt["licence"]
    assert vggt["ok"] or "pip install git+https" in vggt["mend"]
