"""An episode folder as the released writer makes it, built from the description of the format with plain loops.

Nothing here uses the library's geometry: points move in the world, groups have lives and clocks of their own, rows are the
moving points on screen, and everything is rounded to float16 at the end.
"""

import json
import math

import numpy as np

F16 = np.float16
T, H, W = 40, 90, 160
K = np.array([[150.0, 0, 80.0], [0, 150.0, 45.0], [0, 0, 1]])


def camera_poses(frames, sway):
    """World-to-camera matrices of a camera that turns and shifts by `sway`; the first is the world."""
    poses = []
    for t in range(frames):
        a = sway * 0.05 * math.sin(0.2 * t)
        pose = np.eye(4)
        pose[:3, :3] = [[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]]
        pose[:3, 3] = sway * np.array([0.03 * math.sin(0.1 * t), 0.01 * t / frames, 0.02 * math.sin(0.15 * t)])
        poses.append(pose)
    return np.stack(poses)


def make_points(rng, count, frames, start=0):
    """World paths [frames, count, 3]; the first two thirds move, each at its own pace."""
    base = np.stack([rng.uniform(-0.5, 0.5, count), rng.uniform(-0.25, 0.25, count), rng.uniform(1.0, 1.6, count)], -1)
    moving = np.arange(count) < (2 * count + 2) // 3
    t = np.arange(frames)[:, None, None] / frames
    speed = rng.uniform(0.4, 1.0, count)[None, :, None]
    way = np.concatenate([1.1 * t * speed, -0.15 * np.sin(5 * t) * speed, 0.2 * t * speed], -1)
    return base[None] + np.where(moving[None, :, None], way, 0), moving


def pixels(world, pose, intrinsics):
    camera = world @ pose[:3, :3].T + pose[:3, 3]
    return np.stack(
        [
            intrinsics[0, 0] * camera[..., 0] / camera[..., 2] + intrinsics[0, 2],
            intrinsics[1, 1] * camera[..., 1] / camera[..., 2] + intrinsics[1, 2],
            camera[..., 2],
        ],
        -1,
    )


def retarget(track, limit, size=(W, H)):
    """The arc-length rule for one group: [H', n, 3] frames first → [n, limit, 3] padded with −inf, and how many hold."""
    frames, n, _ = track.shape
    scaled = track / np.array([*size, 1.0])
    k = max(1, math.ceil(0.02 * n))
    length = []
    for t in range(frames - 1):
        steps = sorted(float(np.linalg.norm(scaled[t + 1, i] - scaled[t, i])) for i in range(n))
        length.append(sum(steps[-k:]) / k)
    path = [0.0]
    for step in length:
        path.append(path[-1] + step)
    M = min(int(path[-1] / 0.05) + 1, limit)
    out = np.full((n, limit, 3), -np.inf)
    for j in range(M):
        target = 0.05 * j
        at = 0
        while at + 1 < frames - 1 and path[at + 1] <= target:
            at += 1
        share = (target - path[at]) / length[at] if frames > 1 and length[at] > 1e-12 else 0.0
        after = track[min(at + 1, frames - 1)]
        out[:, j] = track[at] + share * (after - track[at])
    return out, M


def padded(track, limit):
    """Frame-aligned positions [n, limit, 3] and how many hold."""
    count = min(limit, len(track))
    out = np.full((track.shape[1], limit, 3), -np.inf)
    out[:, :count] = track[:count].transpose(1, 0, 2)
    return out, count


def write_official(folder, sway=1.0, second_chunk=20, seed=0, future=128, history=32, captions=True, meta=None):
    """Write one episode; returns the true world paths, which rows are which point, and the points' first frames.

    Points come in three groups: two from the first tracking chunk, one from the second (from frame `second_chunk` on),
    whose cluster ids start from 0 again.
    """
    rng = np.random.default_rng(seed)
    poses = camera_poses(T, sway)
    groups = []
    for born, count in ((0, 9), (0, 6), (second_chunk, 6)):
        world, moving = make_points(rng, count, T)
        groups.append((born, world, moving, rng.integers(0, 3, count), rng.random((T, count)) < 0.9))
    samples = {name: [] for name in ("keypoints", "cluster_ids", "is_moving", "visibs", "truth")}
    windows = {name: [] for name in ("traj", "traj_history", "raw_traj", "raw_traj_history")}
    windows |= {name.replace("traj", "valid_steps"): [] for name in list(windows)}
    frame_indices, offsets = [], [0]
    for t in range(T):
        rows = 0
        for number, (born, world, moving, cluster, seen) in enumerate(groups):
            if t < born:
                continue
            view = np.stack([pixels(world[f], poses[t], K) for f in range(T)])
            ahead, back = view[t:], view[born : t + 1][::-1]
            now = view[t]
            keep = moving & (now[:, 0] >= 0) & (now[:, 0] <= W) & (now[:, 1] >= 0) & (now[:, 1] <= H)
            made = {
                "traj": retarget(ahead, future),
                "traj_history": retarget(back, history),
                "raw_traj": padded(ahead, future),
                "raw_traj_history": padded(back, history),
            }
            for name, (values, count) in made.items():
                windows[name].append(values[keep])
                mask = np.arange(values.shape[1]) < count
                windows[name.replace("traj", "valid_steps")].append(np.repeat(mask[None], keep.sum(), 0))
            samples["keypoints"].append(now[keep, :2])
            samples["cluster_ids"].append(cluster[keep])
            samples["is_moving"].append(moving[keep])
            samples["visibs"].append(seen[t, keep])
            samples["truth"].append(np.stack([np.full(keep.sum(), number), np.flatnonzero(keep)], -1))
            rows += int(keep.sum())
        if rows and max(int(m.sum(1).max(initial=0)) for m in windows["valid_steps"][-3:]) >= 2:
            frame_indices.append(t)
            offsets.append(offsets[-1] + rows)
        else:
            for parts in (*samples.values(), *windows.values()):
                del parts[len(parts) - sum(t >= g[0] for g in groups) :]
    arrays = {name: np.concatenate(parts) for name, parts in (samples | windows).items()}
    truth = arrays.pop("truth")
    (folder / "samples").mkdir(parents=True)
    dtypes = {"cluster_ids": np.int32, "is_moving": np.bool_} | {n: np.bool_ for n in arrays if "valid" in n}
    for name, values in arrays.items():
        np.save(folder / "samples" / f"{name}.npy", values.astype(dtypes.get(name, F16)))
    np.save(folder / "samples" / "frame_indices.npy", np.array(frame_indices, np.int32))
    np.save(folder / "samples" / "offsets.npy", np.array(offsets, np.int64))
    np.save(folder / "images.npy", rng.integers(0, 256, (T, H, W, 3), dtype=np.uint8))
    np.save(folder / "depth.npy", rng.uniform(0.3, 9, (T, H, W)).astype(F16))
    np.savez(
        folder / "cameras.npz",
        intrinsics=np.repeat(K[None], T, 0).astype(np.float32),
        extrinsics=poses.astype(np.float32),
        height=np.int32(H),
        width=np.int32(W),
    )
    np.savez(folder / "acceleration.npz", acceleration=rng.random(T).astype(np.float32))
    np.savez(
        folder / "movement_statistics.npz",
        total_unique_kps=np.int64(21),
        n_above_005=np.int64(14),
        n_above_010=np.int64(13),
        cam_trans_step=rng.random(T - 1).astype(np.float32),
        cam_trans_total=np.float32(1.5),
    )
    (folder / "description.txt").write_text("push the cup\n")
    (folder / "meta.json").write_text(json.dumps(meta or {"dataset": "droid", "shard": 3, "episode_index": 7}))
    if captions:
        (folder / "curated_training_texts.json").write_text(json.dumps(TEXTS))
        (folder / "curated").mkdir()
        (folder / "curated" / "chunks_meta.json").write_text('{"chunks": [1, 2]}')
        (folder / "curated_captions.json").write_text('{"video_dir": "/somewhere"}')
    return [group[1] for group in groups], truth, [group[0] for group in groups]


def chunk(number, start, end, *said, **more):
    texts = {f"instruction_{i + 1}": text for i, text in enumerate(said)}
    return {"chunk_id": number, "start_idx": start, "end_idx": end, **texts, "embodiment_type": "human_hand", **more}


TEXTS = {
    "video_id": "toy",
    "n_frames": T,
    "chunk_texts": [
        chunk(0, 0, 18, "A hand reaches.", "Reach for the cup.", "Could you reach it?"),
        chunk(1, 19, 39, "", "Push the cup.", ""),
        chunk(2, 30, 39, "", "", "", error="timeout"),
    ],
    "merged_texts": [
        {"merge_type": "pair", "source_chunk_ids": [0, 1], "start_idx": 0, "end_idx": 39, "instruction_1": "All of it."}
    ],
}
