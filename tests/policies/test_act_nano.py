"""The policy in the package: what it is, what its card says, and that it still does what it was shipped for."""

import json

import numpy as np
import pytest
import torch
from policy_toys import picture

from traceworld.evaluation.execution import ChunkPlayer
from traceworld.evaluation.rollout_play import play_together
from traceworld.models.predictor import load_predictor
from traceworld.policies.registry import WEIGHTS, load_policy
from traceworld.sim.control import METAWORLD_SPEC, MetaworldEnv, test_seed
from traceworld.traces.robot import RobotObservation

FOLDERS = {"act-nano": ("mt10", 200, 0.8), "act-nano-mt50": ("mt50", 500, 0.573)}
"""Name → suite, episodes that were played of it, and the share that had to succeed."""


@pytest.fixture(scope="module", params=FOLDERS)
def policy(request):
    return load_policy(request.param)


@pytest.mark.parametrize("name", FOLDERS)
def test_it_fits_the_package_and_was_made_elsewhere(name):
    files = [file for file in (WEIGHTS / name).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 25_000_000
    for file in files:
        if file.suffix in (".json", ".md"):
            text = file.read_text()
            assert not any(place in text for place in ("/tmp/", "/home/", "/root/"))


def test_its_mu0_is_the_shipped_one_and_frozen(policy):
    policy.model.check_frozen()
    shipped = load_predictor("mu0-nano").model.state_dict()
    inside = policy.model.frozen.mu0.state_dict()
    assert shipped.keys() == inside.keys()
    assert all(torch.equal(shipped[name], inside[name]) for name in shipped)


@pytest.mark.parametrize("name", FOLDERS)
def test_the_card_says_what_was_measured(name):
    suite, episodes, wanted = FOLDERS[name]
    result = json.loads((WEIGHTS / name / "result.json").read_text())
    rate = result["result"]["act-nano"][suite]["overall"]
    assert rate["episodes"] == episodes
    card = (WEIGHTS / name / "README.md").read_text()
    assert card.startswith(f"# {name}\n")
    assert f"{100 * rate['rate']:.1f} %" in card
    assert rate["rate"] >= wanted


def test_actions_are_the_robots_and_follow_from_the_seed(policy):
    assert policy.spec == METAWORLD_SPEC
    images = {"corner4": picture(0, 144, 192), "wrist": picture(1, 144, 192)}
    seen = RobotObservation(images, np.array([0.0, 0.6, 0.2, 1.0], np.float32), "open the drawer")
    policy.reset(3)
    first = policy.act(seen).actions
    assert first.shape == (16, 4)
    assert np.abs(first).max() <= 1
    policy.reset(3)
    assert np.array_equal(policy.act(seen).actions, first)
    policy.reset(4)
    assert not np.array_equal(policy.act(seen).actions, first)


@pytest.mark.render
@pytest.mark.parametrize("task", ["drawer-close", "door-open"])
def test_it_does_what_it_was_shipped_for(policy, task):
    pytest.importorskip("metaworld")
    with MetaworldEnv(task, policy.cameras) as env:
        played = play_together([env], policy, [test_seed(0, 0)], lambda _: ChunkPlayer(execute=8))[0]
    assert played["success"]
