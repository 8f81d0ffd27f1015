"""`traceworld serve query`: a process that says where it listens and ends on SIGTERM with its counts."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import urllib.request

import numpy as np
from PIL import Image

from traceworld.cli import main
from traceworld.tracespatial.answers import parse_trace


def test_a_predictor_answers_queries(tmp_path):
    picture = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(picture, "PNG")
    (tmp_path / "rgb.png").write_bytes(picture.getvalue())
    words = ["serve", "query", "--model", "nothing-moves", "--port", "0", "--folder", str(tmp_path), "--json"]
    code = "import sys; from traceworld.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        url = json.loads(line)["url"]
        assert url.startswith("http://127.0.0.1:")
        shapes = (
            {"image_url": [base64.b64encode(picture.getvalue()).decode()], "text": "go"},
            {"image_paths": [str(tmp_path / "rgb.png")], "text": "go"},
        )
        for asked in shapes:
            request = urllib.request.Request(
                f"{url}/query", json.dumps(asked).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=60) as reply:
                assert parse_trace(json.loads(reply.read())["answer"], 2).ok
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert json.loads(out)["requests"]["answered"] == 2
    finally:
        process.kill()
        process.communicate(timeout=20)


def test_wrong_options_are_told(capsys, tmp_path):
    assert main(["serve", "query", "--model", "nothing-moves", "--folder", str(tmp_path / "none")]) == 2
    assert "is no folder" in " ".join(capsys.readouterr().err.split())
    assert main(["serve", "query", "--model", "nothing-movse"]) == 2
    assert "nothing-moves" in capsys.readouterr().err
