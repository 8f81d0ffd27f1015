"""What extracting a million clips takes, worked out from measured costs: time, machines, storage, money, and what breaks first.

    python benchmarks/scale_plan.py benchmarks/measured/cups_960x540.json
    python benchmarks/scale_plan.py measured.json --gpu-ms geometry 24 tracking 0 --days 7   # and what tracking may take

The JSON comes from `stage_costs.py`. A stage that is given `--gpu-ms` runs on a GPU instead and its CPU cost is left out. Every figure that is
not in the JSON is an option below; prices and limits are assumptions, to be replaced by your own.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Literal

import tyro

HOUR, DAY, TB = 3600.0, 86400.0, 1e12


@dataclasses.dataclass(frozen=True)
class Options:
    """The job, and the machines it runs on.

    Attributes:
        measured: JSON of `stage_costs.py`.
        clips, seconds, fps: how many, how long, frames per second.
        gpus, cores_per_gpu: of the cluster.
        gpu_ms: stage → milliseconds per frame on one GPU.
        captions: `template` (a CPU's work), `gpu` (`captions_ms` each, on these GPUs) or `server` (elsewhere).
        days: take so long, if less is not needed; GPU time to spare is then what further stages may take.
        use: share of the time in which machines work (start-up, stragglers, restarts take the rest).
        failing: share of inputs that fail, `attempts` times each.
        attempts: as `traceworld extract --max-attempts`.
        shards: array tasks that write one dataset. datasets: folders that the clips are split over.
        gpu_hour, core_hour, tb_month: prices, in dollars. months: that traces are kept.
        read_gb_s, file_ops_s, captions_s, folder_files: what the storage and the caption server bear: gigabytes per
            second, file operations per second, requests per second, files in a folder.
    """

    measured: tyro.conf.Positional[Path]
    clips: int = 1_000_000
    seconds: float = 10.0
    fps: float = 30.0
    gpus: int = 64
    cores_per_gpu: int = 16
    gpu_ms: dict[str, float] = dataclasses.field(default_factory=dict)
    captions: Literal["template", "gpu", "server"] = "template"
    captions_ms: float = 0.0
    days: float = 0.0
    use: float = 0.85
    failing: float = 0.02
    attempts: int = 3
    shards: int = 64
    datasets: int = 1
    gpu_hour: float = 2.5
    core_hour: float = 0.04
    tb_month: float = 20.0
    months: float = 12.0
    read_gb_s: float = 5.0
    file_ops_s: float = 5000.0
    captions_s: float = 100.0
    folder_files: int = 1_000_000
    json: bool = False


def plan(measured: dict[str, Any], options: Options) -> dict[str, Any]:
    """All figures of the job; seconds, bytes and dollars of the whole, and the load on each limit."""
    unknown = sorted(set(options.gpu_ms) - set(measured["stages"]))
    if unknown:
        raise SystemExit(f"no stage is called '{unknown[0]}'; measured: {', '.join(measured['stages'])}")
    frames = options.clips * options.seconds * options.fps
    again = 1 + options.failing * (options.attempts - 1)
    cpu = {name: cost * frames * again for name, cost in measured["stages"].items() if name not in options.gpu_ms}
    gpu = {name: ms / 1000 * frames * again for name, ms in options.gpu_ms.items()}
    calls = options.clips * options.seconds * sum(measured["events_per_s"].values())
    if options.captions == "gpu":
        gpu["captions (model)"] = calls * options.captions_ms / 1000
    cores = options.gpus * options.cores_per_gpu
    needed = max(sum(cpu.values()) / cores, sum(gpu.values()) / options.gpus) / options.use
    wall = max(needed, options.days * DAY)
    files = measured["files_per_clip"] * options.clips
    # Every array task lists what is done before it begins, and the last one reads everything again.
    file_ops = files + options.clips * (options.shards + 2)
    source, traces = (measured["bytes_per_frame"][kind] * frames for kind in ("source", "traces"))
    loads = {
        "files in one folder": (options.clips / options.datasets, options.folder_files, "files"),
        "finalising, share of the run": (measured["finalise_s_per_clip"] * options.clips / options.datasets / wall, 0.1, ""),
        "file operations": (file_ops / wall, options.file_ops_s, "per s"),
        "reading": (source / wall / 1e9, options.read_gb_s, "GB/s"),
        "captions": (calls / wall if options.captions == "server" else 0.0, options.captions_s, "requests/s"),
        "cores that feed a GPU": (
            sum(cpu.values()) / sum(gpu.values()) if any(gpu.values()) else 0.0, options.cores_per_gpu, "cores"
        ),
    }  # fmt: skip
    return {
        "frames": frames,
        "cpu_s": cpu,
        "gpu_s": gpu,
        "wall_s": wall,
        "needed_s": needed,
        "held_by": "GPUs" if gpu and sum(gpu.values()) / options.gpus >= sum(cpu.values()) / cores else "cores",
        "source_bytes": source,
        "trace_bytes": traces,
        "files": files,
        "caption_calls": calls,
        "dollars": {
            "GPUs": wall / HOUR * options.gpus * options.gpu_hour if gpu else 0.0,
            "cores": wall / HOUR * cores * options.core_hour,
            "storage of traces": traces / TB * options.tb_month * options.months,
        },
        "loads": {name: {"load": load, "limit": limit, "unit": unit} for name, (load, limit, unit) in loads.items()},
        "breaks_first": max(loads, key=lambda name: loads[name][0] / loads[name][1]),
        "spare_gpu_ms_per_frame": spare_gpu_ms(wall, gpu, frames * again, options),
    }


def spare_gpu_ms(wall: float, gpu: dict[str, float], frames: float, options: Options) -> float:
    """Milliseconds per frame that more stages could take on the GPUs without making the run longer."""
    spare = wall * options.use * options.gpus - sum(gpu.values())
    return 1000 * spare / frames if spare > 1e-6 * wall else 0.0


def amount(value: float) -> str:
    """Three figures, thousands separated."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def tables(measured: dict[str, Any], found: dict[str, Any], options: Options) -> str:
    """The plan in Markdown."""
    total = sum(found["cpu_s"].values())
    lines = [
        f"{options.clips:,} clips of {options.seconds:g} s at {options.fps:g} frames/s ({amount(found['frames'] / 1e6)} M frames) on "
        f"{options.gpus} GPUs with {options.cores_per_gpu} cores each; costs measured on `{measured['input']}` "
        f"({measured['size'][0]}×{measured['size'][1]}, {measured['keypoints']} points).",
        "",
        "| stage | where | ms per frame | hours in all |",
        "|---|---|---|---|",
    ]
    for name, seconds in sorted(found["cpu_s"].items(), key=lambda entry: -entry[1]):
        if seconds:
            lines.append(f"| {name} | core | {amount(1000 * measured['stages'][name])} | {amount(seconds / HOUR)} |")
    for name, seconds in found["gpu_s"].items():
        ms = options.gpu_ms.get(name, 1000 * seconds / found["frames"])
        lines.append(f"| {name} | GPU | {amount(ms)} | {amount(seconds / HOUR)} |")
    lines += [
        "",
        "| | |",
        "|---|---|",
        f"| core hours, GPU hours | {amount(total / HOUR)}, {amount(sum(found['gpu_s'].values()) / HOUR)} |",
        f"| time | {amount(found['wall_s'] / DAY)} days; {amount(found['needed_s'] / DAY)} at least, for the {found['held_by']} |",
        f"| GPU time to spare in it | {amount(found['spare_gpu_ms_per_frame'])} ms per frame |",
        f"| read | {amount(found['source_bytes'] / TB)} TB |",
        f"| traces written | {amount(found['trace_bytes'] / TB)} TB in {found['files']:,.0f} files |",
        f"| captions | {amount(found['caption_calls'] / 1e6)} M |",
    ]
    lines += [f"| {name} | ${amount(dollars)} |" for name, dollars in found["dollars"].items()]
    lines += ["", "| what may break | load | bears | used |", "|---|---|---|---|"]
    by_use = sorted(found["loads"].items(), key=lambda entry: -entry[1]["load"] / entry[1]["limit"])
    for name, at in by_use:
        unit = f" {at['unit']}" if at["unit"] else ""
        lines.append(
            f"| {name} | {amount(at['load'])}{unit} | {amount(at['limit'])} | {at['load'] / at['limit']:.0%} |"
        )
    return "\n".join(lines)


def main(options: Options) -> dict[str, Any]:
    measured = json.loads(options.measured.read_text())
    found = plan(measured, options)
    print(json.dumps(found, indent=1) if options.json else tables(measured, found, options))
    return found


if __name__ == "__main__":
    main(tyro.cli(Options))
