"""ask; train robotracer-sft and train robotracer-rft: what RoboTracer says, its fine-tuning in two stages, its reinforcement."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from traceworld.commands.printing import emit, tree

if TYPE_CHECKING:
    from traceworld.training.robotracer.rft_config import RftConfig
    from traceworld.training.robotracer.stages import SftConfig


@dataclasses.dataclass(frozen=True)
class Ask:
    """Ask a RoboTracer where a thing is to go: the trace of an instruction, in pixels and metres."""

    image: Positional[Path]
    """A picture, or an RGB-D folder (its first frame, with its depth and intrinsics)."""
    text: Positional[str]
    """What is to happen, e.g. 'Put the red bottle on top of the orange box.'"""
    model: str = "robotracer-nano"
    """A model's name or a checkpoint folder."""
    form: Literal["3D", "2D", "raw"] = "3D"
    """3D: a trace with metres. 2D: one in the picture. raw: TEXT is the whole question, in the words the model knows."""
    intrinsics: tuple[float, float, float, float] | None = None
    """fx fy cx cy of the picture, px."""
    depth: Path | None = None
    """Depth map of the picture: 16-bit PNG, TIFF or NPY."""
    out: Path | None = None
    """Also write the picture with the trace drawn in (PNG)."""
    json: bool = False
    """Print the answer as JSON."""

    def run(self) -> int:
        from traceworld.viewer.asking import ask_about_picture

        result = ask_about_picture(
            self.image,
            self.text,
            model=self.model,
            form=self.form,
            intrinsics=self.intrinsics,
            depth=self.depth,
            out=self.out,
        )
        emit(result, self.json, None if self.json else tree(str(self.image), _for_people(result)))
        return 0


def _for_people(result: dict[str, Any]) -> dict[str, Any]:
    """An answer with a line per point; the words themselves where no point was read."""
    depths = result["depth_m"] or [None] * len(result["points_px"])
    points = [
        f"({x:.0f}, {y:.0f}) px" + ("" if depth is None else f", {depth:.2f} m")
        for (x, y), depth in zip(result["points_px"], depths, strict=True)
    ]
    given = [name for name, there in result["given"].items() if there]
    shown = {name: result[name] for name in ("model", "question", "failure", "seconds", "picture")}
    shown["words"] = None if points else result["words"]
    shown |= {"given beside the picture": ", ".join(given) or "nothing", "points": points}
    return {name: value for name, value in shown.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class TrainRoboTracerSft:
    """Fine-tune a RoboTracer on training files in conversation format; goes on where a stopped run was."""

    data: Positional[tuple[Path, ...]]
    """Training files (train.json of `traceworld tracespatial build`, or any in that format)."""
    model: str
    """Checkpoint folder to start from, or the base for a new one: hub id (Qwen/Qwen2.5-VL-3B-Instruct) or its folder."""
    out: Path
    """Run folder: log.jsonl, checkpoints, and model/ at the end."""
    stage: Literal["alignment", "enhancement"]
    """alignment: projectors and scale decoder. enhancement: everything; start it from the model/ of an alignment."""
    lr: float | None = None
    """Default: 1e-4 for alignment, 5e-5 for enhancement."""
    batch: int | None = None
    """Per process and forward pass. Default: 7 for alignment, 6 for enhancement."""
    epochs: float | None = None
    """Default: 1."""
    max_steps: int = 0
    """Stop after so many steps; 0: after the epochs."""
    grad_accumulation: int = 1
    """Forward passes per step."""
    scale_loss_weight: float = 0.1
    """Of the scale loss beside next-token prediction; 0: none."""
    drop: float = 0.5
    """Chance of intrinsics, depth and pose, each, to be left out of an example."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """bf16: autocast."""
    gradient_checkpointing: bool = False
    """Recompute activations: slower, less memory."""
    workers: int = 2
    """Processes that read data."""
    save_every: int = 1000
    """Steps."""
    log_every: int = 10
    """Steps."""
    seed: int = 0
    json: bool = False
    """Print the report as JSON."""

    def run(self) -> int:
        from traceworld.training.robotracer.examples import Examples
        from traceworld.training.robotracer.sft import train_sft
        from traceworld.training.robotracer.start import read_all, start_model

        examples = Examples(read_all(self.data), self.drop, self.seed)
        model, processor = start_model(self.model, self.seed)
        result = dataclasses.asdict(train_sft(model, processor, examples, self.config(), self.out))
        emit(result, self.json, None if self.json else tree(str(self.out), result))
        return 0

    def config(self) -> SftConfig:
        """The options of the stage."""
        from traceworld.training.robotracer.stages import SftConfig

        return SftConfig(**_of(SftConfig, self))


@dataclasses.dataclass(frozen=True)
class TrainRoboTracerRft:
    """Reinforce a fine-tuned RoboTracer by GRPO with rewards on answer and reasoning; goes on where a stopped run was."""

    data: Positional[tuple[Path, ...]]
    """Training files whose last answers hold a trace or process steps."""
    model: Path
    """Checkpoint folder of the fine-tuned RoboTracer; also the reference of the KL divergence."""
    out: Path
    """Run folder: log.jsonl, checkpoints, and model/ at the end."""
    families: tuple[str, ...] = ("reasoning",)
    """Families of questions taken, of files that say them; none: all."""
    steps: tuple[int, int] = (4, 6)
    """Least and most reasoning steps of the questions taken, of files that say them (paper: 4 to 6)."""
    weights: Literal["text", "eq7"] = "text"
    """Sum of all rewards (the paper's text), or without that of the whole trace (its equation 7)."""
    accuracy: Literal["mean", "sum"] = "mean"
    """Accuracy over key steps."""
    process_format: Literal["fraction", "all"] = "fraction"
    """Format of the process: share of good steps, or all or nothing."""
    warping: Literal["mean", "sum"] = "mean"
    """Distance of traces: mean along the warping path, or its sum."""
    samples: int = 8
    """Answers per question."""
    batch: int = 8
    """Answers per process and forward pass; times grad-accumulation and processes a multiple of samples."""
    grad_accumulation: int = 1
    """Forward passes per step."""
    epochs: float = 2.0
    max_steps: int = 0
    """Stop after so many steps; 0: after the epochs."""
    lr: float = 1e-6
    beta: float = 0.04
    """Weight of the KL divergence to the model at the start; 0: none."""
    temperature: float = 1.0
    """Of the answers."""
    max_new_tokens: int = 1024
    """Longest answer."""
    lora_rank: int = 0
    """Train low-rank adapters of the language model; 0: train everything."""
    drop: float = 0.5
    """Chance of intrinsics, depth and pose, each, to be left out of a question."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """bf16: autocast."""
    gradient_checkpointing: bool = False
    """Recompute activations: slower, less memory."""
    save_every: int = 500
    """Steps."""
    log_every: int = 1
    """Steps."""
    seed: int = 0
    json: bool = False
    """Print the report as JSON."""

    def run(self) -> int:
        from traceworld.training.robotracer.examples import Examples
        from traceworld.training.robotracer.records import choose
        from traceworld.training.robotracer.rft import train_rft
        from traceworld.training.robotracer.start import read_all, start_model

        records = choose(read_all(self.data), self.families, self.steps)
        model, processor = start_model(str(self.model), self.seed)
        examples = Examples(records, self.drop, self.seed)
        result = dataclasses.asdict(train_rft(model, processor, examples, self.config(), self.out))
        emit(result, self.json, None if self.json else tree(str(self.out), result))
        return 0

    def config(self) -> RftConfig:
        """The options of the run."""
        from traceworld.training.robotracer.rewards import RewardConfig
        from traceworld.training.robotracer.rft_config import LoraOptions, RftConfig

        lora = LoraOptions(rank=self.lora_rank, alpha=2 * self.lora_rank) if self.lora_rank else None
        return RftConfig(**_of(RftConfig, self), rewards=RewardConfig(**_of(RewardConfig, self)), lora=lora)


def _of(config: type, command: Any) -> dict[str, Any]:
    """The options of a command that a config has under the same name."""
    names = {field.name for field in dataclasses.fields(config)}
    skipped = {"steps"}  # of RewardConfig: how strictly steps are read; the command's are numbers
    given = {field.name for field in dataclasses.fields(command)}
    return {name: getattr(command, name) for name in sorted(names & given - skipped)}
