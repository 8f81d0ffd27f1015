"""Small videos and RGB-D folders made on the spot, whole and broken, with everything about them known."""

from __future__ import annotations

import json
import os
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

SHARED = Path(os.environ.get("TRACEWORLD_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
BRIDGE = SHARED / "bridge_drawer"


def needs_shared(path: Path):
    """Skips a test, with the reason, where the shared real data is absent."""
    return pytest.mark.skipif(not path.exists(), reason=f"{path} is not here (set TRACEWORLD_SHARED_DATA)")


def texture(seed: int, height: int, width: int, cell: int = 4) -> np.ndarray:
    """Coarse random texture that survives compression: uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(30, 226, (height // cell + 1, width // cell + 1, 3), np.uint8)
    return np.repeat(np.repeat(coarse, cell, 0), cell, 1)[:height, :width]


def moving_square(
    num_frames: int, width: int = 160, height: int = 120, size: int = 40, step: int = 2
) -> list[np.ndarray]:
    """A textured square that slides right over a textured ground, in front of a still camera."""
    ground, square = texture(0, height, width), texture(1, size, size)
    frames = []
    for frame in range(num_frames):
        image = ground.copy()
        x = min(10 + step * frame, width - size - 1)
        image[30 : 30 + size, x : x + size] = square
        frames.append(image)
    return frames


def write_video(
    path: Path,
    images: list[np.ndarray],
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    rate: int = 30,
    pts_ms: list[int] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Encode images; with `pts_ms`, at those presentation times."""
    from fractions import Fraction

    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pixel_format
        stream.gop_size = 8
        if codec == "libx264":
            stream.options = {"crf": "12", "preset": "ultrafast"}
        if pts_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            if pts_ms is not None:
                frame.pts, frame.time_base = pts_ms[number], Fraction(1, 1000)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def turn_mp4(path: Path, degrees: int) -> None:
    """Set the rotation in an mp4's track header by hand (the display matrix of `tkhd`)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: 40 bytes from the flags to the matrix
    one, minus = (0x00010000).to_bytes(4, "big"), (0xFFFF0000).to_bytes(4, "big")
    zero, w = bytes(4), (0x40000000).to_bytes(4, "big")
    a, b, c, d = {90: (zero, one, minus, zero), 180: (minus, zero, zero, minus)}[degrees]
    data[at : at + 36] = a + b + zero + c + d + zero + zero + zero + w
    path.write_bytes(data)


def damage(path: Path, start: float, num_bytes: int = 3000) -> None:
    """Overwrite bytes from this share of the file on with noise."""
    data = bytearray(path.read_bytes())
    at = int(len(data) * start)
    noise = np.random.default_rng(0).integers(0, 256, num_bytes, np.uint8).tobytes()
    data[at : at + num_bytes] = noise[: len(data) - at]
    path.write_bytes(data)


def cut_off(path: Path, share: float) -> None:
    """Keep only this share of the file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def K_of(width: int, height: int, focal: float) -> np.ndarray:
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


def render_boxes(K: np.ndarray, cam_from_world: np.ndarray, width: int, height: int, shift: float = 0.0):
    """Ray-cast a textured wall at 1.2 m and three textured boards in front of it: uint8 image and float32 depth (m).

    `shift` moves the first board to the right, metres.
    """
    rows, cols = np.mgrid[:height, :width]
    rays = np.stack([(cols - K[0, 2]) / K[0, 0], (rows - K[1, 2]) / K[1, 1], np.ones_like(cols, float)], -1)
    world_from_cam = np.linalg.inv(cam_from_world)
    directions, origin = rays @ world_from_cam[:3, :3].T, world_from_cam[:3, 3]
    image, depth = np.zeros((height, width, 3), np.uint8), np.full((height, width), np.inf)
    boards = [  # z, x0, x1, y0, y1, brightness
        (1.2, -9, 9, -9, 9, 70),
        (0.6, -0.22 + shift, -0.08 + shift, -0.12, 0.05, 200),
        (0.7, 0.05, 0.2, -0.15, 0.1, 150),
        (0.5, -0.1, 0.05, 0.08, 0.16, 230),
    ]
    for number, (z, x0, x1, y0, y1, brightness) in enumerate(boards):
        t = (z - origin[2]) / directions[..., 2]
        point = origin + directions * t[..., None]
        hit = (point[..., 0] >= x0) & (point[..., 0] < x1) & (point[..., 1] >= y0) & (point[..., 1] < y1) & (t < depth)
        local = np.floor((point[..., :2] - [x0, y0]) * 60).astype(np.int64)
        grain = (local[..., 0] * 7919 + local[..., 1] * 104729 + number * 31) % 23
        shade = (brightness + grain[..., None] * [1.0, 0.8, 0.6] - 11).clip(0, 255)
        image[hit], depth[hit] = shade[hit].astype(np.uint8), t[hit]
    return image, depth.astype(np.float32)


def write_rgbd(
    folder: Path,
    images: list[np.ndarray],
    depths_m: list[np.ndarray],
    *,
    unit_m: float = 0.001,
    suffix: str = ".png",
    **fields,
) -> Path:
    """An RGB-D folder; `fields` are added to `clip.json`, a value of None leaves a field out."""
    (folder / "color").mkdir(parents=True)
    (folder / "depth").mkdir()
    height, width = images[0].shape[:2]
    about = {
        "task": "move the board",
        "width": width,
        "height": height,
        "color_K": K_of(width, height, 1.1 * width).tolist(),
        "depth_unit_m": unit_m,
        "depth_registered": True,
        "timestamps_s": [frame / 10 for frame in range(len(images))],
    }
    for number, (image, depth_m) in enumerate(zip(images, depths_m, strict=True)):
        Image.fromarray(image).save(folder / "color" / f"{number:04d}.png", compress_level=1)
        if suffix == ".npy":
            np.save(folder / "depth" / f"{number:04d}.npy", depth_m.astype(np.float32) / np.float32(unit_m))
        else:
            stored = np.nan_to_num(np.rint(depth_m / unit_m), nan=0, posinf=0).clip(0, 65535).astype(np.uint16)
            Image.fromarray(stored).save(folder / "depth" / f"{number:04d}.png", compress_level=1)
    known = {key: value for key, value in (about | fields).items() if value is not None}
    (folder / "clip.json").write_text(json.dumps(known))
    return folder


def boards_clip(num_frames: int = 6, width: int = 160, height: int = 120, step_m: float = 0.004):
    """Images and depth of the boards scene, one board moving, camera still, depth seen by the colour camera."""
    K = K_of(width, height, 1.1 * width)
    views = [render_boxes(K, np.eye(4), width, height, step_m * frame) for frame in range(num_frames)]
    return [view[0] for view in views], [view[1] for view in views]
