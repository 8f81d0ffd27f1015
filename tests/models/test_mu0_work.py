"""What is computed how often: absent depth not at all, the prefix once for all samples, the cross layers' keys once."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from traceworld.models.mu0.model import Mu0Model
from traceworld.models.mu0.sizes import mu0_config


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def flops(function, *args):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function(*args)
    return counter.get_total_flops()


def rows_through(module, run):
    """How many rows (of the first axis) go through a module in total."""
    seen = []
    handle = module.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    run()
    handle.remove()
    return seen


def test_absent_depth_is_not_encoded(smolvlm_config, build, make_batch):
    model, batch = build(smolvlm_config), make_batch(smolvlm_config)
    tower = model.prefix.vlm.model.vision_model.post_layernorm
    for present, expected in (([0, 0, 0], [3]), ([0, 1, 0], [3, 1]), ([1, 1, 1], [3, 3])):
        batch["depth_present"] = torch.tensor(present).bool()
        with torch.no_grad():
            assert rows_through(tower, lambda: model.encode(batch)) == expected
    picture = torch.rand(3, 3, 32, 32)
    siglip = flops(model.prefix._see, picture, None)
    without = flops(model.encode, batch | {"depth_present": torch.zeros(3).bool()})
    assert flops(model.encode, batch) > without + siglip  # the tower, and the rows of the language model


@pytest.mark.parametrize("depth", [False, True])
def test_samples_add_only_their_own_denoising(smolvlm_config, build, make_batch, depth):
    """FLOPs of S samples = those of the prefix and context + S · those of one denoising, to the last one."""
    model, batch = build(smolvlm_config), make_batch(smolvlm_config)
    batch["depth_present"] = torch.full((3,), depth)
    once = flops(lambda: model.context(batch, model.encode(batch)))
    one, five = (flops(model.sample, batch, count, generator()) for count in (1, 5))
    assert five - once == 5 * (one - once) > 0


def test_cross_layers_project_the_prefix_once(smolvlm_config, build, make_batch):
    model, batch = build(smolvlm_config), make_batch(smolvlm_config)
    joint, cross = model.expert.layers[0], model.expert.layers[1]
    for projection in (cross.k_proj, cross.v_proj):
        assert len(rows_through(projection, lambda: model.sample(batch, 5, generator()))) == 1
    steps = smolvlm_config.euler_steps
    assert (
        len(rows_through(joint.k_proj, lambda: model.sample(batch, 5, generator()))) == 2 * steps
    )  # own tokens: two streams


def test_the_headline_prediction_at_released_size():
    """Dossier §4.8, N=16, S=5, no depth, no history: about 2.5 TFLOP where the release takes 20.5. Counted, not estimated."""
    config = dataclasses.replace(mu0_config("large-official"), use_depth=False)
    with torch.device("meta"):
        model = Mu0Model(config).eval()
        N = 16
        batch = {
            "image": torch.zeros(1, 512, 512, 3, dtype=torch.uint8),
            "depth_present": torch.zeros(1, dtype=torch.bool),
            "instruction": ["open the drawer"],
            "anchor_uvz": torch.zeros(1, N, 3),
            "anchor_z_known": torch.zeros(1, N, dtype=torch.bool),
            "history": torch.zeros(1, N, 8, 3),
            "history_valid": torch.zeros(1, N, 8, dtype=torch.bool),
            "present": torch.ones(1, N, dtype=torch.bool),
            "clock": torch.ones(1, dtype=torch.long),
        }
        ids = torch.zeros(1, 48, dtype=torch.long)
        model.prefix.tokenizer = lambda prompts: (ids, torch.ones_like(ids, dtype=torch.bool))
    one, five = (flops(model.sample, batch, count) for count in (1, 5))
    assert 2.0e12 < one < 2.4e12
    assert 2.2e12 < five < 2.8e12
    assert 20.5e12 / five > 7
