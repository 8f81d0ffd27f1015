"""A small world with exact answers: a tilted plane seen by a moving camera. Every picture is one grey level that says which
frame it is, so that a stand-in for a model knows what it looks at, whatever it is given and in whatever order."""

from __future__ import annotations

import numpy as np

from traceworld.perception.chunks import FrameChunk, PointQueries
from traceworld.perception.interfaces import Frame

WIDTH, HEIGHT, FRAMES = 112, 84, 12
K = np.array([[100.0, 0, 57.0], [0, 104.0, 40.0], [0, 0, 1]])
LEVEL = 20
HIDDEN_X = (70.0, 76.0)  # pixels: a point there is behind something
_NORMAL, _OFFSET = np.array([-0.2, 0.1, 1.0]), 2.0  # plane: normal · X = offset


def pose(t: int) -> np.ndarray:
    """cam_from_world of frame t; the camera of frame 0 is not the world."""
    angle = 0.1 + 0.01 * t
    c, s = np.cos(angle), np.sin(angle)
    R = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    E = np.eye(4)
    E[:3, :3], E[:3, 3] = R, -R @ np.array([0.03 * t - 0.2, 0.01 * t, 0.02 * t])
    return E


def image(t: int) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), LEVEL * t, np.uint8)


def lift(xy: np.ndarray, t: int) -> np.ndarray:
    """World points [M,3] on the plane behind house pixels [M,2] of frame t."""
    E = pose(t)
    rays = np.concatenate([(xy - K[:2, 2]) / K[[0, 1], [0, 1]], np.ones((len(xy), 1))], 1) @ E[:3, :3]
    centre = -E[:3, :3].T @ E[:3, 3]
    return centre + rays * ((_OFFSET - _NORMAL @ centre) / (rays @ _NORMAL))[:, None]


def see(xyz: np.ndarray, t: int) -> np.ndarray:
    """(x_px, y_px, z) [M,3] of world points in frame t."""
    cam = xyz @ pose(t)[:3, :3].T + pose(t)[:3, 3]
    return np.concatenate([cam[:, :2] / cam[:, 2:] * K[[0, 1], [0, 1]] + K[:2, 2], cam[:, 2:]], 1)


def depth(t: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """z-depth [height,width] of frame t for the same view at another resolution."""
    v, u = np.mgrid[:height, :width]
    xy = np.stack([(u + 0.5) * WIDTH / width - 0.5, (v + 0.5) * HEIGHT / height - 0.5], -1).reshape(-1, 2)
    return see(lift(xy, t), t)[:, 2].reshape(height, width)


def intrinsics(width: int, height: int, half: bool = False) -> np.ndarray:
    """K at another resolution, written out: pixel centres at integers, or at integers + ½."""
    sx, sy = width / WIDTH, height / HEIGHT
    shift = 0.0 if half else 0.5
    return np.array(
        [[K[0, 0] * sx, 0, (K[0, 2] + 0.5) * sx - shift], [0, K[1, 1] * sy, (K[1, 2] + 0.5) * sy - shift], [0, 0, 1]]
    )


def frames(count: int = FRAMES, with_depth: bool = True, posed: bool = False) -> list[Frame]:
    return [
        Frame(t, t / 10, image(t), depth(t).astype(np.float32) if with_depth else None, pose(t) if posed else None)
        for t in range(count)
    ]


def chunk(count: int = FRAMES) -> FrameChunk:
    return FrameChunk(
        np.stack([image(t) for t in range(count)]),
        np.stack([depth(t) for t in range(count)]).astype(np.float32),
        K,
        np.stack([pose(t) for t in range(count)]),
    )


def queries(count: int = FRAMES, points: int = 9) -> PointQueries:
    """Points spread over the picture and over the frames, none of them behind something where it is asked for."""
    rng = np.random.default_rng(1)
    xy = rng.uniform([12, 12], [60, HEIGHT - 12], (points, 2))
    frame = rng.integers(0, count, points)
    return PointQueries(frame, xy, np.stack([lift(p[None], t)[0] for p, t in zip(xy, frame, strict=True)]))


def truth(asked: PointQueries, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """xyz_world [T,M,3], xy_px [T,M,2] and visible [T,M]: the world rests."""
    seen = np.stack([see(asked.xyz_world, t) for t in range(count)])
    inside = (seen[..., :2] > -0.5).all(-1) & (seen[..., 0] < WIDTH - 0.5) & (seen[..., 1] < HEIGHT - 0.5)
    return np.repeat(asked.xyz_world[None], count, 0), seen[..., :2], inside & ~hidden(seen[..., 0])


def hidden(x: np.ndarray) -> np.ndarray:
    return (x > HIDDEN_X[0]) & (x < HIDDEN_X[1])
