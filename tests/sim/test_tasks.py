import pytest

from traceworld.errors import ConfigError
from traceworld.sim.tasks import (
    HELD_OUT,
    INSTRUCTIONS,
    TASKS,
    TRAINED,
    check_task,
    instruction_of,
    resolve_tasks,
)


def test_every_metaworld_task_has_an_instruction_an_expert_and_nothing_is_left_over():
    env_dict = pytest.importorskip("metaworld.env_dict")
    policies = pytest.importorskip("metaworld.policies")
    assert set(TASKS) == set(env_dict.ALL_V3_ENVIRONMENTS) == set(policies.ENV_POLICY_MAP)
    assert len(TASKS) == 50


def test_instructions_are_different_sentences():
    assert len(set(INSTRUCTIONS.values())) == 50
    for text in INSTRUCTIONS.values():
        assert len(text.split()) >= 3
        assert text == text.strip().lower()


def test_held_out_tasks_are_five_and_disjoint_from_the_trained_ones():
    assert len(HELD_OUT) == 5
    assert not set(HELD_OUT) & set(TRAINED)
    assert set(HELD_OUT) | set(TRAINED) == set(TASKS)


def test_each_held_out_task_has_a_relative_among_the_trained_ones():
    for task in HELD_OUT:
        assert any(other.split("-")[0] == task.split("-")[0] for other in TRAINED)


def test_version_may_be_left_out():
    assert check_task("drawer-open") == check_task("drawer-open-v3") == "drawer-open-v3"
    assert instruction_of("drawer-open") == "open the drawer"


def test_unknown_task_names_the_nearest():
    with pytest.raises(ConfigError, match="drawer-open-v3"):
        check_task("drawr-open")


def test_groups_of_tasks():
    assert resolve_tasks(["all"]) == TASKS
    assert resolve_tasks(["reach", "held-out", "reach-v3"]) == ("reach-v3", *HELD_OUT)
    with pytest.raises(ConfigError, match="untrained"):
        resolve_tasks(["untrained"])
