"""The released order of work gives our numbers, at a multiple of our work."""

import dataclasses

import pytest
import torch
from large_run import tiny, words
from mu0_wasteful import wasteful_sample
from predict import released_words
from roofline import count_work
from subjects import config_of, meta_batch, observation, predictor

from traceworld.models.mu0.model import Mu0Model
from traceworld.models.mu0.official.switches import official_config
from traceworld.models.mu0.sizes import mu0_config

pytest.importorskip("transformers")


def model_of(config, seed=0):
    """Random weights, those that start at zero included."""
    torch.manual_seed(seed)
    model = Mu0Model(config)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    model.prefix.tokenizer = words
    return model.eval()


def batch_of(B=2, N=5, depth=(True, False)):
    g = torch.Generator().manual_seed(0)
    valid = torch.rand(B, N, 8, generator=g) > 0.3
    valid[:, 0] = False
    present = torch.ones(B, N, dtype=torch.bool)
    present[0, -1] = False
    return {
        "image": torch.randint(0, 256, (B, 32, 32, 3), dtype=torch.uint8, generator=g),
        "depth_m": torch.rand(B, 32, 32, generator=g) + 0.5,
        "depth_present": torch.tensor(depth),
        "instruction": ["open drawer"] * B,
        "anchor_uvz": torch.rand(B, N, 3, generator=g) * 1.8 - 0.9,
        "anchor_z_known": torch.rand(B, N, generator=g) > 0.5,
        "history": torch.randn(B, N, 8, 3, generator=g) * 0.2 * valid[..., None],
        "history_valid": valid,
        "present": present,
        "clock": torch.arange(B) % 2,
    }


CONFIGS = {
    "ours": tiny(),
    "official": official_config(dataclasses.replace(tiny(), size="tiny")),
    "no history": dataclasses.replace(tiny(), use_history=False),
    "grouped queries": dataclasses.replace(
        tiny(), expert=dataclasses.replace(tiny().expert, history_group=4, control_group=5)
    ),
}


@pytest.mark.parametrize("depth", [(True, False), (False, False)])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_prediction(name, depth):
    model, batch = model_of(CONFIGS[name]), batch_of(depth=depth)
    noise = torch.randn(2, 3, 5, 10, 3, generator=torch.Generator().manual_seed(1))
    ours, logits = model.sample(batch, 3, noise=noise)
    theirs, their_logits = wasteful_sample(model, batch, noise)
    there = batch["present"]
    for a, b in ((ours, theirs), (logits, their_logits)):
        a, b = (x.movedim(2, 1)[there] for x in (a, b))
        torch.testing.assert_close(a, b, atol=3e-5, rtol=1e-4)
        assert a.std() > 0.1


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="full sizes"):
        wasteful_sample(Mu0Model(mu0_config("nano")), {}, torch.zeros(1, 1, 1, 10, 3))


@pytest.mark.slow
def test_the_headline_protocol_at_released_size():
    """Dossier §4.8, N=16, neither depth nor history: 4.1 and 20.5 TFLOP against 2.2 and 2.5. Counted on the meta device."""
    subject = predictor(config_of("large-official"), "meta", read=released_words)
    batch = meta_batch(subject, observation(16, depth=False, history=False))
    for samples, theirs, ours in ((1, 4.1e12, 2.2e12), (5, 20.5e12, 2.5e12)):
        noise = torch.empty(1, samples, 16, 10, 3, device="meta")
        wasted, _ = count_work(wasteful_sample, subject.model, batch, noise)
        needed, _ = count_work(lambda s=samples, n=noise: subject.model.sample(batch, s, noise=n))
        assert wasted.flops == pytest.approx(theirs, rel=0.05)
        assert needed.flops == pytest.approx(ours, rel=0.08)
