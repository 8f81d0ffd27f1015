"""Compile μ0's training step and denoising loop in a process of its own, and say as JSON what came of it.

Apart from the tests because those run under a type checker, whose wrappers no compiler can see through.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
WORDS = torch.tensor([[5, 6, 7], [8, 9, 1], [3, 2, 4]])


def nano() -> Any:
    """A tiny nano."""
    import ranks

    from traceworld.models.mu0.model import Mu0Model
    from traceworld.models.mu0.sizes import mu0_config

    ranks.register()
    return Mu0Model(mu0_config("tiny"))


def full() -> Any:
    """The classes of the full sizes, SmolVLM2 and DINOv2, with a handful of channels."""
    from traceworld.models.mu0.config import ExpertConfig, LocalFeatureConfig, SmolVLMPrefixConfig
    from traceworld.models.mu0.model import Mu0Model
    from traceworld.models.mu0.sizes import mu0_config

    prefix = SmolVLMPrefixConfig(
        layers=2, image_size=32, vision_width=16, vision_layers=1, vision_heads=2, vision_mlp=24, vision_patch=8,
        vision_image_size=32, connector_shuffle=2, text_width=32, text_heads=4, text_kv_heads=2, text_mlp=48, vocab=64,
    )  # fmt: skip
    local = LocalFeatureConfig(image_size=28, patch=14, width=16, layers=1, heads=2)
    config = replace(mu0_config("small"), prefix=prefix, local=local, expert=ExpertConfig(width=16, mlp_hidden=24))
    model = Mu0Model(replace(config, size="custom"))
    model.prefix.tokenizer = lambda prompts: (WORDS[: len(prompts)], torch.ones(len(prompts), 3, dtype=torch.bool))
    return model


def made(build: Callable[[], Any], scales: Any) -> Any:
    torch.manual_seed(0)
    model = build()
    model.set_normalisation(scales)
    for parameter in model.parameters():  # zero-initialised heads would hide differences
        if parameter.requires_grad and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def read_batches(store: str) -> tuple[list[dict], Any]:
    """Four batches of three windows that differ in keypoints and in how many have depth, and their corpus' scales."""
    from traceworld.training import TrainConfig
    from traceworld.training.data import DrawOrder, TrainingWindows, training_batches
    from traceworld.training.sources import open_training_data

    config = TrainConfig(data=(store,), out="", batch=3, keypoints=(2, 12), val_fraction=0.0, arc_weight=0.3)
    data = open_training_data(config, (32, 24))
    windows = TrainingWindows(data.train, DrawOrder([len(s) for s in data.train], data.weights, 0), 0, 0.3, 0.01)
    found = list(training_batches(windows, start=0, count=4, batch=3, workers=0))
    assert len({batch["present"].shape[1] for batch in found}) > 1
    assert len({int(batch["depth_present"].sum()) for batch in found}) > 1
    return found, data.normalisation


def step_difference(model: Any, batches: list[dict]) -> dict[str, float]:
    """Largest difference of terms and of gradients, compiled against as it is; any graph break is an error."""
    from traceworld.training.registry import model_kind
    from traceworld.training.sharding import LossModule

    compiled, prepare = LossModule(model, compiled=True), model_kind("mu0").prepare
    terms, gradients = 0.0, 0.0
    for batch in batches:
        found = []
        for loss in (lambda b: model.loss(b, None), lambda b: compiled(b, torch.Generator(), None)[1]):
            torch.manual_seed(3)
            model.zero_grad()
            parts = loss(prepare(model, batch))
            parts["loss"].backward()
            found.append((parts, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
        (ours, ours_grad), (theirs, theirs_grad) = found
        assert ours_grad.keys() == theirs_grad.keys()
        terms = max(terms, *(abs(float(ours[n].detach()) - float(theirs[n].detach())) for n in ours))
        gradients = max(gradients, *(float((ours_grad[n] - theirs_grad[n]).abs().max()) for n in ours_grad))
    return {"terms": terms, "gradients": gradients}


def loop_difference(model: Any, batch: dict) -> dict[str, float]:
    """Graphs and breaks of the denoising loop, and how far its compiled result is off."""
    noise = torch.randn(3, 2, batch["present"].shape[1], 10, 3)
    with torch.no_grad():
        context = model.context(batch, model.encode(batch))
        seen = torch._dynamo.explain(model.sample_from)(context, 2, None, noise)
        torch._dynamo.reset()
        compiled = torch.compile(model.sample_from, fullgraph=True)(context, 2, None, noise)
        pairs = zip(model.sample_from(context, 2, None, noise), compiled, strict=True)
        off = max(float((ours - theirs).abs().max()) for ours, theirs in pairs)
    return {"graphs": seen.graph_count, "breaks": seen.graph_break_count, "off": off}


class Line(torch.nn.Module):
    """A model that compiles at once, with noise of its own."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(8, 3))

    def loss(self, batch, generator):
        given = {} if generator is None else {"generator": generator}
        shade = batch["image"].float().mean((1, 2, 3)) / 255 + torch.randn((len(batch["image"]),), **given)
        return {"loss": (shade * self.weight.sum() - 1).square().mean()}


def compiled_runs(out: Path) -> list[list[float]]:
    """Loss curves of a compiled run, straight and cut in two."""
    import toy

    from traceworld.training import TrainConfig, train
    from traceworld.training.registry import register_model

    register_model("line", lambda: replace(toy.toy_kind(), build=lambda config: Line()))
    base = TrainConfig(
        data=("toy",), out="", model="line", steps=4, batch=3, workers=0, checkpoint_every=2, eval_every=4, log_every=1,
        grad_accumulation=2, lr=1e-2, threads=1, compile=True,
    )  # fmt: skip
    curves = []
    for name, stops in (("once", (4,)), ("twice", (2, 4))):
        for steps in stops:
            torch._dynamo.reset()
            train(replace(base, out=str(out / name), steps=steps), toy.toy_data())
        entries = [json.loads(line) for line in (out / name / "log.jsonl").open()]
        curves.append([entry["loss"] for entry in entries if entry["kind"] == "step"])
    return curves


def main(store: str, out: str) -> dict[str, Any]:
    torch.compile = functools.partial(
        torch.compile, backend="eager"
    )  # the graph is what is tested, not the code made of it
    batches, scales = read_batches(store)
    result: dict[str, Any] = {}
    for build in (nano, full):
        model = made(build, scales)
        torch._dynamo.reset()
        result[build.__name__] = {"loop": loop_difference(model, batches[0])}
        torch._dynamo.reset()
        whole = torch.compile
        torch.compile = functools.partial(whole, fullgraph=True)
        result[build.__name__]["step"] = step_difference(model, batches)
        torch.compile = whole
    result["curves"] = compiled_runs(Path(out))
    return result


if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(HERE.parent / "traces")]
    sys.stdout.write(json.dumps(main(*sys.argv[1:])))
