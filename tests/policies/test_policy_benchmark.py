"""The benchmark of the policy measures what it says: its ratios are those of its own figures."""

import importlib.util
import sys
from pathlib import Path

import pytest
from policy_toys import make_policy

from traceworld.policies.action_expert.policy import ActionExpertPolicy

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("policy_benchmark", BENCHMARKS / "policy.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_figures(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "policy_of", lambda options: ActionExpertPolicy(make_policy(), "toy"))
    found = benchmark.measure(benchmark.Options(repeats=2, robots=2, execute=4))
    assert found["share_of_10_hz"] == pytest.approx(found["act_ms"] / 100 / 4)
    assert found["control_steps_per_s"] == pytest.approx(4000 / found["act_ms"])
    assert found["share_of_prediction"] == pytest.approx(found["trace_feature_ms"] / found["prediction_ms"])
    assert found["batched_ms_per_robot"] == pytest.approx(found["act_batch_ms"] / 2)
    assert 0 < found["trained_parameters"] < found["parameters"]


def test_without_weights_it_measures_the_size(benchmark, monkeypatch, tmp_path):
    from traceworld.policies import registry

    monkeypatch.setattr(registry, "WEIGHTS", tmp_path)
    policy = benchmark.policy_of(benchmark.Options())
    assert "random weights" in policy.name
    assert policy.config.size == "nano"
