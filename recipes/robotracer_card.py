"""The model card of `robotracer-nano`, from measured figures only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robotracer_scores import JOINED
from robotracer_training import ALIGNED, DROP

from traceworld.models.robotracer.nano import NAME

HEAD = ("model", "input", "start", "end", "no collision", "overall success", "95 %", "Fréchet m", "scale error")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: rates on TraceSpatial-Sim in the shape of the paper's ablation."""
    lines = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    for row in rows:
        low, high = row["interval95"]["success"]
        rates = [f"{100 * row[name]:.1f}" for name in ("start_ok", "end_ok", "no_collision", "success")]
        frechet = "–" if row["frechet"] is None else f"{row['frechet']:.3f}"
        scale = "–" if row.get("scale_error") is None else f"{row['scale_error']:.3f}"
        cells = [row["model"], row["input"], *rates, f"{100 * low:.1f}–{100 * high:.1f}", frechet, scale]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def claims(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the figures say about each claim, whether or not it holds."""
    found = {(row["model"], row["input"]): row for row in rows}
    own, all_inputs = found[NAME, "RGB + K + depth"], "RGB + K + depth"
    pairs = [
        ("nothing-moves", "mask", "It beats nothing-moves"),
        ("straight-line", "mask", "It beats straight-line"),
        ("straight-line-true-ends", "mask", "It beats the true ends joined by a straight line"),
        (f"{NAME}, {JOINED}", all_inputs, "Its way is worth more than its own ends joined"),
        (NAME, "RGB", "Intrinsics and depth help"),
    ]
    lines = [_verdict(text, own, found[model, given]) for model, given, text in pairs if (model, given) in found]
    full = found.get(("full", all_inputs))
    for model, given, text in (
        ("no-scale-loss", all_inputs, "The scale loss helps (equal budgets)"),
        ("rgb-only", "RGB", "The spatial encoder helps (equal budgets)"),
    ):
        if full and (model, given) in found:
            lines.append(_verdict(text, full, found[model, given]))
    if full and ("rft", all_inputs) in found:
        lines.append(_verdict("Reinforcement helps (on top of full)", found["rft", all_inputs], full))
    return lines


def _verdict(text: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    (low, high), (other_low, other_high) = one["interval95"]["success"], other["interval95"]["success"]
    said = (
        "holds, intervals apart" if low > other_high else "does not hold" if high < other_low else "intervals overlap"
    )
    return f"{text}: {100 * one['success']:.1f} against {100 * other['success']:.1f} % ({said})."


def card(figures: Mapping[str, Any]) -> str:
    """The model card."""
    data, training, cost = figures["data"], figures["training"], figures["cost_minutes"]
    questions = training["batch"] * training["questions"]
    return "\n".join(
        [
            f"# {NAME}",
            "",
            "A small RoboTracer (arXiv 2512.13660): one picture, an instruction, and (as far as they are known) intrinsics and metric",
            "depth in; the spatial trace of the thing to be moved out, as (u, v, d). Trained from scratch on simulated tables.",
            f"{training['parameters']:,} parameters, stored as float16. Made by `recipes/robotracer_nano.py`.",
            "",
            f"- Data: {data['train']['questions']:,} questions about {data['train']['scenes']:,} simulated pictures, every answer recomputed "
            "from the geometry; many lenses, distances and scales, so that a picture alone does not tell metres.",
            f"- Training: {training['pointing_steps']} steps in which the base, new and without a spatial encoder, learns to point at "
            "the first and last points of answers (ours: a published base has seen the web); "
            f"{training['steps']} steps of {questions} questions, Muon, learning rate {training['lr']:g}; the first "
            f"{100 * ALIGNED:.0f} % align the spatial encoder, then everything learns, guided where to look while it says a coordinate (ours as well). Intrinsics and depth are each left out of "
            f"{100 * DROP['depth_m']:.0f} % of the examples. Variants: {training['ablation_steps']} steps each.",
            f"- Cost on {figures['machine']['cpus']} CPU cores ({figures['machine']['arch']}), minutes: "
            + ", ".join(f"{name} {minutes:.0f}" for name, minutes in cost.items())
            + ".",
            "",
            f"TraceSpatial-Sim: {data['bench']['questions']} held-out scenes, one question each, steps 2 to 8, strict scoring of "
            "TraceSpatial-Bench (per cent; 95 % interval by bootstrap over questions). `straight-line` and `nothing-moves` are given the "
            "object's mask, `straight-line-true-ends` both ends of the reference trace.",
            "",
            table(figures["result"]),
            "",
            *(f"- {line}" for line in claims(figures["result"])),
            "",
            "Limits: rendered tables and twelve classes of things in plain colours; English of the simulator's templates; no real "
            "picture was seen.",
            "",
        ]
    )
