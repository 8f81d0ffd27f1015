"""One optimiser step, on one process or on several that share the batch.

Every term of a loss is a mean over something that differs from window to window (keypoints that count, pairs of a part), so
the mean of the ranks' means is not the mean over all. Ranks therefore exchange their counts before the backward pass and
weigh each term by its share; the gradient is that of one process with the whole batch, to rounding.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from traceworld.errors import ConfigError, NonFiniteLossError
from traceworld.training.data import Batch, Rows, pad_keypoints, rows_of, to_device
from traceworld.training.draws import RowsOfDraw, seed_of
from traceworld.training.optim import learning_rate
from traceworld.training.registry import windows_in
from traceworld.training.sharding import ShardedLoss, whole

if TYPE_CHECKING:
    from traceworld.training.run import Run

_NOISE = 21  # keeps the random streams of one seed apart


def one_step(run: Run, batches: Iterator[Batch]) -> dict[str, Any]:
    """One optimiser step: `grad_accumulation` batches, of each the rows of this rank. Returns what is logged.

    Raises:
        NonFiniteLossError: (on every rank) the loss or the gradient of the whole batch is not finite.
    """
    config, step, world = run.config, run.state.step, run.world
    # Noise comes from the generator; what else draws (dropout) from torch's own, seeded alike on rank 0.
    generator = torch.Generator(device=run.device).manual_seed(seed_of(config.seed, _NOISE, step))
    torch.manual_seed(seed_of(config.seed, _NOISE, step, *([world.rank] if world.rank else [])))
    rate = learning_rate(step, config)
    for group in run.optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
    run.model.train()
    run.optimizer.zero_grad()
    rows = rows_of(config.batch, world.rank, world.size)
    total: dict[str, float] = {}
    windows: list[str] = []
    waited = 0.0
    for part in range(config.grad_accumulation):
        asked = time.monotonic()
        batch = next(batches)
        waited += time.monotonic() - asked
        windows += batch["sample_id"]
        last = part == config.grad_accumulation - 1
        with contextlib.nullcontext() if last else run.without_exchange():
            loss, parts = evaluate(run, batch, generator, rows)
            (loss / config.grad_accumulation).backward()
        for name, value in parts().items():
            total[name] = total.get(name, 0.0) + value / config.grad_accumulation
    if isinstance(run.loss, ShardedLoss):
        run.loss.forget_unused(world)
    trained = [p for group in run.optimizer.param_groups for p in group["params"]]
    norm = float(whole(nn.utils.clip_grad_norm_(trained, config.clip)))
    if not (math.isfinite(total["loss"]) and math.isfinite(norm)):
        everywhere = [name for names in world.gather_objects(windows) for name in names]
        raise NonFiniteLossError(
            f"loss is {total['loss']}, gradient norm {norm}",
            where=f"step {step + 1}, windows {', '.join(everywhere)}",
            mend="look at these windows; lower lr or the clip; the last checkpoint is intact",
        )
    run.optimizer.step()
    if run.ema:
        run.ema.update(run.model, step + 1)
    return {**total, "lr": rate, "grad_norm": norm, "wait_s": round(waited, 4)}


def evaluate(run: Run, batch: Batch, generator: torch.Generator, rows: Rows) -> tuple[Tensor, Any]:
    """The loss of this rank's rows, scaled so that the ranks' mean gradient is that of the whole batch.

    Returns:
        (loss, parts): `parts()` gives the named terms over the whole batch, the same on every rank (collective).
    """
    world = run.world
    if run.config.compile:  # the noise is torch's own, see `LossModule`
        drawn = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        torch.manual_seed(drawn + world.rank)
    if world.size == 1:
        with _autocast(run):
            loss, parts = run.loss(_ready(run, batch), generator, None)
        return loss, lambda: {name: float(value.detach()) for name, value in parts.items()}
    terms = dict(run.kind.shares(run.model, batch))
    weights = {name: weight for name, (weight, _) in terms.items()}
    windows = float(windows_in(batch))
    counts = [count if rows.count else 0.0 for count in (windows, *(float(count) for _, count in terms.values()))]
    found = world.gather([batch["present"].shape[1] if "present" in batch else 0, *counts])
    batch = pad_keypoints(batch, int(found[:, 0].max()))
    sums = found[:, 1:].sum(0)
    sums[sums == 0] = 1  # a term without anything to count is 0 by definition; so it is here
    share = dict(zip(("", *terms), counts / sums, strict=True))
    factors = {name: weight * share[name] * world.size for name, weight in weights.items()}
    drawing: contextlib.AbstractContextManager = contextlib.nullcontext()
    if not run.config.compile:
        drawing = RowsOfDraw(generator, rows.first, windows_in(batch), rows.total)
    with _autocast(run), drawing:
        loss, parts = run.loss(_ready(run, batch), generator, factors)
    _check(parts, weights)

    def over_all() -> dict[str, float]:
        mine = {name: float(value.detach()) for name, value in parts.items() if name != "loss" or name in share}
        sums = world.gather([value * share.get(name, share[""]) for name, value in mine.items()]).sum(0)
        means = dict(zip(mine, (float(value) for value in sums), strict=True))
        return {"loss": sum(weight * means[name] for name, weight in weights.items()), **means}

    return loss, over_all


def _ready(run: Run, batch: Batch) -> Batch:
    return to_device(dict(run.kind.prepare(run.model, batch)) if run.config.compile else batch, run.device)


def _check(parts: Mapping[str, Tensor], weights: Mapping[str, float]) -> None:
    """The declared terms must be the loss, or several processes would train something else than one."""
    declared = sum(weight * float(parts[name].detach()) for name, weight in weights.items())
    loss = float(parts["loss"].detach())
    if math.isfinite(loss) and abs(declared - loss) > 1e-2 * max(1.0, abs(loss)):
        raise ConfigError(
            f"its terms {weights} add up to {declared}, its loss is {loss}",
            where="ModelKind.shares",
            mend="declare every term of the loss with its weight and what it is a mean over",
        )


def _autocast(run: Run) -> contextlib.AbstractContextManager:
    return torch.autocast(run.device.type, torch.bfloat16, enabled=run.config.precision == "bf16")
