"""The released behaviour and its checkpoints, against plain computations from the dossier (§2.2–2.5, 2.10)."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from tracegen_toys import HUB, REFERENCE, build, make_batch, reference_shapes, reference_state, words

from traceworld.errors import CheckpointError, ConfigError
from traceworld.models import load_predictor
from traceworld.models.tracegen import compat
from traceworld.models.tracegen.compat import convert_reference, read_reference, reference_config, reference_names
from traceworld.models.tracegen.model import TraceGenModel
from traceworld.traces.types import Observation


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def state():
    return reference_state(REFERENCE)


@pytest.fixture(scope="module")
def model(state):
    model = convert_reference(state, REFERENCE)
    model.condition.tokenizer = words
    return model


def plain_velocity(state, config, noisy, level, condition):
    """The released decoder, spelled out over its own names. noisy: [B,32,20,20,3] increments, level: integer 0 … 99."""
    p = {n.removeprefix("diffusion_decoder.cogvideox."): v for n, v in state.items() if "cogvideox" in n}
    d = config.decoder
    B, T, G, _, _ = noisy.shape

    def linear(name, x):
        return F.linear(x, p[f"{name}.weight"], p.get(f"{name}.bias"))

    def norm(name, x, eps=1e-5):
        return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], eps)

    # [B, coordinate, T, G, G] → two steps folded into channels: channel = 2 · coordinate + parity
    video = (
        noisy.permute(0, 4, 1, 2, 3)
        .reshape(B, 3, T // 2, 2, G, G)
        .permute(0, 2, 1, 3, 4, 5)
        .reshape(B, T // 2, 6, G, G)
    )
    patches = torch.stack(
        [
            video[:, t, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].reshape(B, -1)
            for t in range(T // 2)
            for y in range(G // 2)
            for x in range(G // 2)
        ],
        dim=1,
    )

    def code(position, size):
        angle = position * 10_000 ** (-np.arange(size // 2) / (size // 2))
        return np.concatenate([np.sin(angle), np.cos(angle)])

    width = d.width
    place = [
        np.concatenate([code(t, width // 4), code(x / 1.875, 3 * width // 8), code(y / 1.875, 3 * width // 8)])
        for t in range(T // 2)
        for y in range(G // 2)
        for x in range(G // 2)
    ]
    trace = linear("patch_embed.proj", patches) + torch.tensor(np.array(place), dtype=torch.float32)
    text = linear("patch_embed.text_proj", condition)
    freq = torch.exp(-math.log(10_000) * torch.arange(width // 2) / (width // 2))
    angle = level[:, None] * freq
    temb = linear(
        "time_embedding.linear_2", F.silu(linear("time_embedding.linear_1", torch.cat([angle.cos(), angle.sin()], -1)))
    )
    temb = F.silu(temb)
    for i in range(d.layers):
        b = f"transformer_blocks.{i}."

        def modulated(name, text, trace, b=b):
            s, c, g, es, ec, eg = linear(f"{b}{name}.linear", temb)[:, None].chunk(6, -1)
            return norm(f"{b}{name}.norm", text) * (1 + ec) + es, norm(f"{b}{name}.norm", trace) * (1 + c) + s, eg, g

        nt, nx, eg, g = modulated("norm1", text, trace)
        both = torch.cat([nt, nx], 1)
        q, k, v = (linear(f"{b}attn1.to_{n}", both).reshape(B, -1, d.heads, d.head_dim).transpose(1, 2) for n in "qkv")
        q, k = norm(f"{b}attn1.norm_q", q, 1e-6), norm(f"{b}attn1.norm_k", k, 1e-6)
        found = ((q @ k.mT) / math.sqrt(d.head_dim)).softmax(-1) @ v
        found = linear(f"{b}attn1.to_out.0", found.transpose(1, 2).flatten(2))
        L = text.shape[1]
        text, trace = text + eg * found[:, :L], trace + g * found[:, L:]
        nt, nx, eg, g = modulated("norm2", text, trace)
        out = linear(f"{b}ff.net.2", F.gelu(linear(f"{b}ff.net.0.proj", torch.cat([nt, nx], 1)), approximate="tanh"))
        text, trace = text + eg * out[:, :L], trace + g * out[:, L:]
    shift, scale = linear("norm_out.linear", temb)[:, None].chunk(2, -1)
    out = linear("proj_out", norm("norm_out.norm", norm("norm_final", trace)) * (1 + scale) + shift)
    out = out.reshape(B, T // 2, G // 2, G // 2, 3, 2, 2, 2)  # t, y, x, coordinate, parity, row, column
    result = torch.empty_like(noisy)
    for parity in range(2):
        for row in range(2):
            for column in range(2):
                result[:, parity::2, row::2, column::2] = out[..., parity, row, column]
    return result


@torch.no_grad()
def test_a_converted_decoder_computes_what_the_released_one_does(model, state):
    g = generator(1)
    noisy = torch.randn(2, 8, 6, 6, 3, generator=g)
    condition, level = torch.randn(2, 9, 16, generator=g), torch.tensor([3, 71])
    theirs = plain_velocity(state, REFERENCE, noisy, level, condition)
    ours = model.decoder(noisy, level.float(), condition, None, torch.zeros(2, dtype=torch.long))
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-3)
    assert theirs.std() > 0.1


@torch.no_grad()
def test_a_converted_condition_is_fused_as_described(model, state):
    """DINO, SigLIP, depth in this order; depth unnormalised through the 1 × 1 stem; the mask token where there is none."""
    batch = make_batch(REFERENCE, B=2)
    batch["image"] = torch.randint(0, 256, (2, 16, 16, 3), generator=generator(), dtype=torch.uint8)
    batch["depth_m"] = torch.rand(2, 16, 16, generator=generator()) + 0.5
    condition = model.encode(batch)
    assert condition.tokens.shape == (2, 4 + 5, 16)
    rgb = batch["image"].permute(0, 3, 1, 2).float() / 255
    c = model.condition

    def norm(name, x):
        return F.layer_norm(
            x, x.shape[-1:], state[f"{name}.final_layernorm.weight"], state[f"{name}.final_layernorm.bias"]
        )

    mean, std = (torch.tensor(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    dino = norm("dino_encoder", c.dino((rgb - mean) / std).last_hidden_state[:, 3:])
    siglip = norm("siglip_encoder", c.siglip((rgb - 0.5) / 0.5).last_hidden_state)
    stem = F.conv2d(
        batch["depth_m"][:, None],
        state["depth_encoder.stem_adapter.weight"],
        state["depth_encoder.stem_adapter.bias"],
    )
    depth = norm("depth_encoder", c.depth_siglip(stem).last_hidden_state)
    depth[1] = state["learnable_depth_mask_token"][0]
    fused = F.linear(torch.cat([dino, siglip, depth], -1), state["vision_fusion.weight"], state["vision_fusion.bias"])
    torch.testing.assert_close(condition.tokens[:, :4], fused, atol=1e-4, rtol=1e-3)
    ids, mask = words(batch["instruction"])
    text = norm("t5_encoder", c.t5(input_ids=ids, attention_mask=mask.long()).last_hidden_state)
    torch.testing.assert_close(condition.tokens[:, 4:], text, atol=1e-5, rtol=1e-4)


def test_every_name_of_the_published_checkpoint_is_mapped():
    """All names of the full 6 × 12 model: each has a place of the right shape, and no place is left."""
    config = reference_config("6x12")
    shapes = reference_shapes(config)
    tied = "t5_encoder.text_model.encoder.embed_tokens.weight"
    assert sum(math.prod(shape) for name, shape in shapes.items() if name != tied) == 674_546_334
    with torch.device("meta"):
        wanted = {name: tuple(t.shape) for name, t in TraceGenModel(config).state_dict().items()}
    found = {}
    for name, shape in shapes.items():
        names = reference_names(name)
        if len(names) == 3:
            shape = (shape[0] // 3, *shape[1:])
        for ours in names:
            assert ours not in found, name
            found[ours] = shape
    assert set(wanted) - set(found) == {"condition.dino.embeddings.mask_token"}
    assert {name: found[name] for name in found} == {name: wanted[name] for name in found}


def test_fused_query_key_value_is_split_in_this_order(model, state):
    fused = state["dino_encoder.vision_model.blocks.1.attn.qkv.weight"]
    attention = model.condition.dino.model.layer[1].attention
    for part, ours in zip(fused.chunk(3), (attention.q_proj, attention.k_proj, attention.v_proj), strict=True):
        assert torch.equal(ours.weight, part)
        assert ours.bias is None


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.", "module."])
def test_compiled_and_distributed_names(state, model, prefix):
    renamed = {prefix + name: tensor for name, tensor in state.items()}
    renamed |= {  # buffers that some versions write
        prefix + "dino_encoder.vision_model.rope.periods": torch.zeros(4),
        prefix + "siglip_encoder.vision_model.vision_model.embeddings.position_ids": torch.zeros(1, 4),
    }
    other = convert_reference(renamed, REFERENCE)
    assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), model.state_dict().values(), strict=True))
    inner = "diffusion_decoder.cogvideox._orig_mod.proj_out.bias"
    assert reference_names(inner) == ["decoder.velocity_proj.bias"]


def test_what_does_not_fit_is_listed(state):
    broken = dict(state)
    broken["dino_encoder.head.weight"] = broken.pop("vision_fusion.weight")
    broken["diffusion_decoder.cogvideox.ofs_embedding.linear_1.bias"] = torch.zeros(3)
    broken["diffusion_decoder.cogvideox.proj_out.bias"] = torch.zeros(7)
    with pytest.raises(CheckpointError) as caught:
        convert_reference(broken, REFERENCE)
    message = str(caught.value)
    assert "unknown dino_encoder.head.weight, diffusion_decoder.cogvideox.ofs_embedding.linear_1.bias" in message or (
        "unknown diffusion_decoder.cogvideox.ofs_embedding.linear_1.bias, dino_encoder.head.weight" in message
    )
    assert "missing condition.fuse.weight" in message
    assert "of another shape decoder.velocity_proj.bias (7,) instead of (24,)" in message


def test_another_size_is_refused(state):
    deeper = dataclasses.replace(REFERENCE, decoder=dataclasses.replace(REFERENCE.decoder, layers=3))
    with pytest.raises(CheckpointError, match=r"missing decoder.layers.2.*and \d+ more"):
        convert_reference(state, deeper)


@pytest.mark.parametrize("kind", ["pth", "bare", "safetensors"])
def test_reading_a_file(state, tmp_path, kind):
    path = tmp_path / ("m.safetensors" if kind == "safetensors" else "m.pth")
    if kind == "safetensors":
        save_file({name: tensor.clone() for name, tensor in state.items()}, path)
    else:
        torch.save({"epoch": 3, "model_state_dict": state, "train_metrics": [0.5]} if kind == "pth" else state, path)
    found = read_reference(path)
    assert set(found) == set(state)
    assert torch.equal(found["vision_fusion.weight"], state["vision_fusion.weight"])


class Payload:
    def __reduce__(self):
        return print, ("code from a file",)


def test_a_file_never_runs_code(state, tmp_path, capsys):
    torch.save({"model_state_dict": state, "config": Payload()}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        read_reference(tmp_path / "m.pth")
    assert "code from a file" not in capsys.readouterr().out


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        read_reference(tmp_path / "absent.pth")
    (tmp_path / "m.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        read_reference(tmp_path / "m.safetensors")


def test_a_converted_folder_predicts(state, tmp_path, monkeypatch):
    monkeypatch.setattr(compat, "reference_config", lambda size: dataclasses.replace(REFERENCE, euler_steps=2))
    save_file({name: tensor.clone() for name, tensor in state.items()}, tmp_path / "m.safetensors")
    predictor = load_predictor(compat.convert_tracegen(tmp_path / "m.safetensors", "6x12", tmp_path / "out"))
    predictor.model.condition.tokenizer = words
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    uv = np.array([[0.1, 0.2], [-0.4, 0.9]])
    asked = Observation(image, "push it", keypoints_uv=uv, clock="arc", step=0.05)
    a, b = (predictor.predict(asked, 2, seed=1) for _ in range(2))
    assert a.uvz.shape == (2, 2, 8, 3)
    assert a.uvz.tobytes() == b.uvz.tobytes()  # guidance noise too follows from the seed here


# --- behaviour -------------------------------------------------------------------------------------------------------


def test_the_grid_has_the_corners():
    """Pixel i of W is at uv (2 i + 1) / W − 1; the grid is linspace(0, W − 1, 20)."""
    config = reference_config("6x12")
    uv = compat.ReferenceConventions(config).grid().uv.reshape(20, 20, 2)
    expected = (2 * np.linspace(0, 383, 20) + 1) / 384 - 1
    np.testing.assert_allclose(uv[0, :, 0], expected, atol=1e-6)
    np.testing.assert_allclose(uv[:, 0, 1], expected, atol=1e-6)


def test_increments_are_scaled_and_cut_off():
    """0.05 of the picture and 0.04 m are 1 (§2.4); s_Δ plays no part."""
    conventions = compat.ReferenceConventions(REFERENCE)
    step = torch.tensor([[0.1, -0.05, 0.02], [0.5, -9.0, 0.08]])
    x = conventions.to_network(step, torch.full((1, 3), 7.0))
    torch.testing.assert_close(x, torch.tensor([[1.0, -0.5, 0.5], [1.0, -1.0, 1.0]]))
    torch.testing.assert_close(conventions.from_network(x[:1], torch.ones(1, 3)), step[:1])


def test_positions_are_cut_off_at_the_picture():
    half = 1 / 16
    path = torch.tensor([[[[-3.0, 2.0, 9.0], [0.5, -0.5, -1.0]]]])
    cut = compat.ReferenceConventions(REFERENCE).positions(path)
    torch.testing.assert_close(cut[0, 0], torch.tensor([[-1 + half, 1 + half, 9.0], [0.5, -0.5, -1.0]]))


def test_flow_times_are_the_hundred_levels_below_pure_noise():
    tau = compat.ReferenceConventions(REFERENCE).draw_tau(20_000, generator(), torch.device("cpu"))
    levels, counts = (tau * 100).round().unique(return_counts=True)
    assert levels.tolist() == list(range(100))
    assert counts.min() > 120
    torch.testing.assert_close(tau, (tau * 100).round() / 100)


def test_the_sampler_steps():
    conventions = compat.ReferenceConventions(REFERENCE)
    whole, half = conventions.schedule(100), conventions.schedule(50)
    assert [round(100 * tau) for tau, _ in whole] == list(range(99, -1, -1))
    assert sum(step for _, step in whole) == pytest.approx(1)
    assert [round(100 * tau) for tau, _ in half] == list(range(98, -1, -2))
    assert sum(step for _, step in half) == pytest.approx(0.5)  # the trap of weak point 30
    with pytest.raises(ConfigError, match="100 noise levels"):
        TraceGenModel(dataclasses.replace(REFERENCE, euler_steps=101))


@torch.no_grad()
@pytest.mark.parametrize(("steps", "left"), [(10, 0.9), (50, 0.5), (100, 0.0)])
def test_an_exact_field_keeps_its_noise_at_fewer_steps(steps, left, model, monkeypatch):
    """0.90 / 0.50 / 0.00 of the noise is left after 10 / 50 / 100 steps, as measured on the released code (§5.5)."""
    batch = make_batch(REFERENCE)
    noise = torch.randn(3, 1, 8, 6, 6, 3, generator=generator())
    monkeypatch.setattr(model, "config", dataclasses.replace(REFERENCE, euler_steps=steps, guidance=1.0))
    monkeypatch.setattr(model, "velocity", lambda *args: noise[:, 0])  # to data 0, from that noise
    out = model.sample(batch, 1, noise=noise)
    assert (out.std() / noise.std()).item() == pytest.approx(left, abs=1e-3)


def test_the_loss_counts_masked_entries_as_zero_error():
    conventions = compat.ReferenceConventions(REFERENCE)
    target, velocity = torch.randn(2, 8, 6, 6, 3, generator=generator()), torch.zeros(2, 8, 6, 6, 3)
    weight = (torch.rand(2, 8, 6, 6, generator=generator()) > 0.5).float() * 0.3
    mask = (weight > 0)[..., None]
    expected = F.mse_loss(velocity * mask, target * mask)
    assert conventions.mean_error(velocity, target, weight).item() == pytest.approx(expected.item(), rel=1e-6)
    assert conventions.mean_error(velocity, target, 0 * weight) == 0


@torch.no_grad()
def test_guidance_with_noise_and_all_tokens_seen(model, monkeypatch):
    tokens = torch.ones(1, 2000, 16)
    null = compat.ReferenceConventions(REFERENCE).unconditional(tokens, torch.zeros(1, 1, 16), generator())
    assert null.std().item() == pytest.approx(0.1, rel=0.03)
    batch, used = make_batch(REFERENCE), []
    monkeypatch.setattr(
        model.decoder, "forward", lambda noisy, time, tokens, mask, clock: used.append((time[0].item(), mask)) or noisy
    )
    monkeypatch.setattr(model, "config", dataclasses.replace(REFERENCE, euler_steps=4))
    model.sample(batch, 1, generator())
    assert len(used) == 8  # two evaluations per step
    assert [time for time, _ in used[::2]] == pytest.approx([75, 50, 25, 0])
    assert all(mask is None for _, mask in used)
    assert model._asked(batch).all()  # the whole grid, whatever is asked


def test_reference_config():
    config = reference_config("6x12")
    assert (config.euler_steps, config.guidance, config.condition_drop, config.clock) == (100, 2.0, 0.0, False)
    assert compat.ReferenceConventions(config).text_padding == "max_length"
    with pytest.raises(ConfigError, match="hub encoders"):
        reference_config("nano")


def test_the_default_path_knows_nothing_of_it():
    assert type(build(HUB).conventions).__name__ == "Conventions"
    assert type(TraceGenModel(REFERENCE).conventions) is compat.ReferenceConventions
