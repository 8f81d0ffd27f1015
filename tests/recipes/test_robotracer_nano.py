"""The recipe of robotracer-nano: its stages' options, its claims from figures, and (slow) the whole of it in small."""

import json

import pytest
import robotracer_card
import robotracer_nano
import robotracer_scores
import robotracer_training
from robotracer_training import Budget

from traceworld.errors import ConfigError
from traceworld.models.predictor import load_predictor

BUDGET = Budget(pointing_steps=50, steps=1000, ablation_steps=100, rft_steps=5, batch=8, questions=8, lr=2e-3, seed=0)


def row(model, given, success, **more):
    rates = {"start_ok": 0.9, "end_ok": 0.8, "no_collision": 0.7, "success": success, "frechet": 0.2}
    return {
        "model": model,
        "input": given,
        **rates,
        "interval95": {"success": [success - 0.05, success + 0.05]},
        **more,
    }


ROWS = [
    row("nothing-moves", "mask", 0.30),
    row("straight-line", "mask", 0.45),
    row("robotracer-nano", "RGB", 0.40, scale_error=0.2),
    row("robotracer-nano", "RGB + K + depth", 0.50, scale_error=0.02),
    row("full", "RGB + K + depth", 0.30),
    row("no-scale-loss", "RGB + K + depth", 0.45),
]


def test_claims_say_what_the_figures_say():
    said = robotracer_card.claims(ROWS)
    assert "It beats nothing-moves: 50.0 against 30.0 % (holds, intervals apart)." in said
    assert "It beats straight-line: 50.0 against 45.0 % (intervals overlap)." in said
    assert "The scale loss helps (equal budgets): 30.0 against 45.0 % (does not hold)." in said
    assert not any("Reinforcement" in line for line in said)


def test_the_table_has_a_row_per_entrant():
    lines = robotracer_card.table(ROWS).splitlines()
    assert len(lines) == 2 + len(ROWS)
    assert lines[5] == "| robotracer-nano | RGB + K + depth | 90.0 | 80.0 | 70.0 | 50.0 | 45.0–55.0 | 0.200 | 0.020 |"


def test_a_variant_differs_in_what_its_name_says():
    full, without = (robotracer_training.stages_of(name, BUDGET) for name in ("full", "no-scale-loss"))
    assert full["enhancement"].max_steps == 95
    assert full["alignment"].max_steps == 5
    assert (full["alignment"].guide, full["enhancement"].guide) == (0.0, robotracer_training.GUIDE)
    different = {
        name for name, value in full["enhancement"].to_json().items() if without["enhancement"].to_json()[name] != value
    }
    assert different == {"scale_loss_weight"}
    own = robotracer_training.stages_of("robotracer-nano", BUDGET)
    assert sum(config.max_steps for config in own.values()) == 1000


def test_impossible_options_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no variant"):
        robotracer_nano.Recipe(tmp_path, variants=("half",))
    with pytest.raises(ConfigError, match="goes on from full"):
        robotracer_nano.Recipe(tmp_path, variants=("rft",))
    with pytest.raises(ConfigError, match="benchmark"):
        robotracer_nano.Recipe(tmp_path, seed=robotracer_nano.BENCH_SEED)


def test_joined_ends_keep_two_points(tmp_path):
    file = tmp_path / "a-K-depth_3D.jsonl"
    answers = ["[(1, 2, 1.0), (3, 4, 1.1), (5, 6, 1.2)]", "nothing"]
    file.write_text(
        "".join(json.dumps({"question_id": n, "model_prediction": a}) + "\n" for n, a in enumerate(answers))
    )
    lines = [json.loads(line) for line in robotracer_scores.ends_joined(file).read_text().splitlines()]
    assert [line["model_prediction"] for line in lines] == ["[(1, 2, 1.000), (5, 6, 1.200)]", "nothing"]


@pytest.mark.slow
@pytest.mark.render
def test_the_whole_recipe_in_small(tmp_path):
    pytest.importorskip("mujoco")
    pytest.importorskip("accelerate")
    options = robotracer_nano.Recipe(tmp_path / "run", smoke=True)
    figures = robotracer_nano.make(options)
    again = robotracer_nano.make(options)
    assert again["result"] == figures["result"]
    packed = tmp_path / "run" / "robotracer-nano"
    assert "TraceSpatial-Sim: 2 held-out scenes" in (packed / "README.md").read_text()
    names = {entry["model"] for entry in figures["result"]}
    assert {"nothing-moves", "straight-line", "straight-line-true-ends", "full", "no-scale-loss", "rgb-only"} <= names
    predictor = load_predictor(packed)
    assert isinstance(predictor.answer(*_asked(tmp_path)), str)


def _asked(tmp_path):
    from traceworld.tracespatial.bench_layout import open_bench

    bench = open_bench(tmp_path / "run" / "tracespatial-sim")
    image = bench.picture(bench.questions[0], "image")
    return image, bench.questions[0].prompt
