"""Embodiments and variety through recordings and corpora."""

import hashlib
import json
import zlib

import numpy as np
import pytest

from traceworld.errors import ConfigError
from traceworld.sim.cameras import film_cameras, named_view
from traceworld.sim.casting import is_plain, settings_of
from traceworld.sim.corpus import CorpusConfig, build_corpus, source_of
from traceworld.sim.embodiments import EMBODIMENTS, embodiment_of
from traceworld.sim.film import shoot
from traceworld.sim.glue import traces_of
from traceworld.sim.record import RecordConfig, record_episode
from traceworld.sim.rendering import SceneRenderer
from traceworld.sim.sampling import sample_points
from traceworld.sim.truth import exact_traces, read_description, read_truth
from traceworld.sim.variety import Variety
from traceworld.traces.media import frames_with_pictures, read_frame
from traceworld.traces.store import open_dataset

pytestmark = pytest.mark.render

SMALL = {
    "image_size": (96, 72),
    "pictures_per_episode": 2,
    "num_points": 48,
    "trace_stride": 4,
    "max_steps": 60,
    "block": 4,
}
TASK = "drawer-open-v3"


def _digest(folder):
    whole = hashlib.sha256()
    for part in ("clips", "media"):
        for file in sorted(path for path in (folder / part).rglob("*") if path.is_file()):
            whole.update(f"{file.relative_to(folder)}\n".encode() + file.read_bytes())
    return whole.hexdigest()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Four episodes, one of each embodiment, in varied looks."""
    out = tmp_path_factory.mktemp("cast") / "mixed"
    build_corpus(out, [TASK], 4, seed=5, workers=0, embodiments=EMBODIMENTS, variety=Variety(), **SMALL)
    return out


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    out = tmp_path_factory.mktemp("cast") / "plain"
    build_corpus(out, [TASK], 4, seed=5, workers=0, **SMALL)
    return out


def test_without_a_choice_an_episode_is_what_it_was_before_there_was_one(drawer, plain):
    """The steps of a corpus of before, in their order, one by one; the same random draws, the same traces and pictures."""
    rng = np.random.default_rng([5, zlib.crc32(TASK.encode()), 0])
    seed, noise = int(rng.integers(1 << 31)), float(rng.uniform(0, 0.1))
    rollout = drawer.world.rollout(seed, action_noise=noise, hold_steps=24, max_steps=60)
    states = rollout.qpos[::4]
    stage = drawer.world.stage()
    stage.load(rollout)
    name = ("corner", "corner", "corner3")[rng.integers(3)]
    cameras = film_cameras(stage, named_view(stage, name).jittered(rng, 1.0), states, 96, 72)
    with SceneRenderer(stage.model, 96, 72) as renderer:
        film = shoot(stage, renderer, cameras, states)
        stage.put(states[0])
        color = renderer.color(stage.data, cameras[0])
    later = np.sort(rng.choice(np.arange(1, len(states) - 8), 1, replace=False))
    choice = rng.choice(np.append(0, later), 2, replace=False)
    traces = traces_of(film, *sample_points(film, np.sort(choice), 48, rng))
    clip = next(iter(open_dataset(plain)))
    assert np.array_equal(clip.traces.xyz_world, traces.xyz_world)
    assert np.array_equal(clip.traces.visible, traces.visible)
    assert np.array_equal(clip.traces.part_id, traces.part_id)
    assert np.array_equal(frames_with_pictures(clip), np.append(0, later))
    assert np.abs(read_frame(clip, 0).astype(int) - color).mean() < 4  # JPEG
    assert set(clip.provenance) == {
        *("source", "task", "seed", "camera", "success", "action_noise", "visibility", "config", "versions")
    }
    assert set(clip.provenance["config"]) == {
        *("cameras", "camera_jitter", "image_size", "pictures_per_episode", "num_points", "trace_stride"),
        *("action_noise", "hold_steps", "max_steps", "block", "seed"),
    }


def test_choices_at_their_defaults_leave_no_mark():
    assert is_plain(("sawyer", "sawyer"), None)
    assert not is_plain(("sawyer",), Variety())
    assert not is_plain(("sawyer", "other-arm"), None)
    named = settings_of(CorpusConfig(embodiments=("other-arm",)), "embodiments", "variety")
    assert named["embodiments"] == ("other-arm",)
    assert "variety" not in named
    assert "embodiment" not in settings_of(RecordConfig(), "embodiment", "variety")
    assert source_of(CorpusConfig()) != source_of(CorpusConfig(variety=Variety()))
    assert source_of(CorpusConfig(variety=Variety())) != source_of(CorpusConfig(variety=Variety(lights=0.5)))


def test_corpus_has_each_embodiment_and_says_which(mixed, plain):
    assert sorted(embodiment_of(clip.provenance) for clip in open_dataset(mixed)) == sorted(EMBODIMENTS)
    assert {embodiment_of(clip.provenance) for clip in open_dataset(plain)} == {"sawyer"}
    for clip in open_dataset(mixed):
        assert clip.provenance["config"]["variety"]["distractors"] == 4
        assert clip.traces.num_keypoints == 48
        assert clip.traces.valid.all()
        assert 0.5 < clip.traces.moving.mean() <= 0.85
        n = np.arange(48)
        assert clip.traces.visible[clip.traces.query_frame, n].all()


def test_motion_and_camera_do_not_depend_on_who_plays(mixed, plain):
    for one, other in zip(open_dataset(mixed), open_dataset(plain), strict=True):
        assert one.provenance["seed"] == other.provenance["seed"]
        assert one.num_frames == other.num_frames
        assert np.array_equal(one.cameras.cam_from_world, other.cameras.cam_from_world)
        assert np.array_equal(frames_with_pictures(one), frames_with_pictures(other))
        assert np.abs(read_frame(one, 0).astype(int) - read_frame(other, 0)).mean() > 3  # but the look does


def test_no_keypoint_is_on_what_is_not_shown(mixed, drawer):
    model, _ = drawer.world.model_and_file()
    for clip in open_dataset(mixed):
        parts = set(clip.traces.part_id[clip.traces.moving].tolist())
        own = {model.body(part).name for part in parts if part < model.nbody}
        others = [part for part in parts if part >= model.nbody]
        played_by = embodiment_of(clip.provenance)
        if played_by in ("sawyer", "bare-gripper"):
            assert not others
        else:
            assert len(others) >= 3
            assert own <= {"drawer_link"}
        if played_by == "bare-gripper":
            assert own <= {"hand", "rightclaw", "leftclaw", "drawer_link", "right_l6"}


def test_same_seed_same_bytes_in_processes_too(mixed, tmp_path):
    again = tmp_path / "again"
    build_corpus(again, [TASK], 4, seed=5, workers=1, embodiments=EMBODIMENTS, variety=Variety(), **SMALL)
    assert _digest(again) == _digest(mixed)


def test_number_of_episodes_by_task_and_group(tmp_path, monkeypatch):
    from traceworld.sim import corpus

    asked = []
    monkeypatch.setattr(corpus, "_run", lambda out, todo, config, workers: asked.extend(todo) or [])
    numbers = {"all": 2, "held-out": 5, TASK: 1}
    build_corpus(tmp_path / "n", [TASK, "door-close-v3", "reach-v3"], numbers, **SMALL)
    made = {}
    for task, first, last in asked:
        made[task] = made.get(task, 0) + last - first
    assert made == {TASK: 1, "door-close-v3": 5, "reach-v3": 2}
    with pytest.raises(ConfigError, match="reach-v3"):
        build_corpus(tmp_path / "m", [TASK, "reach-v3"], {TASK: 1}, **SMALL)


@pytest.mark.parametrize("name", ["bare-gripper", "hand-like", "other-arm"])
def test_recording_by_another_embodiment(tmp_path, drawer, recordings, small, name):
    folder = record_episode(TASK, 3, tmp_path, world=drawer.world, embodiment=name, variety=Variety(), **small)
    described = read_description(folder)
    assert embodiment_of(described["simulated"]) == name
    assert embodiment_of(json.loads((folder / "clip.json").read_text())["simulated"]) == name
    usual, film = read_truth(recordings["still"]), read_truth(folder)
    own = usual.body_pose.shape[1]
    assert np.array_equal(film.body_pose[:, :own], usual.body_pose)  # the same motion, seen or not
    y, x = np.argwhere(film.body_part[np.append(film.object_body, 0)[film.object_id[-1]]] >= 0).T
    traces = exact_traces(folder, np.full(len(x), film.num_frames - 1), np.stack([x, y], 1).astype(float))
    moving = {described["part_names"][str(part)] for part in set(traces.part_id[traces.moving].tolist())}
    assert "drawer_link" in moving
    if name == "bare-gripper":
        assert {"rightclaw", "leftclaw"} <= moving
    else:
        assert len([part for part in moving if part.startswith(name)]) >= 4


def test_another_embodiment_is_another_recording(recordings, small):
    with pytest.raises(ConfigError, match="other settings"):
        record_episode(TASK, 3, recordings["still"].parent, embodiment="hand-like", **small)


def test_bad_choices(tmp_path):
    with pytest.raises(ConfigError, match="other-arm"):
        build_corpus(tmp_path, [TASK], 1, embodiments=("sawyer", "otherarm"))
    with pytest.raises(ConfigError, match="nobody"):
        build_corpus(tmp_path, [TASK], 1, embodiments=())
    with pytest.raises(ConfigError, match="bare-gripper"):
        record_episode(TASK, 0, tmp_path, embodiment="baregripper")


def test_command_line_hands_the_choices_on(tmp_path, monkeypatch, capsys):
    from traceworld.commands import simulation
    from traceworld.sim import corpus, record

    given = {}
    monkeypatch.setattr(corpus, "build_corpus", lambda *args, **options: given.update(corpus=options) or {})
    monkeypatch.setattr(record, "record_many", lambda *args, **options: given.update(record=options) or [])
    assert simulation.SimCorpus(tmp_path, embodiments=("sawyer", "hand-like"), variety=True).run() == 0
    assert simulation.SimRecord(("reach-v3",), tmp_path, embodiment="other-arm").run() == 0
    assert given["corpus"]["embodiments"] == ("sawyer", "hand-like")
    assert given["corpus"]["variety"] == Variety()
    assert (given["record"]["embodiment"], given["record"]["variety"]) == ("other-arm", None)
