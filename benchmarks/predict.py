"""How long one prediction takes, and what several samples add: `python benchmarks/predict.py --size nano`.

Prints parameters, the stages of one prediction, and the ratio of S samples to one, all measured in one process on random
weights (time does not depend on what the weights are). Samples share the prefix, so the ratio shows what sharing saves.
N defaults to 16 keypoints, as in the paper's protocol (App. D.1). The text is not tokenised by a hub tokenizer: for the full
sizes a stand-in gives token ids, so that nothing has to be downloaded.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Sequence

import numpy as np
import torch
import tyro

from traceworld.models.mu0.counting import count_parameters
from traceworld.models.mu0.model import Mu0Model
from traceworld.models.mu0.predictor import Mu0Predictor
from traceworld.models.mu0.prefix_smolvlm import SmolVLMPrefix
from traceworld.models.mu0.sizes import mu0_config
from traceworld.traces.types import Observation, TracePrediction


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        size: nano, small, base or large (large needs about 11 GB in float32).
        samples: the S that is compared with S = 1.
        keypoints: numbers of keypoints to measure.
        repeats: predictions of each kind; the median counts.
        depth, history: give them.
        threads: torch threads; 0 leaves torch's choice.
        device: cpu or cuda.
        json: print one JSON object instead of a table.
    """

    size: str = "nano"
    samples: int = 5
    keypoints: tuple[int, ...] = (16, 64)
    repeats: int = 15
    depth: bool = True
    history: bool = True
    threads: int = 0
    device: str = "cpu"
    json: bool = False


def observation(options: Options, keypoints: int) -> Observation:
    """A 640×480 picture of noise with everything a predictor may be given."""
    rng = np.random.default_rng(0)
    return Observation(
        image=rng.integers(0, 256, (480, 640, 3), dtype=np.uint8),
        instruction="open the top drawer of the cabinet",
        depth_m=rng.uniform(0.5, 2, (480, 640)).astype(np.float32) if options.depth else None,
        keypoints_uv=rng.uniform(-0.9, 0.9, (keypoints, 2)),
        history_uvz=rng.uniform(-0.5, 0.9, (keypoints, 8, 3)) if options.history else None,
    )


def measure(predictor: Mu0Predictor, asked: Observation, options: Options) -> dict[str, float]:
    """Milliseconds of S = 1 and S = samples, taken in turns so that a busy machine disturbs both alike."""
    device = options.device

    def timed(samples: int) -> tuple[float, TracePrediction]:
        start = time.perf_counter()
        prediction = predictor.predict(asked, samples)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter() - start, prediction

    for samples in (1, options.samples):
        timed(samples)
    one, many, stages = [], [], []
    for _ in range(options.repeats):
        seconds, prediction = timed(1)
        one.append(seconds)
        stages.append(prediction.timing)
        many.append(timed(options.samples)[0])
    result = {f"{name}_ms": 1e3 * statistics.median(s[name] for s in stages) for name in stages[0]}
    result["one_sample_ms"] = 1e3 * statistics.median(one)
    result["all_samples_ms"] = 1e3 * statistics.median(many)
    result["ratio"] = result["all_samples_ms"] / result["one_sample_ms"]
    return result


def stand_in_tokenizer(prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Twelve token ids for each prompt."""
    ids = torch.arange(1, 13).expand(len(prompts), -1)
    return ids, torch.ones_like(ids, dtype=torch.bool)


def main(options: Options) -> dict[str, object]:
    """Measure, print, and return what was printed."""
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = Mu0Model(mu0_config(options.size)).to(options.device)
    if isinstance(model.prefix, SmolVLMPrefix):
        model.prefix.tokenizer = stand_in_tokenizer
    predictor = Mu0Predictor(model, name=f"mu0:{options.size}")
    counts = count_parameters(options.size)
    rows = {n: measure(predictor, observation(options, n), options) for n in options.keypoints}
    result = {
        "size": options.size,
        "device": options.device,
        "threads": torch.get_num_threads(),
        "parameters": counts,
        "samples": options.samples,
        "keypoints": rows,
    }
    if options.json:
        print(json.dumps(result))
        return result
    print(f"mu0:{options.size} on {options.device}, {result['threads']} threads")
    print("parameters (M): " + ", ".join(f"{name} {count / 1e6:.2f}" for name, count in counts.items()))
    for n, row in rows.items():
        stages = ", ".join(f"{s} {row[f'{s}_ms']:.1f}" for s in ("prepare", "prefix", "denoise", "decode"))
        print(
            f"N={n}: S=1 {row['one_sample_ms']:.1f} ms ({stages}), S={options.samples} {row['all_samples_ms']:.1f} ms, "
            f"ratio {row['ratio']:.2f}"
        )
    return result


if __name__ == "__main__":
    main(tyro.cli(Options))
