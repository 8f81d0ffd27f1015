"""Small clips with known traces for the tests of this room."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from traceworld.traces.media import write_pictures
from traceworld.traces.types import Cameras, Clip, Event, Traces
from traceworld.traces.writer import DatasetWriter

K = np.array([[500.0, 0, 319.5], [0, 505.0, 239.5], [0, 0, 1]])
WIDTH, HEIGHT = 640, 480


def swaying_poses(num_frames, amount=1.0):
    """A camera that turns and shifts smoothly: [T,4,4] camera-from-world."""
    t = np.linspace(0, 1, num_frames)
    yaw, poses = 0.15 * amount * np.sin(3 * t), np.repeat(np.eye(4)[None], num_frames, 0)
    poses[:, 0, 0], poses[:, 0, 2] = np.cos(yaw), np.sin(yaw)
    poses[:, 2, 0], poses[:, 2, 2] = -np.sin(yaw), np.cos(yaw)
    poses[:, :3, 3] = amount * np.stack([0.05 * t, -0.03 * t, 0.02 * np.sin(5 * t)], -1)
    return poses


def make_clip(clip_id="clip", T=60, N=12, seed=0, poses=None, step_s=0.025, occluded=0.1, unknown=0.0, **fields):
    """Half of the points swing along a smooth path, the others rest; some are occluded or unknown in some frames."""
    rng = np.random.default_rng(seed)
    t = np.arange(T) * step_s
    start = np.stack([rng.uniform(-0.3, 0.3, N), rng.uniform(-0.2, 0.2, N), rng.uniform(0.8, 1.2, N)], -1)
    moving = np.arange(N) < N // 2
    path = np.stack([0.1 * np.sin(2 * t), 0.05 * np.cos(3 * t) - 0.05, 0.04 * t], -1)
    xyz = (start[None] + moving[None, :, None] * path[:, None]).astype(np.float32)
    valid = rng.random((T, N)) >= unknown
    visible = valid & (rng.random((T, N)) >= occluded)
    xyz[~valid] = np.nan
    cameras = Cameras(
        np.repeat(K[None], T, 0), np.repeat(np.eye(4)[None], T, 0) if poses is None else poses, WIDTH, HEIGHT
    )
    traces = Traces(xyz, visible, valid, (np.arange(N) % 3 - 1).astype(np.int32), moving, np.zeros(N, np.int32))
    return Clip(clip_id, t, cameras, traces, **fields)


def picture(frame, size=(32, 24)):
    """A picture whose content says which frame it is of."""
    image = np.zeros((size[1], size[0], 3), np.uint8)
    image[..., 0], image[..., 1] = 4 * (frame % 60), np.linspace(0, 200, size[0]).astype(np.uint8)
    return image


def write_dataset(folder, clips=3, pictures=range(0, 60, 10), depth=True, finalise=True, **options):
    """A dataset of one clip per item, with a few small pictures each."""
    writer = DatasetWriter(folder, source="tests")
    for number in range(clips):
        clip = make_clip(f"clip-{number}", seed=number, **{"task": f"task {number % 2}"} | options)
        images = {frame: picture(frame) for frame in pictures if frame < clip.num_frames}
        depths = {f: np.full((24, 32), 1.0 + f / 100, np.float32) for f in images} if depth else None
        media = write_pictures(writer.media_folder(f"item {number}"), images, depths, relative_to=folder)
        writer.write_item(f"item {number}", [replace(clip, media=media)], timings={"total": 0.5})
    if finalise:
        writer.finalise()
    return Path(folder)


def assert_same_clip(a, b):
    """Exact equality of two clips, NaN equal to NaN."""
    assert (a.clip_id, a.task, a.metric, a.media, a.events) == (b.clip_id, b.task, b.metric, b.media, b.events)
    assert (a.cameras.width, a.cameras.height) == (b.cameras.width, b.cameras.height)
    pairs = [(a.time_s, b.time_s), (a.cameras.K, b.cameras.K), (a.cameras.cam_from_world, b.cameras.cam_from_world)]
    names = ("xyz_world", "visible", "valid", "part_id", "moving", "query_frame")
    pairs += [(getattr(a.traces, name), getattr(b.traces, name)) for name in names]
    for left, right in pairs:
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)
    assert dict(a.provenance) == dict(b.provenance)


EVENTS = (Event(0, 20, "reach", 0, "hand away", "moves", "hand near"), Event(20, 60, "push"), Event(0, 60, "do it", 1))
