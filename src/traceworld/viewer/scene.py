"""The numbers behind the 3D view of a report: cloud, traces and futures in one frame, packed small.

Everything is put in the frame of the first camera and turned so that it stands upright in plotly, whose up axis is z:
(x right, y down, z forward) → (x right, z forward, −y up). Positions are packed as 16-bit steps of the scene's bounding
box (0.1 mm in a room of 6 m): a clip of 300 frames and 256 points is half a megabyte of text.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from traceworld.errors import InvalidInputError
from traceworld.geometry import cameras as cam
from traceworld.traces.types import Camera, Clip, TracePrediction, Traces
from traceworld.viewer.overlay import tail_frames

UPRIGHT = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
"""OpenCV camera axes → plotly's, a proper rotation."""

_UNKNOWN = 65535


@dataclass(frozen=True, eq=False)
class Forecast:
    """Predicted futures of some points, in world metres, and what happened if that is known.

    Attributes:
        name: who predicted, and from what ("mu0-nano, first frame, no history").
        frame: the clip frame predicted from.
        time_s: [H] clip time of each step.
        anchor_xyz: [K,3] where the points were.
        xyz_world: [S,K,H,3].
        valid: [S,K,H] by the prediction's own word.
        true_xyz: [K,H,3] or None; NaN where unknown.
    """

    name: str
    frame: int
    time_s: Float[np.ndarray, " H_"]
    anchor_xyz: Float[np.ndarray, "K 3"]
    xyz_world: Float[np.ndarray, "S K H_ 3"]
    valid: Bool[np.ndarray, "S K H_"]
    true_xyz: Float[np.ndarray, "K H_ 3"] | None = None


def forecast_from_prediction(
    prediction: TracePrediction,
    camera: Camera,
    anchor_uvz: Float[np.ndarray, "K 3"],
    *,
    name: str,
    frame: int,
    start_s: float,
    true_uvz: Float[np.ndarray, "K H_ 3"] | None = None,
    true_valid: Bool[np.ndarray, "K H_"] | None = None,
) -> Forecast:
    """A prediction on the plain clock, lifted to world metres through the camera of the observation.

    Raises:
        InvalidInputError: the prediction is on the arc-length clock (its steps have no time).
    """
    if prediction.clock != "time":
        raise InvalidInputError("is on the arc-length clock", where="prediction", mend="predict with clock='time'")

    def lift(uvz: np.ndarray) -> np.ndarray:
        xyz = cam.uvz_to_world(
            np.asarray(uvz, np.float64), camera.K, camera.cam_from_world, camera.width, camera.height
        )
        return np.asarray(xyz)

    true_xyz = None
    if true_uvz is not None:
        known = np.isfinite(true_uvz).all(-1) & (True if true_valid is None else true_valid)
        true_xyz = np.where(known[..., None], lift(np.where(known[..., None], true_uvz, 1.0)), np.nan)
    steps = np.arange(1, prediction.uvz.shape[2] + 1)
    return Forecast(
        name,
        frame,
        start_s + steps * prediction.step,
        lift(anchor_uvz),
        lift(prediction.uvz),
        np.logical_and.accumulate(prediction.valid, axis=-1),
        true_xyz,
    )


def cloud_from_depth(
    image: UInt8[np.ndarray, "H W 3"],
    depth_m: Float[np.ndarray, "Hd Wd"],
    camera: Camera,
    *,
    max_points: int = 22000,
    max_depth_m: float | None = None,
) -> tuple[Float32[np.ndarray, "M 3"], UInt8[np.ndarray, "M 3"]]:
    """World positions and colours of a regular subset of the pixels that have depth.

    Pixels at depth edges (more than 5 % jump to a neighbour) are left out: they are the veils between things that
    spoil a cloud.
    """
    if depth_m.shape != image.shape[:2]:
        raise InvalidInputError(f"depth {depth_m.shape}, image {image.shape[:2]}", where="cloud_from_depth")
    good = np.isfinite(depth_m) & (depth_m > 0)
    filled = np.where(good, depth_m, 0.0)
    jump = np.zeros_like(filled)
    jump[:, 1:] = np.abs(np.diff(filled, axis=1))
    jump[1:] = np.maximum(jump[1:], np.abs(np.diff(filled, axis=0)))
    good &= jump < 0.05 * np.maximum(filled, 1e-6)
    if max_depth_m is not None:
        good &= filled <= max_depth_m
    stride = max(1, int(np.ceil(np.sqrt(good.sum() / max(max_points, 1)))))
    grid = np.zeros_like(good)
    grid[stride // 2 :: stride, stride // 2 :: stride] = True
    y, x = np.nonzero(good & grid)
    scale = np.array([camera.width / image.shape[1], camera.height / image.shape[0]])
    xy = (np.stack([x, y], -1) + 0.5) * scale - 0.5
    xyz = cam.unproject(xy, filled[y, x].astype(np.float64), camera.K, camera.cam_from_world)
    return np.asarray(xyz, np.float32), image[y, x]


def build_scene(
    clip: Clip,
    *,
    cloud: tuple[Float32[np.ndarray, "M 3"], UInt8[np.ndarray, "M 3"]] | None = None,
    cloud_name: str = "First frame as points",
    truth: Traces | None = None,
    forecasts: Sequence[Forecast] = (),
    max_frames: int = 240,
    max_points: int = 256,
) -> dict[str, Any]:
    """The JSON-able scene that `assets/report.js` draws.

    Args:
        cloud: world positions and colours (`cloud_from_depth`).
        cloud_name: what the cloud is, for its switch.
        truth: exact traces of the same points in the same order, if known.
        max_frames: long clips are thinned evenly to this many time steps.
        max_points: of more points the moving ones are kept first.

    Raises:
        InvalidInputError: `truth` is not of the same points and frames.
    """
    traces = clip.traces
    if truth is not None and truth.xyz_world.shape != traces.xyz_world.shape:
        raise InvalidInputError(
            f"truth {truth.xyz_world.shape} for traces {traces.xyz_world.shape}", where=f"clip {clip.clip_id}"
        )
    frames = np.unique(np.linspace(0, clip.num_frames - 1, min(clip.num_frames, max_frames)).round().astype(int))
    order = np.argsort(~traces.moving, kind="stable")[:max_points]
    first = clip.cameras[0].cam_from_world

    def upright(xyz: np.ndarray) -> np.ndarray:
        return np.asarray(cam.transform(first, np.asarray(xyz, np.float64))) @ UPRIGHT.T

    paths = np.where(traces.valid[..., None], traces.xyz_world, np.nan)[frames][:, order]
    layers: dict[str, np.ndarray] = {"paths": upright(paths)}
    if truth is not None:
        layers["truth"] = upright(np.where(truth.valid[..., None], truth.xyz_world, np.nan)[frames][:, order])
    if cloud is not None:
        layers["cloud"] = upright(cloud[0])
    for i, forecast in enumerate(forecasts):
        anchor = np.broadcast_to(forecast.anchor_xyz[None, :, None], (*forecast.xyz_world.shape[:2], 1, 3))
        samples = np.where(forecast.valid[..., None], forecast.xyz_world, np.nan)
        layers[f"samples{i}"] = upright(np.concatenate([anchor, samples], 2))
        if forecast.true_xyz is not None:
            layers[f"future{i}"] = upright(np.concatenate([forecast.anchor_xyz[:, None], forecast.true_xyz], 1))
    eye_box, data_box = _boxes(layers)
    camera = clip.cameras[0]
    scene: dict[str, Any] = {
        "time_s": [round(float(clip.time_s[f]), 4) for f in frames],
        "frames": frames.tolist(),
        "box": data_box.round(5).tolist(),
        "view_box": eye_box.round(5).tolist(),
        "focus": _focus(layers, traces.moving[order]).round(5).tolist(),
        "frustum": upright(_frustum(camera, float(np.ptp(eye_box, axis=0).max()) * 0.06)).round(5).tolist(),
        "unit": "m" if clip.metric else "relative",
        "moving": traces.moving[order].astype(int).tolist(),
        "visible": _text(np.packbits(traces.visible[frames][:, order])),
        "points": len(order),
        "paths": _pack(layers["paths"], data_box),
        "truth": _pack(layers["truth"], data_box) if truth is not None else None,
        "tail": max(2, round(tail_frames(clip) * len(frames) / clip.num_frames)),
        "cloud": None,
        "cloud_name": cloud_name,
        "forecasts": [],
    }
    if cloud is not None:
        scene["cloud"] = {"xyz": _pack(layers["cloud"], data_box), "rgb": _text(np.ascontiguousarray(cloud[1]))}
    for i, forecast in enumerate(forecasts):
        future = layers.get(f"future{i}")
        scene["forecasts"].append(
            {
                "name": forecast.name,
                "frame": int(forecast.frame),
                "start_s": float(clip.time_s[forecast.frame]),
                "time_s": [round(float(t), 4) for t in forecast.time_s],
                "shape": list(layers[f"samples{i}"].shape[:3]),
                "samples": _pack(layers[f"samples{i}"], data_box),
                "future": _pack(future, data_box) if future is not None else None,
            }
        )
    return scene


def _boxes(layers: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """What to look at ([2,3] low/high, deaf to a few far outliers) and what holds every number ([2,3])."""
    flat = {name: layer.reshape(-1, 3) for name, layer in layers.items()}
    known = {name: layer[np.isfinite(layer).all(-1)] for name, layer in flat.items()}
    known = {name: layer for name, layer in known.items() if len(layer)}
    if not known:
        unit = np.array([[-0.5, 0.0, -0.5], [0.5, 1.0, 0.5]])
        return unit, unit
    everything = np.concatenate(list(known.values()))
    data = np.stack([everything.min(0), everything.max(0)])
    lows = [np.percentile(layer, 1.0, axis=0) for layer in known.values()]
    highs = [np.percentile(layer, 99.0, axis=0) for layer in known.values()]
    view = np.stack([np.min(lows, 0), np.max(highs, 0)])
    margin = 0.03 * np.maximum(np.ptp(view, axis=0), 1e-3)
    data[1] = np.maximum(data[1], data[0] + 1e-6)
    return view + np.stack([-margin, margin]), data


def _focus(layers: dict[str, np.ndarray], moving: np.ndarray) -> np.ndarray:
    """What the eye turns around: the middle of what moves, else of the traces, else of the cloud."""
    paths = layers["paths"]
    for candidate in (paths[:, moving], paths, layers.get("cloud", np.zeros((0, 3)))):
        flat = candidate.reshape(-1, 3)
        flat = flat[np.isfinite(flat).all(-1)]
        if len(flat):
            return np.median(flat, axis=0)
    return np.array([0.0, 0.5, 0.0])


def _frustum(camera: Camera, depth_m: float) -> np.ndarray:
    """World positions of the camera's centre and its four picture corners at `depth_m`: [5,3]."""
    w, h = camera.width - 0.5, camera.height - 0.5
    corners = np.array([[-0.5, -0.5], [w, -0.5], [w, h], [-0.5, h]])
    centre = np.linalg.inv(camera.cam_from_world)[:3, 3]
    around = cam.unproject(corners, np.full(4, depth_m), camera.K, camera.cam_from_world)
    return np.concatenate([centre[None], np.asarray(around)])


def _pack(xyz: np.ndarray, box: np.ndarray) -> str:
    """[...,3] → base64 of little-endian uint16 steps of the box; 65535 = unknown."""
    steps = (xyz - box[0]) / (box[1] - box[0]) * (_UNKNOWN - 1)
    known = np.isfinite(xyz).all(-1, keepdims=True)
    whole = np.clip(np.rint(np.where(known, steps, 0.0)), 0, _UNKNOWN - 1)
    return _text(np.where(known, whole, _UNKNOWN).astype("<u2"))


def _text(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")
