"""Our TraceGen against a plain one, and μ0's prediction against TraceGen's: time on one machine, random weights, released sizes.

    python benchmarks/tracegen.py                    # 6x12 and μ0 large: about 14 GB and ten minutes on two quiet cores
    python benchmarks/tracegen.py --mu0 small        # the smallest μ0 of the paper: 5 GB
    python benchmarks/tracegen.py --full             # run TraceGen's 100 evaluations instead of multiplying one by 100

1. One evaluation of the decoder at the released shape (1,600 trace and 704 condition tokens, no mask), the same weights in
   ours and in `tracegen_plain.py`, with attention by torch's kernel (as the released classes have it) and written out.
   It passes if ours takes no longer than the faster of the two.
2. One prediction: the paper's Table 1 has 0.29 s for μ0 (its 2.59B model, N=16, S=1, four steps, neither depth nor history)
   and 1.20 s for TraceGen (with depth, 100 evaluations, no guidance). It passes if μ0 takes at most a quarter.

All runs take turns, round after round; ratios are medians over rounds of what was measured in the same round.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table
from roofline import in_turns
from subjects import arithmetic, config_of, observation, predictor
from tracegen_plain import plain_decoder

from traceworld.models.describe import count_parameters
from traceworld.models.tracegen.compat import NOISE_LEVELS, reference_config

DECODER_LIMIT = 1.0
PREDICTION_LIMIT = 0.25
_PADDED_WORDS = 128
_READ_WORDS = 12


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        size: of TraceGen: 4x8, 6x12 (the published one), 12x16. mu0: sizes of μ0.
        rounds: how often each run takes its turn.
        full: run all evaluations of TraceGen's prediction, once.
        keypoints: N. depth: give μ0 depth too (TraceGen always has it).
        precision: of weights and arithmetic. threads: torch threads; 0 leaves torch's choice. device: cpu or cuda.
        json: print one JSON object instead of tables.
    """

    size: str = "6x12"
    mu0: tuple[str, ...] = ("large",)
    rounds: int = 5
    full: bool = False
    keypoints: int = 16
    depth: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: int = 0
    device: str = "cpu"
    json: bool = False


def padded_words(prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Twelve token ids padded to 128, as the released code pads them."""
    ids = torch.arange(1, 1 + _PADDED_WORDS).expand(len(prompts), -1) % 30
    return ids, (torch.arange(_PADDED_WORDS) < _READ_WORDS).expand(len(prompts), -1)


def open_gates(decoder: torch.nn.Module) -> None:
    """Random numbers where training starts at zero, so that the comparison of results sees every layer."""
    for parameter in decoder.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)


def compare(tracegen: Any, mu0: dict[str, Any], options: Options, read: Callable[..., Any]) -> dict[str, Any]:
    """Both comparisons.

    Args:
        tracegen: its config, as released. mu0: name → config.
        read: TraceGen's tokenizer.
    """
    subject = predictor(tracegen, options.device, options.precision, read)
    open_gates(subject.model.decoder)
    competitors = {name: predictor(config, options.device, options.precision) for name, config in mu0.items()}
    asked = observation(options.keypoints, depth=True, history=False)
    decoder = subject.model.decoder
    width, tokens = decoder.condition_proj.in_features, subject.model.condition.max_tokens
    shape = (1, tracegen.horizon, tracegen.grid, tracegen.grid, 3)
    noisy, condition = torch.randn(shape, device=options.device), torch.randn(1, tokens, width, device=options.device)
    level, clock = (
        torch.full((1,), 37.0, device=options.device),
        torch.zeros(1, dtype=torch.long, device=options.device),
    )
    plain = {"plain": plain_decoder(decoder, tracegen), "plain, written out": plain_decoder(decoder, tracegen, False)}
    moved = noisy.permute(0, 4, 1, 2, 3).contiguous()
    kept: dict[str, torch.Tensor] = {}

    def keep(name: str, value: torch.Tensor) -> None:
        kept[name] = value

    runs: dict[str, Callable[[], Any]] = {
        "ours": lambda: keep("ours", decoder(noisy, level, condition, None, clock)),
        **{n: lambda n=n, p=p: keep(n, p(moved, level, condition).permute(0, 2, 3, 4, 1)) for n, p in plain.items()},
        "encode": lambda: subject.model.encode(subject._batch(asked)[1]),
    }
    given = observation(options.keypoints, depth=options.depth, history=False)
    runs |= {f"mu0:{name}": lambda c=c: c.predict(given, 1) for name, c in competitors.items()}
    seconds = in_turns(
        {name: _quietly(run, options) for name, run in runs.items()}, options.rounds, 1e9, options.device
    )
    apart = max(float((kept["ours"] - kept[name]).abs().max() / kept["ours"].std()) for name in plain)
    found = {
        "decoder": decoder_verdict(seconds, apart),
        "medians_s": {name: statistics.median(times) for name, times in seconds.items()},
    }
    whole = [e + NOISE_LEVELS * d for e, d in zip(seconds["encode"], seconds["ours"], strict=True)]
    if options.full:
        full = _quietly(lambda: subject.predict(asked, 1), options)
        whole = in_turns({"full": full}, 1, 0.0, options.device)["full"] * options.rounds
    found["predictions"] = {
        name: prediction_verdict(seconds[f"mu0:{name}"], whole, options.full) for name in competitors
    }
    return found


def _quietly(run: Callable[[], Any], options: Options) -> Callable[[], Any]:
    def inner() -> None:
        with torch.inference_mode(), arithmetic(options.device, options.precision):
            run()

    return inner


def decoder_verdict(seconds: dict[str, list[float]], apart: float) -> dict[str, Any]:
    """Ratios of ours to the plain ones; `apart`: how far their results are apart, relative to their spread."""
    ratios = {
        name: statistics.median(a / b for a, b in zip(seconds["ours"], seconds[name], strict=True))
        for name in ("plain", "plain, written out")
    }
    worst = max(ratios.values())
    return {"ratios": ratios, "apart": apart, "limit": DECODER_LIMIT, "passed": worst <= DECODER_LIMIT}


def prediction_verdict(ours: list[float], theirs: list[float], full: bool) -> dict[str, Any]:
    """μ0's prediction over TraceGen's. `full`: TraceGen's was run as a whole, not extrapolated from one evaluation."""
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    return {
        "mu0_s": statistics.median(ours),
        "tracegen_s": statistics.median(theirs),
        "tracegen": f"all {NOISE_LEVELS} evaluations run" if full else f"encoders + {NOISE_LEVELS} × one evaluation",
        "ratio": ratio,
        "limit": PREDICTION_LIMIT,
        "passed": ratio <= PREDICTION_LIMIT,
    }


def show(report: dict[str, Any]) -> None:
    """The report as tables."""
    console = Console(width=130)
    console.print(
        f"TraceGen {report['size']}, {report['device']}, {report['threads']} threads, {report['precision']}; parameters (M): "
        + ", ".join(f"{name} {count / 1e6:.1f}" for name, count in report["parameters"].items())
    )
    console.print(", ".join(f"{name} {value:.3f} s" for name, value in report["medians_s"].items()))
    table = Table("comparison", "ratio", "limit", "", "note")
    decoder = report["decoder"]
    note = f"results {decoder['apart']:.1e} of their spread apart"
    for name, ratio in decoder["ratios"].items():
        table.add_row(f"decoder: ours / {name}", f"{ratio:.3f}", f"{decoder['limit']}", _word(ratio, decoder), note)
    for name, found in report["predictions"].items():
        note = f"{found['mu0_s']:.2f} s against {found['tracegen_s']:.2f} s ({found['tracegen']})"
        table.add_row(
            f"mu0:{name} / TraceGen", f"{found['ratio']:.4f}", f"{found['limit']}", _word(found["ratio"], found), note
        )
    console.print(table)


def _word(ratio: float, verdict: dict[str, Any]) -> str:
    return "pass" if ratio <= verdict["limit"] else "FAIL"


def main(options: Options) -> dict[str, Any]:
    """Measure, print, and return what was printed."""
    if options.threads:
        torch.set_num_threads(options.threads)
    config = dataclasses.replace(reference_config(options.size), guidance=1.0)
    mu0 = {name: config_of(name) for name in options.mu0}
    report = {
        "size": options.size,
        "device": options.device,
        "threads": torch.get_num_threads(),
        "precision": options.precision,
        "parameters": {
            name: count_parameters(kind, c)["total"]
            for name, (kind, c) in {"tracegen": ("tracegen", config), **{n: ("mu0", c) for n, c in mu0.items()}}.items()
        },
        **compare(config, mu0, options, padded_words),
    }
    if options.json:
        print(json.dumps(report))
    else:
        show(report)
    return report


if __name__ == "__main__":
    main(tyro.cli(Options))
