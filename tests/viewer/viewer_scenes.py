"""A small made-up scene for the viewer's tests: a table plane, a box that slides right and a point that hides."""

from __future__ import annotations

import numpy as np

from traceworld.traces.types import Cameras, Clip, Event, TracePrediction, Traces

WIDTH, HEIGHT = 160, 120
K = np.array([[140.0, 0, 79.5], [0, 140.0, 59.5], [0, 0, 1]])


def pixels(xyz: np.ndarray) -> np.ndarray:
    """Pixel coordinates by hand, independent of the library's geometry."""
    return np.stack([140.0 * xyz[..., 0] / xyz[..., 2] + 79.5, 140.0 * xyz[..., 1] / xyz[..., 2] + 59.5], -1)


def clip_of(num_frames: int = 40, moving: int = 6, static: int = 8) -> Clip:
    """`moving` points slide 0.4 m to the right at 1 m; `static` ones stay at 1.2 m. Moving point 0 is hidden late."""
    t = np.linspace(0, 1, num_frames)
    start = np.stack([np.full(moving, -0.25), np.linspace(-0.15, 0.15, moving), np.full(moving, 1.0)], -1)
    slide = start[None] + t[:, None, None] * np.array([0.4, 0.0, 0.05])
    rest = np.stack([np.linspace(-0.4, 0.4, static), np.full(static, 0.3), np.full(static, 1.2)], -1)
    xyz = np.concatenate([slide, np.repeat(rest[None], num_frames, 0)], 1).astype(np.float32)
    visible = np.ones(xyz.shape[:2], bool)
    visible[num_frames // 2 :, 0] = False
    count = moving + static
    traces = Traces(
        xyz, visible, np.ones_like(visible), np.arange(count, dtype=np.int32) // 4 - 1, np.arange(count) < moving,
        np.zeros(count, np.int32),
    )  # fmt: skip
    return Clip(
        "sliding-box", np.arange(num_frames) * 0.05, Cameras.still(K, WIDTH, HEIGHT, num_frames), traces,
        events=(Event(0, num_frames, "a box slides to the right"),), task="slide the box to the right",
        provenance={"source": "made up"},
    )  # fmt: skip


def picture(frame: int = 0) -> np.ndarray:
    """A plain grey picture with a coloured band, another one per frame."""
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    image[80:] = (70, 90, 120)
    image[:10, :10] = frame * 5 % 256
    return image


def depth() -> np.ndarray:
    return np.full((HEIGHT, WIDTH), 1.3, np.float32)


def prediction_for(clip: Clip, samples: int = 3, horizon: int = 16) -> tuple[TracePrediction, np.ndarray]:
    """A plausible fan for the moving points from frame 0 and their anchors (uvz [K,3])."""
    start = clip.traces.xyz_world[0, clip.traces.moving].astype(np.float64)
    uv = (pixels(start) + 0.5) / np.array([WIDTH, HEIGHT]) * 2 - 1
    anchor = np.concatenate([uv, start[:, 2:]], -1)
    steps = np.arange(1, horizon + 1)[:, None] / horizon
    spread = np.linspace(-0.2, 0.2, samples)[:, None, None, None]
    shift = steps * np.array([0.5, 0.0, 0.02]) + spread * steps * np.array([0.0, 1.0, 0.0])
    uvz = (anchor[None, :, None] + shift).astype(np.float32)
    valid = np.ones(uvz.shape[:3], bool)
    valid[0, 0, horizon // 2 :] = False
    return TracePrediction(uvz, valid, step=0.025), anchor


def report(*, truth: bool = True, forecast: bool = True):
    """A report with every part, of the made-up scene."""
    from traceworld.viewer import report as reports
    from traceworld.viewer import scene as scenes
    from traceworld.viewer.overlay import overlay_prediction

    clip = clip_of()
    prediction, anchor = prediction_for(clip)
    future = np.cumsum(np.full((6, 16, 3), 0.01), 1) + anchor[:, None]
    forecasts = [
        scenes.forecast_from_prediction(
            prediction, clip.cameras[frame], anchor, name=f"made-up model, frame {frame}", frame=frame,
            start_s=float(clip.time_s[frame]), true_uvz=future,
        )
        for frame in (0, 20)
    ]  # fmt: skip
    packed = scenes.build_scene(
        clip,
        cloud=scenes.cloud_from_depth(picture(), depth(), clip.cameras[0], max_points=1000),
        truth=clip.traces if truth else None,
        forecasts=forecasts if forecast else (),
    )
    return reports.ReportData(
        title="Slide the box",
        lead="A made-up scene.",
        facts=[reports.Fact("Jaccard", "0.712", "all points", "good")],
        warnings=["Made up."],
        scene=packed,
        film=reports.film_of(clip, {frame: picture(frame) for frame in range(0, 40, 8)}),
        inputs=[reports.Picture(picture(0), "Frame 0")],
        overlays=[reports.Picture(overlay_prediction(picture(), prediction, anchor[:, :2], width=480), "A fan")],
        charts=[
            reports.Chart(
                "how it went", [1.0, 2.0, 3.0], {"a": [1.0, 2.0, 3.0], "b": [2.0, 3.0, float("nan")]}, "step", "cm"
            )
        ],
        tables=[reports.Table("Extraction", ["", "AJ"], [["all", 0.7], ["points", 1234], ["none", None]], strong=[0])],
        provenance={"source": "made up"},
    )
