"""What a computation costs at least: its FLOPs and bytes, counted without running it, and how fast a device does either.

FLOPs: those of matrix products, convolutions and attention, two for each multiply-add, by torch's own counter.
Bytes: each of these operations reads its operands once and writes its result once; what lies between (norms, activations,
sums, softmax) is taken as done on the way. So weights count once per use: those of a denoiser in each of its steps.
Roofline: a stage takes at least as long as its FLOPs at the device's peak, and as its bytes at the device's bandwidth.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

_MATRIX_OPERATIONS = {
    F.linear,
    F.conv2d,
    F.scaled_dot_product_attention,
    torch.matmul,
    torch.bmm,
    torch.einsum,
    Tensor.matmul,
    Tensor.__matmul__,
}
_PROBE_S = 0.5


@dataclass(frozen=True)
class Work:
    """Attributes:
    flops: two per multiply-add.
    numbers: operands and results moved, as tensor elements; times the width of the type they are bytes.
    """

    flops: int = 0
    numbers: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.numbers + other.numbers)

    def __mul__(self, times: int) -> Work:
        return Work(self.flops * times, self.numbers * times)


@dataclass(frozen=True)
class Device:
    """Attributes:
    flops_per_s, bytes_per_s: what it reaches. source: `measured` or `stated`.
    """

    name: str
    flops_per_s: float
    bytes_per_s: float
    source: str

    def seconds(self, work: Work, width: int) -> float:
        """The roofline of one stage. `width`: bytes of a number."""
        return max(work.flops / self.flops_per_s, work.numbers * width / self.bytes_per_s)


class _Traffic(TorchFunctionMode):
    """Adds up the numbers that matrix operations touch."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in _MATRIX_OPERATIONS:
            operands = [*args, *(kwargs or {}).values(), out]
            self.numbers += sum(_held(x) for x in operands if isinstance(x, Tensor) and x.is_floating_point())
        return out


def _held(tensor: Tensor) -> int:
    """Numbers in memory: those that `expand` repeats are there once."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1
    return count


def count_work(function: Callable[..., Any], *args: Any) -> tuple[Work, Any]:
    """What a function does, and what it returns. On the meta device nothing is computed."""
    traffic = _Traffic()
    with torch.no_grad(), FlopCounterMode(display=False) as counter, traffic:
        result = function(*args)
    return Work(counter.get_total_flops(), traffic.numbers), result


def synchronize(device: str | torch.device) -> None:
    """Wait until a device has done what it was given; a CPU always has."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def probe(device: str, dtype: torch.dtype) -> Device:
    """Peak of a square matrix product in `dtype`, and bandwidth of a copy much larger than any cache; best of half a second."""
    cuda = torch.device(device).type == "cuda"
    side, copied = (8192, 2**30) if cuda else (1536, 2**28)
    left = torch.randn(side, side, device=device).to(dtype)
    right, product = torch.randn(side, side, device=device).to(dtype), torch.empty_like(left)
    source = torch.ones(copied // 4, device=device)
    target = torch.empty_like(source)
    matmul = _best(lambda: torch.mm(left, right, out=product), device)
    copy = _best(lambda: target.copy_(source), device)
    name = torch.cuda.get_device_name(device) if cuda else f"CPU, {torch.get_num_threads()} threads"
    return Device(name, 2 * side**3 / matmul, 2 * copied / copy, "measured")


def _best(run: Callable[[], Any], device: str) -> float:
    run()
    synchronize(device)
    best, ended = float("inf"), time.perf_counter() + _PROBE_S
    while time.perf_counter() < ended:
        begun = time.perf_counter()
        run()
        synchronize(device)
        best = min(best, time.perf_counter() - begun)
    return best


def in_turns(runs: dict[str, Callable[[], Any]], repeats: int, budget_s: float, device: str) -> dict[str, list[float]]:
    """Seconds of each run, one after the other again and again, so that a busy machine disturbs all alike.

    Args:
        runs: name → what to time. Each runs once unmeasured first.
        repeats: rounds. budget_s: no new round is begun after this, but there is always one.
    """
    for run in runs.values():
        run()
    found: dict[str, list[float]] = {name: [] for name in runs}
    ended = time.perf_counter() + budget_s
    for number in range(repeats):
        if number and time.perf_counter() > ended:
            break
        for name, run in runs.items():
            synchronize(device)
            begun = time.perf_counter()
            run()
            synchronize(device)
            found[name].append(time.perf_counter() - begun)
    return found
