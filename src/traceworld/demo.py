"""The main job, end to end, on one clip: video → 3D traces → predicted traces → scores → a report to look at.

Without an input the clip is an unseen simulated manipulation episode, recorded as an ordinary RGB-D folder; extraction
reads that folder only, and its traces are then held against the simulator's exact ones.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from traceworld import __version__
from traceworld.errors import ConfigError, InvalidInputError
from traceworld.geometry import cameras as cam
from traceworld.models.predictor import TracePredictor, load_predictor
from traceworld.traces.atomic import write_json
from traceworld.traces.store import open_dataset
from traceworld.traces.types import Clip, Traces
from traceworld.traces.writer import DatasetWriter

log = logging.getLogger(__name__)

DEFAULT_TASK = "drawer-open-v3"
DEFAULT_SEED = 7
DEFAULT_INSTRUCTION = "predict future trajectory"
BASELINES = ("nothing-moves", "constant-velocity")
STEP_S = 0.025
_FILM_FRAMES = 24


def run_demo(
    input: Path | None = None,
    out: Path = Path("demo"),
    model: str = "mu0-nano",
    *,
    task: str = DEFAULT_TASK,
    seed: int = DEFAULT_SEED,
    instruction: str | None = None,
    samples: int = 5,
    console: Console | None = None,
) -> dict[str, Any]:
    """Run the main job and write `report.html`, `report.json` and `overlay.png` into `out`.

    Args:
        input: a video, an RGB-D folder or a folder of pictures. None records a simulated episode of `task`.
        out: output folder; a second run reuses its recording and its extraction if nothing about them changed.
        model: a name or checkpoint folder for `models.load_predictor`.
        task, seed: the simulated episode (training corpora draw their seeds from 2³¹; this one is in none of them).
        instruction: what is to happen. By default what the input says, else "predict future trajectory".
        samples: futures per prediction.
        console: where progress is shown; by default standard error.

    Returns:
        What `report.json` holds: input, clip, tracks (with exact truth only), forecasts, timings_s, versions, warnings,
        paths, reused.

    Raises:
        TraceworldError: of the stage that failed (MediaError, ExtractionError, RenderingError, CheckpointError …).
    """
    if samples < 1:
        raise ConfigError(f"{samples} samples", where="samples", mend="ask for at least one")
    out = Path(out)
    stages = Stages(console or Console(stderr=True))
    reused: dict[str, bool] = {}
    with stages.run("model", f"Loading {model}"):  # first, so that a missing checkpoint costs no waiting
        predictors = [load_predictor(name) for name in dict.fromkeys((model, *BASELINES))]
    with stages.run("record", "Recording a simulated episode" if input is None else "Opening the input"):
        source, reused["recording"] = _recording(input, out / "recording", task, seed)
    with stages.run("extract", "Extracting traces from the video") as tell:
        clip, reused["extraction"] = _extracted(source, out / "clips", lambda done: tell(f"{done} frames"))
    words, words_from = _instruction(clip, instruction)
    warnings = _warnings(clip, words_from)
    truth: Traces | None = None
    tracks: dict[str, Any] | None = None
    if input is None:
        with stages.run("truth", "Comparing with the simulator's exact traces"):
            truth, tracks = compare_with_truth(clip, source)
    with stages.run("pictures", "Reading pictures"):
        frames = _anchor_frames(clip)
        shown = np.unique(np.linspace(0, clip.num_frames - 1, min(_FILM_FRAMES, clip.num_frames)).round().astype(int))
        pictures, depths = _read_pictures(clip, source, sorted({*shown.tolist(), *frames}), with_depth=frames)
    with stages.run("predict", f"Predicting with {model} and the baselines"):
        asked = _predict(clip, frames, pictures, depths, words, predictors, samples, seed, warnings)
    from traceworld.viewer.demo_page import build_page, still
    from traceworld.viewer.foresight import summary
    from traceworld.viewer.overlay import save_still
    from traceworld.viewer.report import write_report

    paths = {
        "report_html": out / "report.html",
        "report_json": out / "report.json",
        "overlay": out / "overlay.png",
        "clips": out / "clips",
    }
    result: dict[str, Any] = {
        "traceworld": __version__,
        "input": {
            "path": str(source),
            "kind": "simulated episode" if input is None else clip.media.kind,
            "task": task if input is None else None,
            "seed": seed,
        },
        "instruction": {"text": words, "from": words_from},
        "model": predictors[0].name,
        "samples": samples,
        "clip": _about(clip),
        "tracks": tracks,
        "forecasts": [summary(question, answers) for question, answers in asked],
        "warnings": warnings,
        "reused": reused,
        "versions": versions(),
        "paths": {name: str(path) for name, path in paths.items()},
    }
    with stages.run("report", "Writing the report"):
        save_still(paths["overlay"], still(clip, pictures, asked))
        result["timings_s"] = stages.seconds()
        write_report(paths["report_html"], build_page(result, clip, pictures, depths, asked, truth))
    result["timings_s"] = stages.seconds()
    result = _json_ready(result)
    write_json(paths["report_json"], result)
    return result


def compare_with_truth(clip: Clip, recording: Path) -> tuple[Traces, dict[str, Any]]:
    """The exact traces of the clip's points, and TAPVid-3D scores over all and over truly moving points.

    Args:
        clip: extracted from `recording`, frame by frame.
        recording: an RGB-D folder of `sim.record.record_episode`, its truth beside it.

    Returns:
        exact traces (same points, same order, same world frame) and `{"all": {aj, apd3d, oa, points}, "moving": …}`,
        None for a subset without points.
    """
    from traceworld.evaluation.track_eval import score_clip
    from traceworld.sim.truth import exact_traces, read_truth

    traces, count = clip.traces, clip.traces.num_keypoints
    if count == 0:
        return traces, {"all": None, "moving": None}
    start = traces.query_frame
    xyz = traces.xyz_world[start, np.arange(count)].astype(np.float64)
    uv_px = cam.project(xyz, clip.cameras.K[start], clip.cameras.cam_from_world[start])[:, :2]
    film = read_truth(recording)
    scale = np.array([film.cameras.width / clip.cameras.width, film.cameras.height / clip.cameras.height])
    located = np.isfinite(uv_px).all(-1)
    at_px = np.where(located[:, None], (uv_px + 0.5) * scale - 0.5, -9.0)  # outside the picture: a point never valid
    figures = score_clip(clip, film)
    scores: dict[str, Any] = {}
    for name, points in (("all", figures["points"]), ("moving", figures["moving_points"])):
        rounded = {key: round(float(value), 4) for key, value in figures[name].items()}
        scores[name] = {**rounded, "points": points} if points else None
    return exact_traces(recording, start, at_px), scores


def summary_table(result: Mapping[str, Any]) -> Table:
    """The figures of a demo as a table for the terminal."""
    table = Table(title="traceworld demo", title_justify="left", show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    clip = result["clip"]
    table.add_row("instruction", result["instruction"]["text"])
    table.add_row("clip", f"{clip['frames']} frames, {clip['seconds']:.1f} s, {clip['size'][0]}×{clip['size'][1]}")
    table.add_row("traces", f"{clip['points']} points, {clip['moving_points']} moving, {len(clip['events'])} events")
    for name, score in (result["tracks"] or {}).items():
        if score:
            figures = f"AJ {score['aj']:.3f}  APD {score['apd3d']:.3f}  OA {score['oa']:.3f}"
            table.add_row(f"against exact traces, {name}", f"{figures}  ({score['points']} points)")
    for forecast in result["forecasts"]:
        past = "with history" if forecast["history"] else "no history"
        for name, scores in forecast["scores"].items():
            if scores:
                horizon = max(int(key.split("@")[1]) for key in scores)
                line = f"best of {result['samples']}: {_cell(scores, f'topS_ade@{horizon}')}  first: {_cell(scores, f'top1_ade@{horizon}')}"
                if f"topS_ade_cm@{horizon}" in scores:
                    line += (
                        f"  ({_cell(scores, f'topS_ade_cm@{horizon}')} / {_cell(scores, f'top1_ade_cm@{horizon}')} cm)"
                    )
                table.add_row(f"frame {forecast['frame']}, {past}: {name}", line)
        if not any(forecast["scores"].values()):
            table.add_row(f"frame {forecast['frame']}, {past}", "nothing moves in the time ahead: not scored")
    for warning in result["warnings"]:
        table.add_row("[yellow]warning[/]", warning)
    table.add_row("time", ", ".join(f"{name} {value:.1f} s" for name, value in result["timings_s"].items()))
    table.add_row("report", result["paths"]["report_html"])
    return table


def versions() -> dict[str, str]:
    """Versions of what took part, as far as installed."""
    found = {"python": platform.python_version(), "traceworld": __version__}
    for name in ("numpy", "scipy", "torch", "opencv-python-headless", "av", "mujoco", "metaworld", "plotly"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@dataclass
class Stages:
    """Names, shows and times the stages of a run."""

    console: Console
    times: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def run(self, name: str, words: str) -> Iterator[Callable[[str], None]]:
        """Time one stage; call what this yields with a few words on how far it is."""
        began = time.perf_counter()
        with self.console.status(f"{words} …") as status:
            yield lambda more: status.update(f"{words} … [dim]{more}[/]")
        self.times[name] = time.perf_counter() - began
        self.console.print(f"[green]✓[/] {words} [dim]{self.times[name]:.1f} s[/]", highlight=False)

    def seconds(self) -> dict[str, float]:
        """Seconds per finished stage, and their sum."""
        rounded = {name: round(value, 3) for name, value in self.times.items()}
        return {**rounded, "total": round(sum(self.times.values()), 3)}


def _recording(input: Path | None, folder: Path, task: str, seed: int) -> tuple[Path, bool]:
    if input is not None:
        return Path(input), False
    from traceworld.sim.record import record_episode

    before = {path.name for path in folder.glob("*/clip.json")} if folder.is_dir() else set()
    stamp = _listing(folder) if before else ""
    recorded = Path(record_episode(task, seed, folder))
    return recorded, bool(stamp) and stamp == _listing(folder)


def _extracted(source: Path, store: Path, progress: Callable[[int], None]) -> tuple[Clip, bool]:
    """The clip, from the store if the same input was extracted by the same version with the same settings."""
    from traceworld.extract.pipeline import ExtractConfig, extract_clip

    config = ExtractConfig()
    settings = json.dumps(asdict(config), sort_keys=True, default=str)
    mark = hashlib.sha256(f"{_listing(source)}|{settings}|{__version__}".encode()).hexdigest()[:12]
    clip_id = f"{source.stem if source.is_file() else source.name}-{mark}"
    writer = DatasetWriter(store, source="traceworld demo")
    if clip_id in writer.done_items():
        return open_dataset(store).clip(clip_id), True
    began = time.perf_counter()
    clip = extract_clip(source, config, clip_id=clip_id, progress=progress)
    writer.write_item(clip_id, [clip], timings={"extract": time.perf_counter() - began})
    writer.finalise()
    return clip, False


def _listing(path: Path) -> str:
    """Names, sizes and times of an input's files: changes when the input does."""
    if not path.exists():
        return "missing"
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    lines = [f"{p.relative_to(path.parent)} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _instruction(clip: Clip, given: str | None) -> tuple[str, str]:
    if given is not None and not given.strip():
        raise InvalidInputError("is empty", where="instruction", mend="say what is to happen, or leave it out")
    if given is not None:
        return given, "given"
    if clip.task.strip():
        return clip.task, "the input"
    return DEFAULT_INSTRUCTION, "default"


def _warnings(clip: Clip, words_from: str) -> list[str]:
    found = [str(warning) for warning in clip.provenance.get("warnings", ())]
    if not clip.metric:
        found.append("The input has no depth: every z and every 3D length is known only up to scale (metric: false).")
    if words_from == "default":
        found.append(f"The input says nothing about what happens; the model was told: “{DEFAULT_INSTRUCTION}”.")
    if not clip.traces.num_keypoints:
        found.append(f"No point could be followed: {clip.provenance.get('status', 'reason unknown')}.")
    elif not clip.traces.moving.any():
        found.append("Nothing moves in this clip: there is no future to score.")
    return found


def _anchor_frames(clip: Clip) -> list[int]:
    """Where to predict from: the first frame, and if the clip is long enough the middle one, which has a history."""
    frames = [0]
    span = float(clip.time_s[-1] - clip.time_s[0])
    if span > 3 * 32 * STEP_S / 2:
        frames.append(int(np.searchsorted(clip.time_s, clip.time_s[0] + span / 2)))
    return [frame for frame in frames if clip.traces.visible[frame].any()]


def _read_pictures(
    clip: Clip, source: Path, wanted: Sequence[int], *, with_depth: Sequence[int]
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Pictures of some frames and depth (in the colour camera) of a few and of the first, in one pass over the source."""
    from traceworld.extract.config import ExtractConfig
    from traceworld.perception.sources import open_source

    pictures: dict[int, np.ndarray] = {}
    depths: dict[int, np.ndarray] = {}
    with open_source(source, **ExtractConfig().source_options().as_dict()) as frames:
        for frame in frames:
            if frame.index in wanted:
                pictures[frame.index] = frame.image
                if frame.depth_m is not None and (frame.index in with_depth or not depths):
                    depths[frame.index] = frame.depth_m
            if frame.index >= wanted[-1]:
                break
    return pictures, depths


def _predict(
    clip: Clip,
    frames: Sequence[int],
    pictures: Mapping[int, np.ndarray],
    depths: Mapping[int, np.ndarray],
    words: str,
    predictors: Sequence[TracePredictor],
    samples: int,
    seed: int,
    warnings: list[str],
) -> list[tuple[Any, list[Any]]]:
    from traceworld.viewer.foresight import answer, ask

    if not frames:
        warnings.append("No point was found in the first frame: nothing could be predicted.")
        return []
    asked = []
    for frame in frames:
        question = ask(clip, frame, pictures[frame], depths.get(frame), words, with_history=frame > 0, step_s=STEP_S)
        if clip.traces.moving.any() and not question.scored.any():
            warnings.append(f"No moving point has a known future after frame {frame}: that prediction is not scored.")
        asked.append((question, [answer(question, p, clip, samples=samples, seed=seed) for p in predictors]))
    return asked


def _about(clip: Clip) -> dict[str, Any]:
    return {
        "clip_id": clip.clip_id,
        "frames": clip.num_frames,
        "seconds": round(float(clip.time_s[-1] - clip.time_s[0]), 3),
        "size": [clip.cameras.width, clip.cameras.height],
        "points": clip.traces.num_keypoints,
        "moving_points": int(clip.traces.moving.sum()),
        "static_camera": clip.cameras.static,
        "metric": clip.metric,
        "events": [{"start": e.start, "end": e.end, "level": e.level, "caption": e.caption} for e in clip.events],
        "provenance": dict(clip.provenance),
    }


def _cell(scores: Mapping[str, float | None], key: str) -> str:
    value = scores.get(key)
    return "–" if value is None else f"{value:.3f}"


def _json_ready(value: Any) -> Any:
    """Plain JSON: numpy numbers as numbers, NaN and infinity as null."""
    if isinstance(value, Mapping):
        return {str(k): _json_ready(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json_ready(v) for v in value]
    if isinstance(value, np.ndarray):
        return _json_ready(value.tolist())
    if isinstance(value, np.generic):
        return _json_ready(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)
