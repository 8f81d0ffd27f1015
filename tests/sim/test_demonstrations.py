"""Demonstrations: recorded by seed, whole or absent, read back as what was seen and done."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

pytest.importorskip("metaworld")

from traceworld.errors import ConfigError, DatasetError, InvalidInputError
from traceworld.sim import demonstrations
from traceworld.sim.control import FIRST_TEST_SEED, WRIST, MetaworldEnv
from traceworld.sim.demonstrations import DemonstrationConfig, StoredDemonstrations, play_expert, record_demonstrations

pytestmark = pytest.mark.render

SMALL = DemonstrationConfig(cameras=("corner2", WRIST), image_size=(48, 36), hold_steps=2, action_noise=0.3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two demonstrations of reaching."""
    out = tmp_path_factory.mktemp("demos")
    rows = record_demonstrations(out, ["reach-v3"], 2, SMALL)
    assert rows[0]["demonstrations"] == 2
    assert rows[0]["failed"] == []
    return out


def _about(path):
    return json.loads(pq.read_schema(path).metadata[b"traceworld.demonstration"])


def _actions_sent(path):
    return np.array(pq.read_table(path, columns=["sent"])["sent"].to_pylist(), np.float32)


def test_what_is_stored_is_what_was_seen_and_done(folder):
    stored = StoredDemonstrations(folder)
    one, path = stored[1], folder / "episodes" / "reach-v3-00001.parquet"
    about = _about(path)
    assert about["seed"] < FIRST_TEST_SEED
    assert len(one) == about["success_step"] + SMALL.hold_steps
    with MetaworldEnv("reach", SMALL.cameras, SMALL.image_size) as env:
        env.reset(about["seed"])
        for frame, action in enumerate(_actions_sent(path)):
            if frame in (0, 17, len(one) - 1):
                seen = env.observe()
                assert np.array_equal(one.state[frame], seen.state)
                for camera in SMALL.cameras:
                    difference = one.read_frame(camera, frame).astype(int) - seen.images[camera]
                    assert np.abs(difference).mean() < 4, (camera, frame)  # JPEG
            outcome = env.step(action)
            assert outcome.success == (frame + 1 >= about["success_step"])


def test_depth_is_what_the_camera_measured_to_a_tenth_of_a_millimetre(tmp_path):
    config = replace(SMALL, depth=True, max_steps=200)
    record_demonstrations(tmp_path / "d", ["reach-v3"], 1, config)
    one, path = StoredDemonstrations(tmp_path / "d")[0], tmp_path / "d" / "episodes" / "reach-v3-00000.parquet"
    assert one.depth_cameras == SMALL.cameras
    with MetaworldEnv("reach", SMALL.cameras, SMALL.image_size, True) as env:
        env.reset(_about(path)["seed"])
        seen = env.observe()
    for camera in SMALL.cameras:
        read = one.depth_m(camera, 0)
        assert read.dtype == np.float32
        assert np.array_equal(np.isnan(read), np.isnan(seen.depth_m[camera]))
        assert np.nanmax(np.abs(read - seen.depth_m[camera])) <= 0.000101
    assert pickle.loads(pickle.dumps(one.read_depth))("corner2", 1).shape == (36, 48)
    with pytest.raises(ConfigError, match="other settings"):
        record_demonstrations(tmp_path / "d", ["reach-v3"], 1, replace(config, depth=False))


def test_folders_from_before_there_was_depth_are_gone_on_with(folder):
    described = json.loads((folder / "demonstrations.json").read_text())
    assert "depth" not in described["settings"]
    one = StoredDemonstrations(folder)[0]
    assert one.depth_cameras == ()
    with pytest.raises(InvalidInputError, match="has no depth"):
        one.depth_m("corner2", 0)


def test_the_action_is_the_experts_and_the_noise_is_only_sent(folder):
    stored = StoredDemonstrations(folder)
    sent = _actions_sent(folder / "episodes" / "reach-v3-00000.parquet")
    difference = sent - stored[0].action
    assert np.abs(difference[:, :3]).max() > 0.05
    assert not difference[:, 3].any()
    assert np.abs(sent).max() <= 1
    with MetaworldEnv("reach") as env:
        env.reset(_about(folder / "episodes" / "reach-v3-00000.parquet")["seed"])
        for action, intended in zip(sent[:10], stored[0].action[:10], strict=True):
            assert np.allclose(np.clip(env.expert().get_action(env.expert_view()), -1, 1), intended, atol=1e-6)
            env.step(action)


def test_a_set_says_what_its_numbers_mean(folder):
    stored = StoredDemonstrations(folder)
    assert len(stored) == 2
    assert stored.spec.names == ("dx", "dy", "dz", "gripper")
    assert stored.spec.control_hz == stored[0].fps == 80
    assert stored.instructions() == ["move the gripper to the goal"] * 2
    assert stored[0].success
    assert stored[0].cameras == ("corner2", WRIST)
    assert stored[0].episode_id == "reach-v3-00000"
    assert not np.array_equal(stored[0].state[0, :3], stored[1].state[-1, :3])


def test_readers_work_in_other_processes(folder):
    reader = StoredDemonstrations(folder)[0].read_frame
    again = pickle.loads(pickle.dumps(reader))
    assert np.array_equal(again("corner2", 20), reader("corner2", 20))
    with pytest.raises(InvalidInputError, match="not frame 9999"):
        reader("corner2", 9999)
    with pytest.raises(InvalidInputError, match="no camera 'topview'"):
        reader("topview", 0)


def test_a_killed_recording_goes_on_and_gives_the_same_bytes(folder, monkeypatch):
    files = sorted((folder / "episodes").iterdir())
    before = [file.read_bytes() for file in files]
    files[1].unlink()
    recorded = []
    record = demonstrations._Recorder.record
    monkeypatch.setattr(
        demonstrations._Recorder, "record", lambda self, *job: (recorded.append(job), record(self, *job))[1]
    )
    record_demonstrations(folder, ["reach-v3"], 2, SMALL)
    assert recorded == [("reach-v3", 1)]
    assert [file.read_bytes() for file in sorted((folder / "episodes").iterdir())] == before


def test_a_folder_of_other_settings_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match="other settings"):
        record_demonstrations(folder, ["reach-v3"], 1, replace(SMALL, seed=1))
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(ConfigError, match="holds no demonstrations"):
        record_demonstrations(tmp_path, ["reach-v3"], 1, SMALL)


def test_seeds_on_which_the_expert_fails_are_left_out(tmp_path, monkeypatch):
    tried = []

    def fails(env, seed, config):
        tried.append(seed)
        return np.zeros((1, 4), np.float32), np.zeros((1, 4), np.float32), None

    monkeypatch.setattr(demonstrations, "play_expert", fails)
    rows = record_demonstrations(tmp_path, ["reach-v3"], 2, SMALL)
    assert rows == [{"task": "reach-v3", "demonstrations": 0, "frames": 0, "failed": [0, 1]}]
    assert tried == list(range(2 * demonstrations.ATTEMPTS))
    with pytest.raises(DatasetError, match="no demonstration"):
        StoredDemonstrations(tmp_path)


def test_the_expert_is_given_up_after_max_steps():
    with MetaworldEnv("reach", max_steps=7) as env:
        env.reset(0)
        intended, sent, done = play_expert(env, 0, replace(SMALL, max_steps=7))
    assert done is None
    assert intended.shape == sent.shape == (7, 4)


def test_parts_of_a_set(folder):
    assert len(StoredDemonstrations(folder, ["reach-v3"], per_task=1)) == 1
    with pytest.raises(ConfigError, match="none of 'push-v3'"):
        StoredDemonstrations(folder, ["push-v3"])


def test_damage_is_named(folder, tmp_path):
    copy = tmp_path / "copy"
    (copy / "episodes").mkdir(parents=True)
    (copy / "demonstrations.json").write_bytes((folder / "demonstrations.json").read_bytes())
    path = copy / "episodes" / "reach-v3-00000.parquet"
    path.write_bytes((folder / "episodes" / "reach-v3-00000.parquet").read_bytes()[:-100])
    with pytest.raises(DatasetError, match="record again"):
        StoredDemonstrations(copy)[0]
    with pytest.raises(DatasetError, match="cannot be read"):
        StoredDemonstrations(tmp_path / "nowhere")


def test_nothing_to_record_is_refused(tmp_path):
    with pytest.raises(ConfigError):
        record_demonstrations(tmp_path, [], 1)
    with pytest.raises(ConfigError):
        DemonstrationConfig(action_noise=-0.1)
