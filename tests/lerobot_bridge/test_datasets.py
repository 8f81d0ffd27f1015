"""LeRobot loads, edits and trains on what we write; what LeRobot writes we read, and give back equal."""

import os
import subprocess
import sys

import lerobot_toys as toys
import numpy as np
import pytest
import torch
from lerobot.datasets.compute_stats import compute_episode_stats
from lerobot.datasets.dataset_tools import delete_episodes, merge_datasets
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from trace_clips import assert_same_clip, make_clip, write_dataset

from traceworld.traces.lerobot import LeRobotDemonstrations, export_lerobot, import_lerobot, write_lerobot
from traceworld.traces.lerobot.encode import png_bytes
from traceworld.traces.lerobot.layout import read_layout
from traceworld.traces.lerobot.stats import column_stats, picture_stats
from traceworld.traces.media import read_depth, read_frame
from traceworld.traces.store import open_dataset
from traceworld.traces.types import Event
from traceworld.traces.writer import DatasetWriter

EVENTS = (Event(0, 5, "reach", 0, "far", "moves", "near"), Event(5, 12, "push"), Event(0, 12, "all of it", 1))


def load(folder, **options):
    return LeRobotDataset("tests/set", root=folder, video_backend="pyav", **options)


def image_of(item, key):
    return (item[key].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


@pytest.mark.parametrize("pictures", ["png", "video"])
def test_lerobot_loads_what_we_write(tmp_path, pictures):
    folder = write_lerobot(toys.Demos(4), tmp_path / "set", pictures=pictures, data_mb=0.1)
    dataset = load(folder, delta_timestamps={"action": [0.0, 0.1, 0.2]})
    assert (dataset.meta.total_episodes, len(dataset), dataset.fps) == (
        4,
        sum(len(toys.demonstration(n)) for n in range(4)),
        10,
    )
    row = 0
    for number in range(4):
        demo = toys.demonstration(number)
        for frame in range(len(demo)):
            item = dataset[row]
            np.testing.assert_array_equal(item["observation.state"].numpy(), demo.state[frame])
            np.testing.assert_array_equal(item["action"][0].numpy(), demo.action[frame])
            assert item["action"].shape == (3, 3)
            assert item["action_is_pad"].tolist() == [frame + k >= len(demo) for k in range(3)]
            assert item["task"] == demo.instruction
            assert (item["episode_index"].item(), item["frame_index"].item()) == (number, frame)
            for camera in toys.CAMERAS:
                wanted, image = demo.read_frame(camera, frame), image_of(item, f"observation.images.{camera}")
                assert np.array_equal(image, wanted) if pictures == "png" else toys.close(image, wanted)
            row += 1


def test_our_statistics_are_lerobot_s():
    rng = np.random.default_rng(0)
    data = {
        "observation.state": rng.normal(size=(300, 4)).astype(np.float32),
        "timestamp": (np.arange(300) / 10).astype(np.float32),
        "index": np.arange(300),
        "mask": rng.random((300, 5)) < 0.3,
        "still": np.full((300, 2), 0.25, np.float32),
    }
    features = {key: {"dtype": str(v.dtype), "shape": v.shape[1:] or (1,)} for key, v in data.items()}
    theirs = compute_episode_stats(data, features)
    for key, values in data.items():
        ours = column_stats(values.reshape(300, -1))
        assert set(ours) == set(theirs[key])
        for name, value in ours.items():
            assert value.shape == theirs[key][name].shape
            np.testing.assert_allclose(value, theirs[key][name], rtol=2e-4, atol=2e-4 * max(1, np.abs(values).max()))


def test_our_picture_statistics_are_lerobot_s(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (7, 20, 30, 3), np.uint8)
    paths = []
    for number, image in enumerate(images):
        paths.append(str(tmp_path / f"{number}.png"))
        (tmp_path / f"{number}.png").write_bytes(png_bytes(image))
    theirs = compute_episode_stats({"image": paths}, {"image": {"dtype": "image", "shape": (20, 30, 3)}})["image"]
    for name, value in picture_stats(images).items():
        np.testing.assert_allclose(value, theirs[name], rtol=1e-3, atol=1e-3)


def record(folder, videos, depth=None):
    """A dataset recorded through LeRobot's own interface."""
    kind, size = "video" if videos else "image", (64, 64, 3)
    features = {
        "observation.state": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
        "action": {"dtype": "float32", "shape": (3,), "names": ["dx", "dy", "grip"]},
        "observation.images.top": {"dtype": kind, "shape": size, "names": ["height", "width", "channels"]},
        "reward": {"dtype": "float32", "shape": (1,), "names": None},
        "note": {"dtype": "string", "shape": (1,), "names": None},
    }
    if depth is not None:
        features["observation.images.top_depth"] = {
            "dtype": kind,
            "shape": (64, 64, 1),
            "names": ["height", "width", "channels"],
            "info": {"is_depth_map": True},
        }
    dataset = LeRobotDataset.create("tests/own", fps=10, features=features, root=folder, use_videos=videos)
    for episode in range(3):
        demo = toys.demonstration(episode)
        for frame in range(len(demo)):
            image = toys.picture(episode, 0, frame, (64, 64))
            sample = {
                "observation.state": demo.state[frame],
                "action": demo.action[frame],
                "observation.images.top": image,
                "reward": np.array([frame / 7], np.float32),
                "note": f"{episode}-{frame}",
                "task": demo.instruction,
            }
            if depth is not None:
                sample["observation.images.top_depth"] = depth[..., None]
            dataset.add_frame(sample)
        dataset.save_episode(parallel_encoding=False)
    dataset.finalize()
    return folder


@pytest.mark.parametrize("videos", [False, True])
def test_lerobot_s_own_data_come_through_our_store_equal(tmp_path, videos):
    folder = record(tmp_path / "own", videos)
    theirs, ours = load(folder), LeRobotDemonstrations(folder)
    assert len(ours) == 3
    row = 0
    for number in range(3):
        demo = ours[number]
        for frame in range(len(demo)):
            item = theirs[row]
            np.testing.assert_array_equal(demo.action[frame], item["action"].numpy())
            np.testing.assert_array_equal(demo.state[frame], item["observation.state"].numpy())
            np.testing.assert_array_equal(demo.read_frame("top", frame), image_of(item, "observation.images.top"))
            assert demo.instruction == item["task"]
            row += 1
    assert (ours.spec.names, ours.spec.state_names) == (("dx", "dy", "grip"), ("x", "y"))

    assert import_lerobot([folder], tmp_path / "clips").ok == 3
    again = load(export_lerobot(open_dataset(tmp_path / "clips"), tmp_path / "again", pictures="png", camera="top"))
    assert len(again) == len(theirs)
    for row in range(len(theirs)):
        before, after = theirs[row], again[row]
        for key in ("observation.state", "action", "reward", "observation.images.top", "timestamp", "frame_index", "episode_index", "index"):  # fmt: skip
            torch.testing.assert_close(after[key], before[key], rtol=0, atol=1e-6)
        assert (after["note"], after["task"]) == (before["note"], before["task"])


@pytest.mark.parametrize("videos", [False, True])
def test_lerobot_s_depth_is_read_in_metres(tmp_path, videos):
    millimetres = np.linspace(400, 3000, 64 * 64).reshape(64, 64).astype(np.uint16)
    folder = record(tmp_path / "own", videos, depth=millimetres)
    assert read_layout(folder).depth_keys() == ("observation.images.top_depth",)
    import_lerobot([folder], tmp_path / "clips")
    clip = open_dataset(tmp_path / "clips").clip("own/episode_000001/top")
    found = read_depth(clip, 2)
    theirs = load(folder, depth_output_unit="m")[len(toys.demonstration(0)) + 2]["observation.images.top_depth"][
        0
    ].numpy()
    np.testing.assert_allclose(found, theirs, atol=0.0006)
    np.testing.assert_allclose(found, millimetres / 1000, atol=0.0001 if not videos else 0.003)


def clip_store(folder, names, **options):
    writer = DatasetWriter(folder, source="tests")
    for number, name in enumerate(names):
        clip = make_clip(
            name, T=12, N=4 + number, seed=number, task=f"task {number}", events=EVENTS, unknown=0.2, **options
        )
        writer.write_item(name, [clip])
    writer.finalise()
    return open_dataset(folder)


@pytest.mark.parametrize("pictures", ["png", "video"])
def test_lerobot_loads_deletes_and_merges_exported_clips(tmp_path, pictures):
    write_dataset(tmp_path / "clips", clips=3, pictures=range(12), T=12, events=EVENTS)
    dataset = open_dataset(tmp_path / "clips")
    exports = [load(export_lerobot(dataset, tmp_path / name, pictures=pictures)) for name in ("a", "b")]
    item = exports[0][13]
    clip = dataset[1]
    known = item["trace.known"].numpy()
    np.testing.assert_array_equal(
        item["trace.xyz_world"].numpy().reshape(-1, 3)[known], clip.traces.xyz_world[1][known]
    )
    np.testing.assert_array_equal(item["trace.valid"].numpy(), clip.traces.valid[1])
    rows = item["language_persistent"]
    assert [(row["style"], row["content"]) for row in rows] == [
        ("subtask", "reach"), ("plan", "all of it"), ("subtask", "push")
    ]  # fmt: skip
    assert exports[0].meta.features["trace.xyz_world"]["info"]["unit"] == "m"

    kept = delete_episodes(exports[0], [1], output_dir=tmp_path / "kept", repo_id="tests/kept")
    assert kept.meta.total_episodes == 2
    assert kept.meta.features["trace.xyz_world"]["info"]["frame"] == "world"
    merged = merge_datasets([kept, exports[1]], "tests/merged", output_dir=tmp_path / "merged")
    assert merged.meta.total_episodes == 5
    assert len(merged) == 60
    assert merged[59]["trace.xyz_world"].shape == (36,)

    import_lerobot([tmp_path / "kept"], tmp_path / "back")
    back = open_dataset(tmp_path / "back")
    wanted = [dataset[0].clip_id, dataset[2].clip_id]
    assert sorted(back.clip_ids) == sorted(wanted)
    for name in wanted:
        one, two = dataset.clip(name), back.clip(name)
        assert (one.events, one.task, dict(one.provenance)) == (two.events, two.task, dict(two.provenance))
        for field in ("xyz_world", "visible", "valid", "part_id", "moving", "query_frame"):
            np.testing.assert_array_equal(getattr(one.traces, field), getattr(two.traces, field))
        assert toys.close(read_frame(two, 5), read_frame(one, 5))


def test_ragged_clips_without_pictures_survive_delete(tmp_path):
    dataset = clip_store(tmp_path / "clips", ["a", "b", "c"])
    export = load(export_lerobot(dataset, tmp_path / "out"))
    delete_episodes(export, [0], output_dir=tmp_path / "kept", repo_id="tests/kept")
    import_lerobot([tmp_path / "kept"], tmp_path / "back")
    back = open_dataset(tmp_path / "back")
    for name in ("b", "c"):
        assert_same_clip(dataset.clip(name), back.clip(name))


def test_lerobot_converts_our_v21_folder_and_both_read_equal(tmp_path):
    from lerobot.scripts.convert_dataset_v21_to_v30 import convert_dataset

    folder = toys.write_v21(tmp_path / "set", video=toys.CAMERAS)
    before = LeRobotDemonstrations(folder)
    episodes = [(before[n].action, before[n].read_frame("wrist", 2)) for n in range(3)]
    convert_dataset("tests/set", root=str(folder), push_to_hub=False)
    after = LeRobotDemonstrations(folder)
    assert after.layout.version == "v3.0"
    assert after.instructions() == before.instructions()
    for number, (action, image) in enumerate(episodes):
        np.testing.assert_array_equal(after[number].action, action)
        np.testing.assert_array_equal(after[number].read_frame("wrist", 2), image)


def test_a_stock_policy_trains_on_exported_clips(tmp_path):
    write_dataset(tmp_path / "clips", clips=2, pictures=range(20), depth=False, T=20, events=EVENTS)
    folder = export_lerobot(open_dataset(tmp_path / "clips"), tmp_path / "set", policy_data=True, image_size=(64, 64))
    command = [
        sys.executable, "-m", "lerobot.scripts.lerobot_train",
        "--dataset.repo_id=tests/set", f"--dataset.root={folder}", "--dataset.video_backend=pyav",
        "--policy.type=act", "--policy.device=cpu", "--policy.push_to_hub=false", "--policy.pretrained_backbone_weights=null",
        "--policy.chunk_size=4", "--policy.n_action_steps=4", "--policy.dim_model=32", "--policy.n_heads=2",
        "--policy.dim_feedforward=32", "--policy.n_encoder_layers=1", "--policy.n_vae_encoder_layers=1",
        f"--output_dir={tmp_path / 'run'}", "--steps=2", "--batch_size=2", "--num_workers=0", "--save_freq=2", "--log_freq=1",
        "--env_eval_freq=0", "--wandb.enable=false",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ.copy(), timeout=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run/checkpoints/last/pretrained_model/model.safetensors").exists()
