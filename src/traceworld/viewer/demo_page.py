"""What the demo's report shows: the figures of `report.json`, the clip and the predictions laid out as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from traceworld.traces.types import Clip, Traces
from traceworld.viewer.foresight import HORIZONS, Answer, Question, as_forecast
from traceworld.viewer.overlay import label, overlay_clip, overlay_prediction, side_by_side, tail_frames
from traceworld.viewer.report import Chart, Fact, Picture, ReportData, Table, film_of
from traceworld.viewer.scene import Forecast, build_scene, cloud_from_depth

Asked = Sequence[tuple[Question, Sequence[Answer]]]

_PICTURE_WIDTH = 720


def build_page(
    result: Mapping[str, Any],
    clip: Clip,
    pictures: Mapping[int, UInt8[np.ndarray, "Himg Wimg 3"]],
    depths: Mapping[int, Float32[np.ndarray, "Himg Wimg"]],
    asked: Asked,
    truth: Traces | None,
) -> ReportData:
    """The page of one demo run.

    Args:
        result: what `report.json` holds.
        pictures, depths: of some frames, by frame.
        asked: each question with its answers, the model's first.
        truth: the simulator's exact traces, if any.
    """
    words = result["instruction"]["text"]
    cloud, cloud_name = _cloud(clip, pictures, depths)
    film = {f: image for f, image in pictures.items() if f in _spread(sorted(pictures), 24)}
    return ReportData(
        title=words[:1].upper() + words[1:],
        lead=_lead(result, clip),
        facts=_facts(result),
        warnings=result["warnings"],
        scene=build_scene(
            clip, cloud=cloud, cloud_name=cloud_name, truth=truth, forecasts=[_forecast(q, a, clip) for q, a in asked]
        ),
        film=film_of(clip, film),
        inputs=[
            Picture(pictures[f], f"Frame {f}, {clip.time_s[f] - clip.time_s[0]:.2f} s")
            for f in _spread(sorted(pictures), 4)
        ],
        overlays=_overlays(clip, pictures, asked),
        charts=[_chart(q, a) for q, a in asked if a and a[0].curve_cm],
        tables=_tables(result),
        provenance={k: result[k] for k in ("input", "versions", "reused", "timings_s")}
        | {"extraction": result["clip"]["provenance"]},
    )


def still(
    clip: Clip, pictures: Mapping[int, UInt8[np.ndarray, "Himg Wimg 3"]], asked: Asked
) -> UInt8[np.ndarray, "H W_all 3"]:
    """One picture that says it all (for a README): extracted traces, and predicted futures beside what happened."""
    frame = _busiest(clip, sorted(pictures))
    drawn = overlay_clip(pictures[frame], clip, frame, width=_PICTURE_WIDTH)
    parts = [label(drawn, f"extracted traces, frame {frame}")]
    if asked:
        question, answers = asked[-1]
        fan = _fan(pictures[question.frame], question, answers[0])
        parts.append(label(fan, f"{answers[0].name}: predicted from frame {question.frame} (green: what happened)"))
    return side_by_side(parts)


def _lead(result: Mapping[str, Any], clip: Clip) -> str:
    about = result["clip"]
    origin = (
        f"An unseen simulated episode ({result['input']['task']}, seed {result['input']['seed']}), filmed as ordinary RGB-D video. "
        if result["input"]["task"]
        else f"{Path(result['input']['path']).name}: "
    )
    return (
        f"{origin}{about['points']} points were followed {'in 3D ' if about['metric'] else ''}through {about['frames']} frames "
        f"({about['seconds']:.1f} s); {about['moving_points']} of them move. {result['model']} was shown one frame and the "
        f"instruction “{result['instruction']['text']}” and asked where they go next."
    )


def _facts(result: Mapping[str, Any]) -> list[Fact]:
    facts = []
    tracks = result["tracks"] or {}
    if tracks.get("all"):
        facts.append(Fact("Extraction, 3D Jaccard", f"{tracks['all']['aj']:.2f}", "all points, against exact traces"))
    if tracks.get("moving"):
        facts.append(Fact("… moving points", f"{tracks['moving']['aj']:.2f}", f"{tracks['moving']['points']} points"))
    if tracks.get("all"):
        facts.append(Fact("… visibility right", f"{tracks['all']['oa']:.0%}", "occlusion accuracy"))
    for forecast in result["forecasts"]:
        scores: Mapping[str, Any] = forecast["scores"].get(result["model"], {})
        still_ = forecast["scores"].get("nothing-moves", {})
        horizon = _longest(scores)
        if not horizon or not still_.get(f"topS_ade@{horizon}"):
            continue
        ratio = scores[f"topS_ade@{horizon}"] / still_[f"topS_ade@{horizon}"]
        when = f"from frame {forecast['frame']}, {'with' if forecast['history'] else 'without'} history"
        facts.append(
            Fact("Prediction error vs. no motion", f"{ratio:.0%}", f"best of {result['samples']}, {when}",
                 "good" if ratio < 0.6 else "plain")
        )  # fmt: skip
    about = result["clip"]
    scale = "in metres" if about["metric"] else "scale unknown"
    facts.append(Fact("Points followed", f"{about['points']}", f"{about['moving_points']} moving, {scale}"))
    return facts


def _forecast(question: Question, answers: Sequence[Answer], clip: Clip) -> Forecast:
    past = "with history" if question.has_history else "no history"
    return as_forecast(question, answers[0], clip, name=f"{answers[0].name}, frame {question.frame}, {past}")


def _cloud(
    clip: Clip, pictures: Mapping[int, np.ndarray], depths: Mapping[int, np.ndarray]
) -> tuple[tuple[np.ndarray, np.ndarray], str]:
    """The first frame that has depth, cut behind what the traces are about; without depth, the picture as a flat sheet."""
    usable = sorted(set(pictures) & set(depths))
    frame = usable[0] if usable else min(pictures)
    camera = clip.cameras[frame]
    xyz = clip.traces.xyz_world[frame][clip.traces.valid[frame]].astype(np.float64)
    z = xyz @ camera.cam_from_world[2, :3] + camera.cam_from_world[2, 3]
    if usable:
        far = float(1.4 * np.percentile(z, 98)) if len(z) else None
        return cloud_from_depth(pictures[frame], depths[frame], camera, max_depth_m=far), "First frame as points"
    # a little behind the traces, so that they stay in sight
    sheet = np.full(pictures[frame].shape[:2], 1.03 * (np.percentile(z, 98) if len(z) else 1.0), np.float32)
    return cloud_from_depth(pictures[frame], sheet, camera), "First picture, flat (no depth)"


def _fan(image: np.ndarray, question: Question, given: Answer, most: int = 28) -> np.ndarray:
    scored = np.flatnonzero(question.scored)
    pool = scored if len(scored) else np.arange(len(question.points))
    steps = given.prediction.uvz.shape[2]
    return overlay_prediction(
        image,
        given.prediction,
        question.anchor_uvz[:, :2],
        question.true_uvz[:, :steps],
        question.true_valid[:, :steps],
        points=pool[_spread(range(len(pool)), most)],
        width=_PICTURE_WIDTH,
    )


def _overlays(clip: Clip, pictures: Mapping[int, np.ndarray], asked: Asked) -> list[Picture]:
    frame = _busiest(clip, sorted(pictures))
    found = [
        Picture(
            overlay_clip(pictures[frame], clip, frame, width=_PICTURE_WIDTH),
            f"Extracted traces at frame {frame}: the last {tail_frames(clip)} frames of every moving point (violet: earlier, yellow: now; "
            "hollow: hidden), grey: points at rest.",
        )
    ]
    for question, answers in asked:
        past = "with history" if question.has_history else "without history"
        found.append(
            Picture(
                _fan(pictures[question.frame], question, answers[0]),
                f"{answers[0].name} from frame {question.frame}, {past}: {len(answers[0].prediction.uvz)} predicted futures per "
                f"point over {answers[0].prediction.uvz.shape[2] * question.observation.step:.2f} s (warm), and what happened (green).",
            )
        )
    return found


def _chart(question: Question, answers: Sequence[Answer]) -> Chart:
    series: dict[str, Sequence[float | None]] = {}
    model = answers[0]
    if len(model.prediction.uvz) > 1:
        series[f"{model.name}, best of {len(model.prediction.uvz)}"] = model.curve_cm["best sample"]
    series[f"{model.name}, first sample"] = model.curve_cm["first sample"]
    for other in answers[1:]:
        series[other.name] = other.curve_cm["first sample"]
    step = question.observation.step
    past = "with history" if question.has_history else "without history"
    return Chart(
        f"3D error over time, predicted from frame {question.frame} {past}",
        [round(i * step, 4) for i in range(len(next(iter(series.values()))))],
        series,
        "seconds ahead",
        "mean error, cm",
        f"Mean over {int(question.scored.sum())} moving points, against the extracted traces.",
    )


def _tables(result: Mapping[str, Any]) -> list[Table]:
    tables = []
    if result["tracks"]:
        rows = [
            [f"{name} points", score["aj"], score["apd3d"], score["oa"], score["points"]]
            for name, score in result["tracks"].items()
            if score
        ]
        tables.append(
            Table("Extraction against exact traces", ["", "AJ ↑", "APD 3D ↑", "OA ↑", "points"], rows,
                  "TAPVid-3D definitions at fixed radii of 1 to 16 px at 256 px, no rescaling.")
        )  # fmt: skip
    tables += [
        _scores(forecast, result["samples"]) for forecast in result["forecasts"] if any(forecast["scores"].values())
    ]
    events = result["clip"]["events"]
    if events:
        rows = [[f"{e['start']}–{e['end'] - 1}", e["caption"], e["level"]] for e in events]
        tables.append(Table("Events", ["frames", "what happens", "level"], rows, kind="text", wide=True))
    timings = result["timings_s"]
    total = timings["total"] or 1.0
    rows = [[name, value, f"{value / total:.0%}"] for name, value in timings.items()]
    tables.append(Table("Time", ["stage", "seconds", "share"], rows, strong=[len(rows) - 1]))
    return tables


def _scores(forecast: Mapping[str, Any], samples: int) -> Table:
    names = list(forecast["scores"])
    horizons = [h for h in HORIZONS if any(f"top1_ade@{h}" in forecast["scores"][n] for n in names)]
    last = horizons[-1]
    metric = any(f"topS_ade_cm@{last}" in forecast["scores"][n] for n in names)
    keys = [(f"best of {samples}, {h} steps", f"topS_ade@{h}") for h in horizons]
    keys += [(f"first, {last} steps", f"top1_ade@{last}"), (f"final, best of {samples}", f"topS_fde@{last}")]
    keys += [("cm, best", f"topS_ade_cm@{last}"), ("cm, first", f"top1_ade_cm@{last}")] if metric else []
    rows = [[name, *(forecast["scores"][name].get(key) for _, key in keys)] for name in names]
    past = "with history" if forecast["history"] else "without history"
    return Table(
        f"Prediction from frame {forecast['frame']}, {past}",
        ["ADE ↓", *(title for title, _ in keys)],
        rows,
        f"Average displacement in uvz (image spans −1…1, z in metres) over {forecast['scored_points']} moving points; "
        f"one step is {forecast['step_s'] * 1000:.0f} ms. Truth is the extracted future.",
        strong=[0],
        wide=True,
    )


def _longest(scores: Mapping[str, Any]) -> int:
    return max((int(key.split("@")[1]) for key in scores), default=0)


def _busiest(clip: Clip, frames: Sequence[int]) -> int:
    """Of some frames the one with the longest tails."""
    moving = clip.traces.moving
    if not moving.any():
        return frames[0]
    xyz = np.where(clip.traces.valid[..., None], clip.traces.xyz_world, np.nan)[:, moving]
    steps = np.nan_to_num(np.linalg.norm(np.diff(xyz, axis=0), axis=-1)).sum(1)
    lengths = {
        f: steps[max(0, f - tail_frames(clip)) : f].sum() * (clip.traces.visible[f, moving].mean() + 0.1)
        for f in frames
    }
    return max(frames, key=lambda f: lengths[f])


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of the items, evenly spread, the first and last among them."""
    if not len(items):
        return []
    places = np.unique(np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int))
    return [items[i] for i in places]
