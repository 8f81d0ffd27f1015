"""Depth edges and windows by path length of one clip: ours against the released pipelines' way (`released_plain.py`), in one run.

    python benchmarks/extract_released.py            # a made-up clip of 50 frames: about two minutes
    python benchmarks/extract_released.py --every 1  # clean depth for every query frame, as infer.py does by default

A box moves before a wall; its depth has a rim of mixed depths, as estimated depth has, and points lie half a pixel beside their place. Depth: the plain way cleans whole maps, anew for
every query frame, then reads them where the points are; ours marks edges in each map once, chooses no points there, and reads around each
point what belongs to its surface. Both must leave few mixed depths. Windows: the plain way projects and retargets all tracks for every frame; ours makes one
clock per clip and cuts 8 + 32 steps. Rounds alternate, seconds are CPU seconds, ratios are medians over rounds. It passes if ours takes
at most a fifth of the plain way's time for depth, with no more mixed depths than it, and no longer than it for windows (the plain way's
time for these grows with the square of the clip's length, ours with the length: `--frames 300`).
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import released_plain
import tyro

from traceworld.perception.lifting import depth_edges, sample_depth
from traceworld.traces.cutting import WindowConfig, cut_window
from traceworld.traces.types import Cameras, Clip, Traces

LIMITS = {"depth": 0.2, "windows": 1.0}
NEAR_M, FAR_M = 0.8, 1.6


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        frames, width, height, points: of the clip.
        groups: of the plain way's points, each with a clock of its own (it makes one per query frame).
        every: query frames of the plain way's depth cleaning (5 in its README, 1 in its code).
        rounds: each round runs both ways. seed: of the clip.
    """

    frames: int = 50
    width: int = 518
    height: int = 294
    points: int = 256
    groups: int = 10
    every: int = 5
    rounds: int = 3
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Scene:
    """depth_m [T,H,W], points: xy_px [T,N,2] and z_m [T,N] (truth) on the box and, behind it, on the wall; the clip of them."""

    depth_m: np.ndarray
    xy_px: np.ndarray
    z_m: np.ndarray
    clip: Clip


def make_scene(options: Options) -> Scene:
    """A box that crosses the picture, points on it and around it, at and away from its rim."""
    rng = np.random.default_rng(options.seed)
    T, N, W, H = options.frames, options.points, options.width, options.height
    K = np.array([[0.9 * W, 0, (W - 1) / 2], [0, 0.9 * W, (H - 1) / 2], [0, 0, 1]])
    side = H // 3
    left = 0.1 * W + np.linspace(0, 0.6 * W - side / 2, T)
    on_box = np.arange(N) < N // 2
    place = np.stack([rng.uniform(0, side - 1, N), rng.uniform(0, side - 1, N)], 1)
    wall = np.stack([rng.uniform(2, W - 3, N), rng.uniform(2, H - 3, N)], 1)
    depth = np.full((T, H, W), FAR_M, np.float32)
    xy, z = np.zeros((T, N, 2)), np.zeros((T, N))
    v, u = np.mgrid[:H, :W]
    for t in range(T):
        x0, y0 = round(left[t]), H // 3
        box = (u >= x0) & (u < x0 + side) & (v >= y0) & (v < y0 + side)
        inner = (u > x0) & (u < x0 + side - 1) & (v > y0) & (v < y0 + side - 1)
        rim = (u >= x0 - 1) & (u <= x0 + side) & (v >= y0 - 1) & (v <= y0 + side) & ~inner
        depth[t][box] = NEAR_M
        depth[t][rim] = (NEAR_M + FAR_M) / 2
        depth[t] += rng.normal(0, 0.001, (H, W)).astype(np.float32)
        xy[t] = np.where(on_box[:, None], place + np.array([x0, y0]), wall)
        hidden = ~on_box & (xy[t, :, 0] > x0 - 2) & (xy[t, :, 0] < x0 + side + 1)
        hidden &= (xy[t, :, 1] > y0 - 2) & (xy[t, :, 1] < y0 + side + 1)
        z[t] = np.where(on_box, NEAR_M, np.where(hidden, np.nan, FAR_M))
        xy[t] += rng.normal(0, 0.5, (N, 2))
    xyz = np.stack([(xy[..., 0] - K[0, 2]) / K[0, 0] * z, (xy[..., 1] - K[1, 2]) / K[1, 1] * z, z], -1)
    valid = np.isfinite(z)
    traces = Traces(
        xyz.astype(np.float32), valid, valid, on_box.astype(np.int32) - 1, on_box, np.zeros(N, np.int32)
    )  # fmt: skip
    return Scene(depth, xy, z, Clip("made", np.arange(T) / 30, Cameras.still(K, W, H, T), traces))


def mixed_share(read: np.ndarray, truth: np.ndarray) -> float:
    """Share of readings that are of neither surface: more than 5 % off what is there. Unknown readings do not count."""
    known = np.isfinite(read) & np.isfinite(truth)
    return float((np.abs(read - truth) > 0.05 * truth)[known].mean()) if known.any() else float("nan")


def plain_depths(scene: Scene, options: Options) -> np.ndarray:
    """[T,N] as the plain way reads them: every query frame's segment cleaned, the last cleaning of a frame is read."""
    released_plain.clean_for_every_query(scene.depth_m, scene.clip.cameras.K[0], options.every)
    return np.stack([_nearest(depth, xy) for depth, xy in zip(scene.depth_m, scene.xy_px, strict=True)])


def _nearest(depth: np.ndarray, xy: np.ndarray) -> np.ndarray:
    x, y = np.rint(xy).astype(int).T
    return depth[np.clip(y, 0, depth.shape[0] - 1), np.clip(x, 0, depth.shape[1] - 1)]


def our_depths(scene: Scene) -> np.ndarray:
    """[T,N]: edges of each map marked once; points that begin at one are never chosen (NaN), the others are read with what is
    known of their surface."""
    marked = [depth_edges(depth, max(1, round(5 * depth.shape[1] / 640))) for depth in scene.depth_m]
    chosen = np.flatnonzero(~_nearest(marked[0], scene.xy_px[0]))
    read = np.full(scene.z_m.shape, np.nan, np.float32)
    read[0, chosen] = sample_depth(scene.depth_m[0], scene.xy_px[0, chosen])[0]
    last = read[0, chosen]
    for t in range(1, len(read)):
        found, _ = sample_depth(scene.depth_m[t], scene.xy_px[t, chosen], last)
        read[t, chosen] = found
        last = np.where(np.isfinite(found), found, last)
    return read


def plain_windows(scene: Scene, options: Options) -> int:
    cameras, traces = scene.clip.cameras, scene.clip.traces
    group = np.arange(traces.num_keypoints) % options.groups
    xyz = np.nan_to_num(traces.xyz_world.astype(np.float64))  # hidden points count with the tracker's guess
    size = (cameras.width, cameras.height)
    return len(released_plain.windows_of_every_frame(xyz, group, cameras.K, cameras.cam_from_world, size))


def our_windows(scene: Scene) -> int:
    clip = dataclasses.replace(scene.clip)  # clocks are kept per clip: a new one starts without
    return len([cut_window(clip, frame, WindowConfig(clock="arc")) for frame in range(clip.num_frames)])


def in_pairs(plain: Callable[[], Any], ours: Callable[[], Any], rounds: int) -> dict[str, Any]:
    """CPU seconds of both, alternating; the median ratio over rounds."""
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    ours()  # imports and caches
    for _ in range(rounds):
        for name, run in (("plain", plain), ("ours", ours)):
            began = time.process_time()
            run()
            seconds[name].append(time.process_time() - began)
    ratio = statistics.median(b / a for a, b in zip(seconds["plain"], seconds["ours"], strict=True))
    return {**{f"{name}_cpu_s": statistics.median(spent) for name, spent in seconds.items()}, "ratio": ratio}


def measure(options: Options) -> dict[str, Any]:
    scene = make_scene(options)
    K = scene.clip.cameras.K[0]
    cleaned = np.stack([released_plain.clean_depth(depth, K) for depth in scene.depth_m])
    read = {
        "raw": np.stack([_nearest(d, xy) for d, xy in zip(scene.depth_m, scene.xy_px, strict=True)]),
        "plain": np.stack([_nearest(d, xy) for d, xy in zip(cleaned, scene.xy_px, strict=True)]),
        "ours": our_depths(scene),
    }
    depth = in_pairs(lambda: plain_depths(scene, options), lambda: our_depths(scene), options.rounds)
    segments = range(0, options.frames, options.every)
    depth["maps_cleaned"] = sum(min(released_plain.TRACKED_FRAMES, options.frames - query) for query in segments)
    depth["points"] = {name: int(np.isfinite(values[0]).sum()) for name, values in read.items()}
    depth["mixed_share"] = {name: mixed_share(values, scene.z_m) for name, values in read.items()}
    windows = in_pairs(lambda: plain_windows(scene, options), lambda: our_windows(scene), options.rounds)
    passed = {
        "depth": depth["ratio"] <= LIMITS["depth"] and depth["mixed_share"]["ours"] <= depth["mixed_share"]["plain"],
        "windows": windows["ratio"] <= LIMITS["windows"],
    }
    return {
        "options": dataclasses.asdict(options),
        "depth": depth,
        "windows": windows,
        "limits": LIMITS,
        "passed": passed,
    }


def main(options: Options) -> int:
    found = measure(options)
    print(json.dumps(found, indent=1))
    return 0 if all(found["passed"].values()) else 1


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
