"""Rollouts in a world without physics: rates, seeds, resumption, faults; and one through real processes and MuJoCo."""

import json

import numpy as np
import pytest
from toy_world import Failing, PointEnv, Seeing

from traceworld.errors import CheckpointError, ConfigError, DatasetError
from traceworld.evaluation import rollouts
from traceworld.evaluation.rollout_records import EPISODES_FILE, RUN_FILE, read_records
from traceworld.evaluation.rollouts import RolloutConfig, evaluate_policy
from traceworld.traces.robot import ActionChunk

POINT = "robotwin:point"  # an address whose simulator is replaced


@pytest.fixture(autouse=True)
def world(monkeypatch):
    made = []

    def make_env(address, **options):
        made.append(PointEnv(address.partition(":")[2], **options))
        return made[-1]

    monkeypatch.setattr(rollouts, "make_env", make_env)
    return made


class Rightward(Seeing):
    """Always goes right: succeeds where the goal is there."""

    name = "rightward"

    def act(self, observation):
        chunk = super().act(observation)
        chunk.actions[:, 0] = 1.0
        return chunk


class Batching(Seeing):
    """Answers several at once; what it answers depends on the observation and the seed alone."""

    name = "batching"

    def __init__(self):
        super().__init__()
        self.sizes = []

    def act(self, observation):
        return self.act_batch([observation], [self.seed])[0]

    def act_batch(self, observations, seeds):
        self.sizes.append(len(seeds))
        chunks = [super(Batching, self).act(observation) for observation in observations]
        for chunk, seed, observation in zip(chunks, seeds, observations, strict=True):
            chunk.actions[:, 0] *= 0.5 + 0.5 * np.random.default_rng([seed, observation.step]).random()
        return chunks


class Heeding(Seeing):
    name = "heeding"

    def reset(self, seed=0):
        super().reset(seed)
        self.told = []

    def act_after(self, observation, committed):
        self.told.append(len(committed))
        return self.act(observation)


def _stable(record):
    """What of a record does not depend on the clock."""
    return {key: value for key, value in vars(record).items() if not key.endswith(("_ms", "seconds", "_p95", "_max"))}


def test_rates_are_counted_and_seeds_are_the_suites(tmp_path, world):
    report = evaluate_policy(Rightward(), RolloutConfig(POINT, episodes=12, seed=3), tmp_path)
    records = read_records(tmp_path)
    assert [record.seed for record in records] == [400_000 + episode for episode in range(12)]
    right = [np.random.default_rng(record.seed).random() < 0.5 for record in records]
    assert [record.success for record in records] == right
    assert 0 < sum(right) < 12
    assert report["overall"]["rate"] == sum(right) / 12
    assert report["by_task"][POINT]["successes"] == sum(right)
    assert [record.steps for record in records] == [10 if ok else 30 for ok in right]
    assert report["overall"]["steps_to_success"] == 10
    assert len(world) == 1  # one environment for all episodes of a task
    assert world[0].closed


def test_the_same_run_gives_the_same_records(tmp_path):
    for name in ("a", "b"):
        evaluate_policy(Seeing(), RolloutConfig(POINT, episodes=4, latency_ms=100.0), tmp_path / name)
    first, again = (read_records(tmp_path / name) for name in ("a", "b"))
    assert list(map(_stable, first)) == list(map(_stable, again))
    assert first[0].waits == 2  # 100 ms at 20 Hz


def test_a_killed_run_goes_on(tmp_path):
    class Killed(Seeing):
        def reset(self, seed=0):
            super().reset(seed)
            if seed == 100_003:
                raise KeyboardInterrupt

    config = RolloutConfig(POINT, episodes=6)
    with pytest.raises(KeyboardInterrupt):
        evaluate_policy(Killed(), config, tmp_path)
    before = (tmp_path / EPISODES_FILE).read_text().splitlines()
    assert len(before) == 3
    new = []
    report = evaluate_policy(Seeing(), config, tmp_path, on_episode=new.append)
    assert [record.episode for record in new] == [3, 4, 5]
    assert (tmp_path / EPISODES_FILE).read_text().splitlines()[:3] == before
    assert report["episodes"] == 6
    more = evaluate_policy(Seeing(), RolloutConfig(POINT, episodes=8), tmp_path, on_episode=new.append)
    assert [record.episode for record in new[3:]] == [6, 7]
    assert more["overall"]["successes"] == 8


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"latency_ms": 50.0},
        {"execute": 2},
        {"blend": True},
        {"env_options": {"max_steps": 5}},
        {"env": "robotwin:other"},
    ],
)
def test_a_folder_of_other_settings_is_refused(tmp_path, other):
    evaluate_policy(Seeing(), RolloutConfig(POINT, episodes=1), tmp_path)
    with pytest.raises(ConfigError, match=next(iter(other))):
        evaluate_policy(Seeing(), RolloutConfig(**({"env": POINT, "episodes": 1} | other)), tmp_path)


def test_late_episodes_that_were_played_by_another_rule_are_another_run(tmp_path):
    late = RolloutConfig(POINT, episodes=1, latency_ms=50.0)
    evaluate_policy(Seeing(), late, tmp_path)
    evaluate_policy(Seeing(), late, tmp_path)
    file = tmp_path / "run.json"
    file.write_text(file.read_text().replace("chunks enter behind what was played", "chunks enter where the clock is"))
    with pytest.raises(ConfigError, match="latency_rule"):
        evaluate_policy(Seeing(), late, tmp_path)


def test_another_policy_is_another_run(tmp_path):
    evaluate_policy(Seeing(), RolloutConfig(POINT, episodes=1), tmp_path)
    with pytest.raises(ConfigError, match="policy = seeing, not rightward"):
        evaluate_policy(Rightward(), RolloutConfig(POINT, episodes=1), tmp_path)


def test_a_run_that_ended_before_its_first_episode_binds_nobody(tmp_path):
    config = RolloutConfig(POINT, episodes=1)
    with pytest.raises(ConfigError, match="no policy"):
        evaluate_policy("no-such-policy", config, tmp_path)
    assert evaluate_policy(Seeing(), config, tmp_path)["policy"] == "seeing"


def test_a_policy_of_another_robot_is_refused():
    class Longer(Seeing):
        def act(self, observation):
            return ActionChunk(np.zeros((2, 7), np.float32))

    with pytest.raises(ConfigError, match="7 numbers per action, point takes 2"):
        evaluate_policy(Longer(), RolloutConfig(POINT, episodes=1))


def test_damaged_records_are_named(tmp_path):
    evaluate_policy(Seeing(), RolloutConfig(POINT, episodes=2), tmp_path)
    text = (tmp_path / EPISODES_FILE).read_text()
    (tmp_path / EPISODES_FILE).write_text(text[:-30])
    with pytest.raises(DatasetError, match=EPISODES_FILE):
        evaluate_policy(Seeing(), RolloutConfig(POINT, episodes=2), tmp_path)
    (tmp_path / EPISODES_FILE).write_text(text)
    (tmp_path / RUN_FILE).unlink()
    with pytest.raises(DatasetError, match="no settings"):
        evaluate_policy(Seeing(), RolloutConfig(POINT, episodes=2), tmp_path)


def test_an_episode_that_breaks_counts_as_failed_and_is_played_again(tmp_path):
    config = RolloutConfig("robotwin:point,broken", episodes=2)
    report = evaluate_policy(Seeing(), config, tmp_path)
    assert report["errors"] == 2
    assert report["by_task"]["robotwin:broken"]["rate"] == 0
    assert report["by_task"][POINT]["rate"] == 1
    assert report["overall"]["mean_over_tasks"] == 0.5
    assert "the joint came off" in read_records(tmp_path)[0].error
    new = []
    evaluate_policy(Seeing(), config, tmp_path, on_episode=new.append)
    assert [record.env for record in new] == ["robotwin:broken"] * 2


def test_what_no_episode_can_mend_ends_the_run():
    with pytest.raises(CheckpointError, match="torn"):
        evaluate_policy(Failing(), RolloutConfig(POINT, episodes=2))


def test_latency_costs_success_when_the_world_does_not_wait():
    slow = RolloutConfig(POINT, episodes=3, env_options={"max_steps": 12})
    assert evaluate_policy(Seeing(), slow)["overall"]["rate"] == 1
    late = RolloutConfig(POINT, episodes=3, latency_ms=300.0, env_options={"max_steps": 12})
    report = evaluate_policy(Seeing(length=20), late)
    assert report["overall"]["rate"] == 0
    assert report["motion"]["waits"] == 6


def test_options_and_words_reach_the_environment(world):
    config = RolloutConfig(POINT, episodes=1, env_options={"max_steps": 9}, instructions={"point": "Go!"})
    evaluate_policy(Seeing(), config)
    assert world[0].max_steps == 9
    assert world[0].options == {"instruction": "Go!"}


def test_a_policys_own_cameras_are_used_unless_others_are_asked_for(world):
    policy = Seeing()
    policy.cameras = ("front",)
    evaluate_policy(policy, RolloutConfig(POINT, episodes=1))
    evaluate_policy(policy, RolloutConfig(POINT, episodes=1, env_options={"cameras": ("side",)}))
    assert [env.options["cameras"] for env in world] == [("front",), ("side",)]


def test_depth_is_given_to_policies_that_want_it(world):
    policy = Seeing()
    evaluate_policy(policy, RolloutConfig(POINT, episodes=1))
    policy.wants_depth = True
    evaluate_policy(policy, RolloutConfig(POINT, episodes=1))
    assert [env.options for env in world] == [{}, {"with_depth": True}]


def test_episodes_beside_each_other_are_the_same_episodes(tmp_path, world):
    one, many = tmp_path / "one", tmp_path / "many"
    config = RolloutConfig(POINT, episodes=7, latency_ms=100.0)
    evaluate_policy(Batching(), config, one)
    made, policy = len(world), Batching()
    evaluate_policy(policy, config, many, batch=3)
    assert list(map(_stable, read_records(one))) == list(map(_stable, read_records(many)))
    assert len(world) - made == 3
    assert policy.sizes[0] == 3  # answered together
    assert policy.sizes[-1] == 1  # 7 = 3 + 3 + 1
    with pytest.raises(ConfigError, match="one at a time"):
        evaluate_policy(Seeing(), config, batch=2)
    with pytest.raises(ConfigError, match="batch"):
        evaluate_policy("random", config, batch=2)


def test_a_policy_that_heeds_what_is_committed_is_told_it(tmp_path):
    policy = Heeding(length=6)
    evaluate_policy(policy, RolloutConfig(POINT, episodes=1, latency_ms=100.0), tmp_path)
    assert policy.told == [2] * (len(policy.asked) - 1)  # all but the first question
    again = Heeding(length=6)
    again.act_batch = lambda observations, seeds: [again.act(observation) for observation in observations]
    evaluate_policy(again, RolloutConfig(POINT, episodes=2, latency_ms=100.0), batch=2)
    assert set(again.told) == {2}


def test_suite_defaults_are_the_published_ones(world):
    new = []
    evaluate_policy(Seeing(length=16), RolloutConfig("robocasa:Point"), on_episode=new.append)
    assert len(new) == 50
    assert {record.calls for record in new} == {2}  # 10 steps, 8 of 16 played


@pytest.mark.parametrize(
    ("policy", "workers", "options", "message"),
    [
        (Seeing(), 2, {}, "policy object"),
        (Seeing(), 0, {"videos": 1}, "need a folder"),
        ("expert", 0, {}, "has no script"),
        (Seeing(), 0, {"env": "mt11"}, "did you mean"),
    ],
)
def test_what_cannot_be_run_is_said(policy, workers, options, message):
    with pytest.raises(ConfigError, match=message):
        evaluate_policy(policy, RolloutConfig(**({"env": POINT, "episodes": 1} | options)), workers=workers)


def test_impossible_configs():
    for wrong in ({"episodes": 0}, {"latency_ms": -1.0}, {"videos": -1}):
        with pytest.raises(ConfigError):
            RolloutConfig(POINT, **wrong)


def test_films_play_at_the_robots_speed(tmp_path):
    import av

    report = evaluate_policy(Seeing(), RolloutConfig(POINT, episodes=2, videos=1), tmp_path)
    first, second = read_records(tmp_path)
    assert second.video is None
    with av.open(str(tmp_path / first.video)) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
        assert float(film.streams.video[0].average_rate) == 20
    assert len(frames) == first.steps + 1
    goal_is_right = np.random.default_rng(first.seed).random() < 0.5
    assert abs(int(frames[0].mean()) - 255 * goal_is_right) < 8
    assert not list((tmp_path / "videos").glob(".*"))
    assert json.dumps(report)


@pytest.mark.slow
@pytest.mark.render
def test_processes_play_what_one_process_plays(tmp_path, monkeypatch):
    pytest.importorskip("metaworld")
    monkeypatch.undo()
    config = RolloutConfig("metaworld:reach,drawer-close", episodes=2, env_options={"image_size": (32, 24)})
    for name, workers in (("one", 0), ("two", 2)):
        report = evaluate_policy("expert", config, tmp_path / name, workers=workers)
        assert report["overall"]["successes"] == 4
    with pytest.raises(ConfigError, match="no policy"):  # as it is, from a worker
        evaluate_policy("no-such-policy", config, workers=1)
    one, two = (list(map(_stable, read_records(tmp_path / name))) for name in ("one", "two"))
    assert one == two
    assert evaluate_policy("random", config)["overall"]["successes"] == 0
