"""Small demonstrations with everything about them known, and a LeRobot v2.1 folder made of them by hand."""

import json
from fractions import Fraction

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from traceworld.traces.demonstrations import Demonstration
from traceworld.traces.lerobot.encode import png_bytes
from traceworld.traces.robot import ActionSpec

SPEC = ActionSpec(("dx", "dy", "grip"), (-1.0,) * 3, (1.0,) * 3, 10.0, ("x", "y"))
CAMERAS = ("scene", "wrist")
SIZE = (48, 32)  # width, height
LENGTHS = (7, 4, 9)


def picture(episode, camera, frame, size=SIZE):
    """Flat colours that say which episode, camera and frame it is of, and survive compression."""
    image, episode = np.zeros((size[1], size[0], 3), np.uint8), episode % 3
    image[: size[1] // 2] = [20 * frame + 20, 60 * episode + 40, 100 * camera + 50]
    image[size[1] // 2 :] = [200 - 15 * frame, 128, 30 + 40 * episode]
    return image


def demonstration(episode=0, fps=10.0, success=None, cameras=CAMERAS, length=None):
    T, rng = length or LENGTHS[episode % len(LENGTHS)], np.random.default_rng(episode)

    def read_frame(camera, frame):
        return picture(episode, cameras.index(camera), frame)

    return Demonstration(
        f"demo-{episode}",
        f"do task {episode % 2}",
        fps,
        rng.normal(size=(T, 2)).astype(np.float32),
        rng.uniform(-1, 1, (T, 3)).astype(np.float32),
        cameras,
        read_frame,
        success,
    )


class Demos:
    """A set of demonstrations in memory."""

    name, spec = "toys", SPEC

    def __init__(self, number=3, **options):
        self.items = [demonstration(episode, **options) for episode in range(number)]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]

    def instructions(self):
        return [item.instruction for item in self.items]


def encode_video(path, images, fps, codec="libx264", gop=30):
    """A video made without the library's own encoder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps), options={"g": str(gop), "crf": "10"})
        stream.width, stream.height, stream.pix_fmt = images[0].shape[1], images[0].shape[0], "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def write_v21(folder, demos=None, video=("scene",), chunks_size=1000, **changed):
    """A LeRobot v2.1 folder: one parquet per episode, JSON lines in meta/, cameras as video or as images in the parquet."""
    demos = demos or Demos()
    features = {
        "observation.state": {"dtype": "float32", "shape": [2], "names": {"motors": list(SPEC.state_names)}},
        "action": {"dtype": "float32", "shape": [3], "names": {"motors": list(SPEC.names)}},
    }
    for camera in CAMERAS:
        features[f"observation.images.{camera}"] = {
            "dtype": "video" if camera in video else "image",
            "shape": [SIZE[1], SIZE[0], 3],
            "names": ["height", "width", "channel"],
        } | (
            {"info": {"video.fps": 10.0, "video.codec": "h264", "video.is_depth_map": False}} if camera in video else {}
        )
    for key, dtype in {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64", "task_index": "int64"}.items():  # fmt: skip
        features[key] = {"dtype": dtype, "shape": [1], "names": None}
    tasks = list(dict.fromkeys(demos.instructions()))
    start, episodes, stats = 0, [], []
    for number in range(len(demos)):
        demo = demos[number]
        T, chunk = len(demo), number // chunks_size
        columns = {
            "observation.state": pa.array(demo.state.tolist(), pa.list_(pa.float32())),
            "action": pa.array(demo.action.tolist(), pa.list_(pa.float32())),
            "timestamp": pa.array((np.arange(T) / 10).astype(np.float32)),
            "frame_index": pa.array(np.arange(T)),
            "episode_index": pa.array(np.full(T, number)),
            "index": pa.array(np.arange(start, start + T)),
            "task_index": pa.array(np.full(T, tasks.index(demo.instruction))),
        }
        for camera in CAMERAS:
            images = [demo.read_frame(camera, frame) for frame in range(T)]
            key = f"observation.images.{camera}"
            if camera in video:
                encode_video(folder / f"videos/chunk-{chunk:03d}/{key}/episode_{number:06d}.mp4", images, 10)
            else:
                columns[key] = pa.array([{"bytes": png_bytes(i), "path": "x.png"} for i in images])
        path = folder / f"data/chunk-{chunk:03d}/episode_{number:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)
        start += T
        episodes.append({"episode_index": number, "tasks": [demo.instruction], "length": T})
        numbers = {
            name: getattr(demo.action, name)(0).tolist() for name in ("min", "max", "mean", "std")
        } | {"count": [T]}  # fmt: skip
        stats.append({"episode_index": number, "stats": {"action": numbers}})
    info = {
        "codebase_version": "v2.1",
        "robot_type": "toy",
        "total_episodes": len(demos),
        "total_frames": start,
        "total_tasks": len(tasks),
        "total_videos": len(demos) * len(video),
        "total_chunks": 1,
        "chunks_size": chunks_size,
        "fps": 10,
        "splits": {"train": f"0:{len(demos)}"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": features,
    }
    meta = folder / "meta"
    meta.mkdir(parents=True)
    (meta / "info.json").write_text(json.dumps(info | changed))
    for name, lines in {
        "episodes": episodes,
        "tasks": [{"task_index": i, "task": task} for i, task in enumerate(tasks)],
        "episodes_stats": stats,
    }.items():
        (meta / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def close(image, wanted, tolerance=6):
    """Whether a decoded picture is the wanted one, up to compression."""
    return image.shape == wanted.shape and np.abs(image.astype(int) - wanted).mean() < tolerance
