"""Commands on models: train, predict, convert."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from traceworld.commands.printing import emit, tree
from traceworld.errors import ConfigError

if TYPE_CHECKING:
    from traceworld.training.config import TrainConfig


_TRAIN_DEFAULTS: dict[str, Any] = {"steps": 1000, "batch": 16, "arc_weight": 0.2, "time_weight": 0.8, "workers": 0}
"""Where a first run on a laptop wants something else than App. B.1; a recipe is taken as it is."""


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a trace model on datasets of clips; go on where a stopped run was. Under torchrun: on several processes."""

    data: Positional[tuple[str, ...]]
    """Dataset folders. FOLDER:2 doubles the chance of each of its windows, FOLDER:60% gives it 60 % of the draws."""
    out: Path
    """Run folder: log.jsonl, checkpoints."""
    recipe: Literal["mu0-paper", "mu0-release"] | None = None
    """Named set of options; options given beside it win."""
    model: Literal["mu0", "tracegen"] | None = None
    """Default: mu0."""
    size: str | None = None
    """Default: nano."""
    steps: int | None = None
    """Default: 1000."""
    batch: int | None = None
    """Windows per forward pass, over all processes. Default: 16."""
    lr: float | None = None
    """Default: 1e-4."""
    optimizer: Literal["adamw", "muon"] | None = None
    """Default: adamw."""
    warmup: int | None = None
    """Steps of linear warm-up. Default: 0."""
    schedule: Literal["constant", "cosine"] | None = None
    """Default: constant."""
    ema: float | None = None
    """Decay of the moving average of the weights; 0: off (default)."""
    precision: Literal["fp32", "bf16"] | None = None
    """Default: fp32."""
    grad_accumulation: int | None = None
    """Default: 1."""
    keypoints: tuple[int, int] | None = None
    """Least and most keypoints per window. Default: 1 256."""
    keep: tuple[str, ...] | None = None
    """Only clips whose quality figures meet all of these, as 'visible_fraction>=0.5' (`traceworld report` shows them). Default: all."""
    arc_weight: float | None = None
    """Share of windows on the arc-length clock; the others are on plain time. Default: 0.2."""
    init_from: str | None = None
    """Checkpoint folder to start the weights from."""
    seed: int | None = None
    """Default: 0."""
    minutes: float | None = None
    """Stop cleanly after so many minutes (a later start goes on)."""
    workers: int | None = None
    """Processes that read data. Default: 0."""
    checkpoint_every: int | None = None
    """Steps. Default: 1000."""
    eval_every: int | None = None
    """Steps. Default: 1000."""
    parallel: Literal["ddp", "fsdp"] | None = None
    """Under torchrun: a whole model per process, or one that is cut over them. Default: ddp."""
    compile: bool = False
    """Run loss and gradient through torch.compile."""
    trackers: tuple[Literal["wandb", "tensorboard", "trackio"], ...] | None = None
    """Log there too."""
    json: bool = False
    """Print the report as JSON."""

    def run(self) -> int:
        from traceworld.training.loop import train

        rows = dataclasses.asdict(train(self.config()))
        emit(rows, self.json, None if self.json else tree(str(self.out), rows))
        return 0

    def config(self) -> TrainConfig:
        """The run that is asked for: what is given, else the recipe's options, else the defaults."""
        from traceworld.training.config import TrainConfig
        from traceworld.training.recipes import from_recipe

        names = {"minutes": "max_minutes"}
        aside = ("json", "recipe", "data", "out")
        asked = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in aside}
        given = {
            names.get(name, name): value for name, value in asked.items() if value is not None and value is not False
        }
        if self.arc_weight is not None:
            given["time_weight"] = 1.0 - self.arc_weight
        given |= {"data": self.data, "out": str(self.out)}
        if self.recipe is not None:
            return from_recipe(self.recipe, **given)
        return TrainConfig(**{**_TRAIN_DEFAULTS, **given})


@dataclasses.dataclass(frozen=True)
class Predict:
    """Predict how points of a picture will move."""

    image: Positional[Path]
    """A picture, or an RGB-D folder (its first frame)."""
    instruction: str
    """What is to happen, e.g. 'open the drawer'."""
    model: str = "mu0-nano"
    """A model's name or a checkpoint folder."""
    points: tuple[tuple[float, float], ...] = ()
    """Pixel positions x y of the points; none: points are chosen by the picture's own features."""
    num_points: int = 64
    """How many points to choose when none are given."""
    samples: int = 5
    """How many futures."""
    seed: int = 0
    out: Path | None = None
    """Also write the picture with the futures drawn in (PNG)."""
    json: bool = False
    """Print the prediction as JSON."""

    def run(self) -> int:
        from traceworld.viewer.prediction import predict_picture

        result = predict_picture(
            self.image,
            self.instruction,
            model=self.model,
            points_px=self.points,
            num_points=self.num_points,
            num_samples=self.samples,
            seed=self.seed,
            out=self.out,
        )
        emit(
            result,
            self.json,
            None if self.json else tree(str(self.image), {k: v for k, v in result.items() if k != "uvz"}),
        )
        return 0


@dataclasses.dataclass(frozen=True)
class Convert:
    """Make a checkpoint of released weights (μ0: hub furonghuang-lab/mu0; TraceGen; policies on μ0). Nothing is downloaded."""

    kind: Positional[Literal["mu0", "tracegen", "policy"]]
    """Whose weights."""
    source: Positional[Path]
    """mu0: the released folder (config.json, model.safetensors). tracegen: the checkpoint file (.safetensors, .pth).
    policy: checkpoint.pt, or the folder of the run that holds it."""
    out: Path
    """Checkpoint folder to write."""
    stats: Path | None = None
    """mu0: the release's normalizer_stats.json."""
    size: Literal["4x8", "6x12", "12x16"] | None = None
    """tracegen: the size it was trained at."""
    keep_backbone: bool = False
    """mu0: store the file's frozen SmolVLM2 and DINOv2 tensors as well, so that loading downloads nothing. (tracegen: always.)"""
    mu0: Path | None = None
    """policy: the μ0 it was trained on, converted before (`traceworld convert mu0`)."""
    chunk: int | None = None
    """policy: actions per chunk, which the file does not say. Default: 16, as released."""
    without_trace: bool = False
    """policy: it was trained without traces (the release's `use_trace=False`)."""
    json: bool = False
    """Print the report as JSON."""

    def run(self) -> int:
        report = {"mu0": self._mu0, "tracegen": self._tracegen, "policy": self._policy}[self.kind]()
        emit(report, self.json, None if self.json else tree(str(self.out), report))
        return 0

    def _mu0(self) -> dict:
        from traceworld.models.mu0.official.convert import convert_official

        if self.stats is None or self._given("size", "mu0", "chunk", "without_trace"):
            raise ConfigError(
                "mu0 wants --stats and nothing of the other kinds", where="convert", mend="give normalizer_stats.json"
            )
        return convert_official(self.source, self.stats, self.out, keep_backbone=self.keep_backbone).to_dict()

    def _tracegen(self) -> dict:
        from traceworld.models.tracegen.compat import convert_tracegen

        if self.size is None or self._given("stats", "keep_backbone", "mu0", "chunk", "without_trace"):
            raise ConfigError("tracegen wants --size and nothing else", where="convert", mend="give --size 6x12")
        convert_tracegen(self.source, self.size, self.out)
        return {"out": str(self.out), "size": self.size}

    def _policy(self) -> dict:
        from traceworld.policies.action_expert.official.convert import convert_policy

        if self.mu0 is None or self._given("stats", "size", "keep_backbone"):
            raise ConfigError(
                "policy wants --mu0 and nothing of the other kinds",
                where="convert",
                mend="give the folder that `traceworld convert mu0` wrote",
            )
        chunk = 16 if self.chunk is None else self.chunk
        return convert_policy(self.source, self.mu0, self.out, chunk=chunk, use_trace=not self.without_trace).to_dict()

    def _given(self, *names: str) -> bool:
        """Whether one of these options was given."""
        return any(getattr(self, name) not in (None, False) for name in names)
