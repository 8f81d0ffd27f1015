"""How much work one prediction is, how long it should take on this device at least, and how long it takes.

    python benchmarks/predict.py --size nano                              # seconds on a CPU
    python benchmarks/predict.py --size nano small base large tracegen:6x12 --no-measure    # counted only: no memory, no time
    python benchmarks/predict.py --size small --samples 1 5 --keypoints 16 64 256 --budget-s 60
    python benchmarks/predict.py --size large --device cuda --precision bf16 --compile
    python benchmarks/predict.py --size large --wasted --device cuda --precision bf16       # against the released order of work

FLOPs, bytes and roofline are as `roofline.py` says: a stage (prefix; each denoising step) takes at least its FLOPs at the device's
peak and its bytes at the device's bandwidth, both probed here or stated by you; the stages add up. A small model's weights
stay in a CPU's cache, so its true bound is lower than the roofline says. `measured` is a whole `predict`, from the picture in
memory to traces in memory, resizing and B-splines included; median over rounds in which all S take turns. Weights are random
(time does not depend on what they are), 12 token ids stand in for the words. Models with a time scale of their own
(TraceGen) are asked for their default number of steps.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Sequence
from typing import Any, Literal

import torch
import tyro
from mu0_wasteful import wasteful_sample
from rich.console import Console
from rich.table import Table
from roofline import Device, count_work, in_turns, probe
from subjects import DTYPES, arithmetic, config_of, count_stages, meta_batch, observation, predictor

from traceworld.models.describe import count_parameters

_RELEASED_WORDS = 48
_RELEASED_KEYPOINTS = 16


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        size: nano, small, base, large; tracegen:nano, tracegen:4x8, tracegen:6x12, tracegen:12x16.
        samples, keypoints: the S and N to measure, each with each.
        repeats: rounds of which the median counts; budget_s: seconds for the rounds of one N (there is always one round).
        measure: also run, not only count.
        wasted: instead compare with the released order of work (small, base, large; N=16, neither depth nor history).
        depth, history: give them.
        device: cpu or cuda. precision: of weights and arithmetic. compile: static shapes, compiled, CUDA graphs on cuda.
        threads: torch threads; 0 leaves torch's choice.
        peak_tflops, bandwidth_gbs: state the device's instead of probing it.
        json: print one JSON object instead of tables.
    """

    size: tuple[str, ...] = ("nano",)
    samples: tuple[int, ...] = (1, 5)
    keypoints: tuple[int, ...] = (16, 64, 256)
    repeats: int = 15
    budget_s: float = 60.0
    measure: bool = True
    wasted: bool = False
    depth: bool = True
    history: bool = True
    device: str = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    threads: int = 0
    peak_tflops: float | None = None
    bandwidth_gbs: float | None = None
    json: bool = False


def device_of(options: Options) -> Device:
    """The device's peak and bandwidth: as stated where they are, else probed."""
    flops = options.peak_tflops and options.peak_tflops * 1e12
    bandwidth = options.bandwidth_gbs and options.bandwidth_gbs * 1e9
    if flops and bandwidth:
        return Device(options.device, flops, bandwidth, "stated")
    found = probe(options.device, DTYPES[options.precision])
    source = "partly stated" if flops or bandwidth else "measured"
    return Device(found.name, flops or found.flops_per_s, bandwidth or found.bytes_per_s, source)


def size_report(size: str, options: Options, device: Device) -> dict[str, Any]:
    """Parameters, and a row for each N and S."""
    config = config_of(size)
    subject = predictor(config, options.device, options.precision) if options.measure else None
    if subject is not None and options.compile:
        subject.compile()
    rows = []
    for count in options.keypoints:
        cells = [counted_row(config, count, samples, options, device) for samples in options.samples]
        if subject is not None:
            for row, found in zip(cells, measured_cells(subject, count, options), strict=True):
                row |= found
                row["measured_over_roofline"] = row["measured_ms"] / row["roofline_ms"]
                row["over_first_s"] = row["measured_ms"] / cells[0]["measured_ms"]
        rows += cells
    return {"size": size, "parameters": count_parameters(kind_of(size), config), "rows": rows}


def kind_of(size: str) -> str:
    return size.rpartition(":")[0] or "mu0"


def counted_row(config: Any, keypoints: int, samples: int, options: Options, device: Device) -> dict[str, Any]:
    """FLOPs, bytes and roofline of one prediction."""
    stages = count_stages(config, observation(keypoints, options.depth, options.history), samples)
    width = DTYPES[options.precision].itemsize
    roofline = device.seconds(stages.prefix, width) + stages.times * device.seconds(stages.denoise, width)
    return {
        "keypoints": keypoints,
        "samples": samples,
        "flops": stages.total.flops,
        "prefix_flops": stages.prefix.flops,
        "steps": stages.times,
        "bytes": stages.total.numbers * width,
        "roofline_ms": 1e3 * roofline,
    }


def measured_cells(subject: Any, keypoints: int, options: Options) -> list[dict[str, Any]]:
    """For each S the median of whole predictions, milliseconds, and of their stages on a CPU (elsewhere they overlap)."""
    asked = observation(keypoints, options.depth, options.history)
    stages: dict[str, list[dict[str, float]]] = {f"{samples}": [] for samples in options.samples}

    def predict(samples: int) -> None:
        with arithmetic(options.device, options.precision):
            stages[f"{samples}"].append(dict(subject.predict(asked, samples).timing))

    runs = {f"{samples}": lambda samples=samples: predict(samples) for samples in options.samples}
    seconds = in_turns(runs, options.repeats, options.budget_s, options.device)
    found = []
    for name, times in seconds.items():
        row: dict[str, Any] = {"measured_ms": 1e3 * statistics.median(times), "rounds": len(times)}
        if options.device == "cpu":
            kept = stages[name][-len(times) :]
            row["stages_ms"] = {stage: 1e3 * statistics.median(s[stage] for s in kept) for stage in kept[0]}
        found.append(row)
    return found


def released_words(prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """48 token ids: the released code pads to that many."""
    ids = torch.arange(1, 1 + _RELEASED_WORDS).expand(len(prompts), -1)
    return ids, torch.ones_like(ids, dtype=torch.bool)


def wasted_report(size: str, options: Options) -> dict[str, Any]:
    """The released order of work against ours on the same weights: FLOPs counted, both timed in turns."""
    config = config_of(f"{size}-official")
    asked = observation(_RELEASED_KEYPOINTS, depth=False, history=False)
    on_meta = predictor(config, "meta", read=released_words)
    batch = meta_batch(on_meta, asked)
    rows = []
    for samples in options.samples:
        noise = torch.empty(1, samples, _RELEASED_KEYPOINTS, config.num_controls, 3, device="meta")
        released, _ = count_work(wasteful_sample, on_meta.model, batch, noise)
        ours, _ = count_work(lambda s=samples, n=noise: on_meta.model.sample(batch, s, noise=n))
        rows.append({"samples": samples, "released_flops": released.flops, "our_flops": ours.flops})
    if options.measure:
        subject = predictor(config, options.device, options.precision, read=released_words)
        _, real = subject._batch(asked)
        for row in rows:
            noise = torch.randn(1, row["samples"], _RELEASED_KEYPOINTS, config.num_controls, 3, device=options.device)
            row |= time_both(subject.model, real, noise, options)
    for row in rows:
        row["flops_ratio"] = row["released_flops"] / row["our_flops"]
    return {"size": size, "keypoints": _RELEASED_KEYPOINTS, "rows": rows}


def time_both(model: Any, batch: dict[str, Any], noise: torch.Tensor, options: Options) -> dict[str, Any]:
    """Milliseconds of both orders of work, and how far their results are apart (relative to their spread)."""
    kept: dict[str, torch.Tensor] = {}

    def run(name: str) -> None:
        with arithmetic(options.device, options.precision):
            order = wasteful_sample if name == "released" else _ours
            kept[name], _ = order(model, batch, noise)

    names = ("released", "ours")
    seconds = in_turns({n: lambda n=n: run(n) for n in names}, options.repeats, options.budget_s, options.device)
    released, ours = (1e3 * statistics.median(seconds[n]) for n in names)
    apart = (kept["released"] - kept["ours"]).abs().max() / kept["ours"].std()
    return {"released_ms": released, "our_ms": ours, "time_ratio": released / ours, "apart": float(apart)}


def _ours(model: Any, batch: dict[str, Any], noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return model.sample(batch, noise.shape[1], noise=noise)


def show(report: dict[str, Any]) -> None:
    """The report as tables."""
    console, device = Console(width=130), report["device"]
    console.print(
        f"{device['name']}: {device['flops_per_s'] / 1e12:.3g} TFLOP/s, {device['bytes_per_s'] / 1e9:.3g} GB/s "
        f"({device['source']}), {report['precision']}{', compiled' if report['compile'] else ''}"
    )
    for entry in report["sizes"]:
        counts = ", ".join(f"{name} {count / 1e6:.2f}" for name, count in entry.get("parameters", {}).items())
        table = Table(title=entry["size"] + (f"\nparameters (M): {counts}" if counts else ""), title_justify="left")
        columns = [name for name in entry["rows"][-1] if name != "stages_ms"]
        for name in columns:
            table.add_column(_HEADINGS.get(name, name.replace("_", " ")), justify="right")
        for row in entry["rows"]:
            table.add_row(*(_cell(name, row[name]) for name in columns))
        console.print(table)
        for row in entry["rows"]:
            if "stages_ms" in row:
                stages = ", ".join(f"{name} {value:.4g}" for name, value in row["stages_ms"].items())
                console.print(f"N={row['keypoints']} S={row['samples']}, ms: {stages}")


_HEADINGS = {
    "keypoints": "N",
    "samples": "S",
    "flops": "GFLOP",
    "prefix_flops": "of which prefix",
    "bytes": "GB moved",
    "our_flops": "our GFLOP",
    "released_flops": "released GFLOP",
    "measured_over_roofline": "measured / roofline",
    "over_first_s": "/ first S",
}


def _cell(name: str, value: float) -> str:
    if name in ("flops", "prefix_flops", "bytes", "our_flops", "released_flops"):
        return f"{value / 1e9:,.4g}"
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"


def main(options: Options) -> dict[str, Any]:
    """Measure, print, and return what was printed."""
    if options.threads:
        torch.set_num_threads(options.threads)
    device = device_of(options)
    of_size = wasted_report if options.wasted else (lambda size, o: size_report(size, o, device))
    report = {
        "device": dataclasses.asdict(device),
        "threads": torch.get_num_threads(),
        "precision": options.precision,
        "compile": options.compile,
        "sizes": [of_size(size, options) for size in options.size],
    }
    if options.json:
        print(json.dumps(report))
    else:
        show(report)
    return report


if __name__ == "__main__":
    main(tyro.cli(Options))
