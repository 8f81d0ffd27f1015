import pytest

from traceworld.errors import ConfigError, MissingExtraError
from traceworld.sim import suites
from traceworld.sim.suites import ATOMIC8, ATOMIC65, DIFFICULTY, GROUP_OF_TASK, MT10, SUITES, find_suite, make_env
from traceworld.sim.tasks import TASKS


def test_mt10_and_mt50_are_metaworlds_own():
    known = pytest.importorskip("metaworld.env_dict")
    assert set(MT10) == set(known.MT10_V3)
    assert set(TASKS) == set(known.ALL_V3_ENVIRONMENTS)
    assert len(SUITES["mt50"].envs) == 50


def test_every_task_is_in_one_difficulty_group():
    assert {group: len(tasks) for group, tasks in DIFFICULTY.items()} == {
        "easy": 28,
        "medium": 11,
        "hard": 6,
        "very-hard": 5,
    }
    assert sorted(task for tasks in DIFFICULTY.values() for task in tasks) == sorted(TASKS)
    assert GROUP_OF_TASK["door-close-v3"] == "easy"
    assert GROUP_OF_TASK["push-wall-v3"] == "medium"


def test_the_groups_are_suites_and_together_are_mt50():
    parts = [SUITES[f"mt50-{group}"].envs for group in DIFFICULTY]
    assert sorted(env for part in parts for env in part) == sorted(SUITES["mt50"].envs)


def test_robocasa_suites_are_as_in_the_paper():
    assert len(ATOMIC8) == 8
    assert len(ATOMIC65) == len(set(ATOMIC65)) == 65
    assert set(ATOMIC8) < set(ATOMIC65)
    for name in ("atomic8", "atomic65"):
        assert SUITES[name].episodes == 50
        assert SUITES[name].execute == 8
    for task in ("PickPlaceToasterToCounter", "AdjustToasterOvenTemperature", "OpenStandMixerHead", "TurnSinkSpout"):
        assert task in ATOMIC65


def test_addresses_are_suites_of_their_tasks():
    suite = find_suite("metaworld:drawer-open, push-v3,drawer-open-v3")
    assert suite.envs == ("metaworld:drawer-open-v3", "metaworld:push-v3")
    assert suite.group_of["metaworld:push-v3"] == "hard"
    assert find_suite("robocasa:CloseFridge").execute == 8
    assert find_suite("robotwin:beat_block_hammer").envs == ("robotwin:beat_block_hammer",)
    assert find_suite("mt10") is SUITES["mt10"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mt51", "did you mean 'mt50'"),
        ("metaworld:drawer-opn", "did you mean 'drawer-open-v3'"),
        ("metaworld:", "no suite"),
        ("gazebo:x", "metaworld, robocasa, robotwin"),
    ],
)
def test_wrong_names_are_answered(name, message):
    with pytest.raises(ConfigError, match=message):
        find_suite(name)


def test_tasks_of_suites_and_names():
    assert suites.metaworld_tasks(["reach", "mt10"])[0] == "reach-v3"
    assert len(suites.metaworld_tasks(["reach", "mt10"])) == 10
    with pytest.raises(ConfigError, match="no scripted expert"):
        suites.metaworld_tasks(["atomic8"])


def test_seeds_by_simulator():
    assert suites.episode_seed("metaworld:push-v3", 2, 5) == (1 << 40) + (2 << 20) + 5
    assert suites.episode_seed("robotwin:x", 0, 7) == 100_007
    assert suites.episode_seed("robocasa:x", 0, 7) == 7
    assert suites.episode_seed("robocasa:x", 1, 7) == 100_007


@pytest.mark.parametrize(
    ("address", "command"),
    [("robocasa:CloseFridge", "download_kitchen_assets"), ("robotwin:open_laptop", "_download_assets")],
)
def test_a_missing_simulator_says_what_to_fetch(address, command):
    with pytest.raises(MissingExtraError, match=command):
        make_env(address)


def test_no_such_simulator():
    with pytest.raises(ConfigError, match="gazebo"):
        make_env("gazebo:x")
