"""What the prediction benchmarks run: models with random weights (time does not depend on what the weights are) and an
observation of noise. The text is not read by a hub's tokenizer: a stand-in gives token ids, so nothing is downloaded."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from roofline import Work, count_work

from traceworld.models.mu0.model import Mu0Model
from traceworld.models.mu0.predictor import Mu0Predictor
from traceworld.models.mu0.sizes import mu0_config
from traceworld.models.precision import parameters_in
from traceworld.models.tracegen.model import TraceGenModel
from traceworld.models.tracegen.predictor import TraceGenPredictor
from traceworld.models.tracegen.sizes import tracegen_config
from traceworld.traces.types import Observation

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_WORDS = 12


def words(prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Twelve token ids for each prompt."""
    ids = torch.arange(1, 1 + _WORDS).expand(len(prompts), -1)
    return ids, torch.ones_like(ids, dtype=torch.bool)


def config_of(size: str) -> Any:
    """`small` or `mu0:small`, `tracegen:6x12` → the config. ConfigError if there is no such size."""
    kind, _, name = size.rpartition(":")
    return tracegen_config(name) if kind == "tracegen" else mu0_config(name)


def predictor(
    config: Any, device: str = "cpu", precision: str = "fp32", read: Callable[..., Any] = words
) -> Mu0Predictor | TraceGenPredictor:
    """A predictor of that config with random weights, all of them in the given precision."""
    torch.manual_seed(0)
    build, wrap = (TraceGenModel, TraceGenPredictor) if hasattr(config, "encoders") else (Mu0Model, Mu0Predictor)  # type: ignore[assignment]
    with parameters_in(DTYPES[precision]), torch.device(device):
        model = build(config)
    for reader in (getattr(model, "prefix", None), getattr(model, "condition", None)):
        if hasattr(reader, "tokenizer"):
            reader.tokenizer = read
    return wrap(model)


@contextlib.contextmanager
def arithmetic(device: str, precision: str) -> Iterator[None]:
    """Within the block matrix products run in the given precision."""
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16"):
        yield


def observation(keypoints: int, depth: bool = True, history: bool = True) -> Observation:
    """A 640×480 picture of noise with everything a predictor may be given."""
    rng = np.random.default_rng(0)
    return Observation(
        image=rng.integers(0, 256, (480, 640, 3), dtype=np.uint8),
        instruction="open the top drawer of the cabinet",
        depth_m=rng.uniform(0.5, 2, (480, 640)).astype(np.float32) if depth else None,
        keypoints_uv=rng.uniform(-0.9, 0.9, (keypoints, 2)),
        history_uvz=rng.uniform(-0.5, 0.9, (keypoints, 8, 3)) if history else None,
    )


@dataclasses.dataclass(frozen=True)
class Stages:
    """One prediction: `prefix` is done once for an observation, `denoise` `times` times for all its samples together."""

    prefix: Work
    denoise: Work
    times: int

    @property
    def total(self) -> Work:
        return self.prefix + self.denoise * self.times


def count_stages(config: Any, asked: Observation, samples: int, read: Callable[..., Any] = words) -> Stages:
    """FLOPs and traffic of one prediction, on the meta device: seconds for any size, and no memory."""
    subject = predictor(config, "meta", read=read)
    model: Any = subject.model
    batch = meta_batch(subject, asked)
    noisy_of = _mu0_stages if isinstance(model, Mu0Model) else _tracegen_stages
    return noisy_of(model, batch, samples)


def meta_batch(subject: Any, asked: Observation) -> dict[str, Any]:
    """The observation as a predictor on the meta device batches it; what needs numbers (words, which rows) is filled in."""
    _, batch = subject._batch(asked)
    reader = subject.model.prefix if hasattr(subject.model, "prefix") else subject.model.condition
    batch["words"] = reader.read(batch["instruction"])
    has_depth = asked.depth_m is not None
    batch["depth_rows"] = torch.arange(int(has_depth), device="meta")
    return batch


def _mu0_stages(model: Any, batch: dict[str, Any], samples: int) -> Stages:
    config = model.config
    prefix, context = count_work(lambda: model.context(batch, model.encode(batch)))
    N = batch["present"].shape[1]
    noisy = torch.empty(1, samples, N, config.num_controls, 3, device="meta")
    denoise, _ = count_work(model.denoise, noisy, torch.empty(1, samples, device="meta"), context)
    return Stages(prefix, denoise, config.euler_steps)


def _tracegen_stages(model: Any, batch: dict[str, Any], samples: int) -> Stages:
    config = model.config
    if hasattr(model.condition, "t5"):
        # transformers looks into the mask, which has no values here; without padding it changes nothing.
        understand = model.condition.t5.forward
        model.condition.t5.forward = lambda input_ids, attention_mask: understand(input_ids=input_ids)
    prefix, condition = count_work(model.encode, batch)
    repeated = dataclasses.replace(
        condition, tokens=condition.tokens.repeat(samples, 1, 1), mask=condition.mask.repeat(samples, 1)
    )
    noisy = torch.empty(samples, config.horizon, config.grid, config.grid, 3, device="meta")
    clock = torch.zeros(samples, dtype=torch.long, device="meta")
    denoise, _ = count_work(model.velocity, noisy, torch.empty(samples, device="meta"), repeated, clock)
    evaluations = 1 if config.guidance == 1 else 2
    return Stages(prefix, denoise, config.euler_steps * evaluations)
