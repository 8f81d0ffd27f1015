"""μ0 `large` within the memory of a 24 GiB machine: frozen parts in bfloat16, trained ones in float32, checkpointing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from traceworld.models.mu0.counting import count_parameters
from traceworld.models.mu0.sizes import mu0_config

pytest.importorskip("transformers")
SCRIPT = Path(__file__).with_name("large_run.py")
LIMIT_GIB = 20


def run(size, timeout):
    command = [sys.executable, "-W", "ignore", str(SCRIPT), size]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def check(found):
    assert found["dtypes"] == [["torch.float32"], ["torch.bfloat16"]]
    assert found["without_gradient"] == 0
    assert found["norm"] > 0
    assert found["frozen_moved"] == 0
    # Gates of zero stand before what zero layers give: those have a gradient of zero in the first step, and stay.
    assert found["moved"] > 0
    assert found["optimizer_numbers"] == 2 * found["trained"]  # Adam's two moments, of what is trained and nothing else
    # Noise of spread 1 less data of spread ½ is 1.25; what an untrained last layer (U[±1/√E] of unit inputs) says adds ⅓.
    assert found["losses"]["flow"] == pytest.approx(1.25 + 1 / 3, abs=0.4)
    assert found["prediction"]["shape"] == [2, 16, 32, 3]
    assert found["prediction"]["finite"]


def test_the_same_run_at_toy_size():
    check(run("tiny", 240))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_large_steps_and_predicts_in_20_gib():
    found = run("large", 3500)
    sys.stdout.write(json.dumps(found, indent=1))  # shown with -s
    counts = count_parameters(mu0_config("large"))
    assert found["trained"] == counts["trainable"]
    assert found["trained"] + found["frozen"] == counts["total"]
    check(found)
    assert found["predicted_peak_gib"] < LIMIT_GIB
