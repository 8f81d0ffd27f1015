"""Scenes of a chequered floor and boxes of known size, cast ray by ray, and training files of them."""

import json

import cv2
import numpy as np

from traceworld.tracespatial.answers import format_answer, format_trace, to_thousandths
from traceworld.tracespatial.steps import format_step

WIDTH, HEIGHT, FOCAL = 56, 42, 60.0
K = np.array([[FOCAL, 0, WIDTH / 2 - 0.5], [0, FOCAL, HEIGHT / 2 - 0.5], [0, 0, 1]])
COLOURS = {"red": (210, 40, 40), "blue": (40, 60, 210)}


def cast(seed):
    """(image, depth_m, world_from_cam, centre of each box's front in pixels and metres): the camera is 0.3 to 3 m up."""
    rng = np.random.default_rng(seed)
    height = float(np.exp(rng.uniform(np.log(0.3), np.log(3.0))))
    pitch = rng.uniform(0.6, 0.9)
    right, forward = np.array([1.0, 0, 0]), np.array([0, np.cos(pitch), -np.sin(pitch)])
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = (0, 0, height)
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    rays_cam = np.stack([(u - K[0, 2]) / FOCAL, (v - K[1, 2]) / FOCAL, np.ones((HEIGHT, WIDTH))], axis=-1)
    rays = rays_cam @ pose[:3, :3].T
    depth = np.where(rays[..., 2] < 0, -height / np.minimum(rays[..., 2], -1e-9), 0)
    floor = pose[:3, 3] + depth[..., None] * rays
    chequer = (np.floor(floor[..., 0] / 0.25) + np.floor(floor[..., 1] / 0.25)) % 2
    image = np.repeat((90 + 90 * chequer)[..., None], 3, axis=-1)
    uvd = {}
    reach = height / np.tan(pitch)
    for side, (colour, rgb) in zip((-1, 1), COLOURS.items(), strict=True):
        size = height * rng.uniform(0.1, 0.25, 3)
        low = np.array([side * height * rng.uniform(0.15, 0.4), reach * rng.uniform(0.8, 1.2), 0]) - [size[0] / 2, 0, 0]
        hit = _box_depth(pose[:3, 3], rays, low, low + size)
        seen = (hit > 0) & ((depth == 0) | (hit < depth))
        depth, image = np.where(seen, hit, depth), np.where(seen[..., None], rgb, image)
        middle = pose[:3, :3].T @ (low + size * [0.5, 0, 0.5] - pose[:3, 3])
        pixel = K @ middle / middle[2]
        uvd[colour] = np.array([pixel[0], pixel[1], middle[2]])
    return image.astype(np.uint8), depth.astype(np.float32), pose, uvd


def _box_depth(origin, rays, low, high):
    """z-depth at which rays enter an upright box; 0 where they miss."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = np.stack([(low - origin) / rays, (high - origin) / rays])
    near, far = ends.min(0).max(-1), ends.max(0).min(-1)
    return np.where((near < far) & (near > 0), near, 0)


def words(depth, uvd, colour="red", think=True):
    """Question and answer about a scene: where a box is, and (with `think`) the scale of the scene."""
    point = to_thousandths(uvd[colour][None], WIDTH, HEIGHT)
    answer = format_trace(point)
    if not think:
        return f"Where is {colour}?", answer
    step = format_step(1, "Scale", "scene", value=float(depth[depth > 0].mean()))
    return f"Where is {colour}?", format_answer(step, answer)


def write_file(folder, seeds, think=True, **changes):
    """A training file of one question per scene; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for seed in seeds:
        image, depth, pose, uvd = cast(seed)
        cv2.imwrite(str(folder / f"{seed}.png"), image[..., ::-1])
        np.save(folder / f"{seed}.npy", depth)
        question, answer = words(depth, uvd, "red" if seed % 2 else "blue", think)
        said = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
        entry = {
            "id": seed,
            "image": f"{seed}.png",
            "depth": f"{seed}.npy",
            "intrinsics": K.tolist(),
            "pose": pose.tolist(),
        }
        entries.append({**entry, "conversations": said, **changes})
    file = folder / "train.json"
    file.write_text(json.dumps(entries))
    return file
