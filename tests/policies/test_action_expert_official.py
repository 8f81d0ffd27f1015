"""The released policy's checkpoint: its exact names and shapes fit, and a small one gives what its own formulas give."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from policy_toys import SMOLVLM_MU0, make_mu0, observation, picture
from torch import nn

from traceworld.errors import CheckpointError, ConfigError
from traceworld.models.checkpoint import save_checkpoint
from traceworld.models.mu0.official.switches import official_config as official_mu0
from traceworld.models.mu0.sizes import mu0_config
from traceworld.policies.action_expert import sizes
from traceworld.policies.action_expert.checkpoint import load_policy_checkpoint
from traceworld.policies.action_expert.model import trained_parts
from traceworld.policies.action_expert.official.convert import (
    ROBOCASA_SPEC,
    config_of,
    convert_policy,
    converted,
)
from traceworld.policies.action_expert.policy import ActionExpertPolicy
from traceworld.policies.action_expert.trace_features import FrozenMu0, feature_widths

MU0 = official_mu0(
    dataclasses.replace(
        SMOLVLM_MU0, num_controls=4, expert=dataclasses.replace(SMOLVLM_MU0.expert, control_group=4, anchor_z=False)
    )
)


def released_shapes(C=2048, E=1024, W=1024, depth=18, heads=8, head_dim=256, mlp=4096, P=16, dino=768, side=8):
    """Names and shapes of the released state dict (dossier §5.2), the frozen part aside."""
    shapes = {"gated_mixer.gate": (), "gripper_spatial_pos_embed": (side * side, C)}
    for norm in ("norm_q", "norm_kv"):
        shapes |= {f"gated_mixer.{norm}.weight": (C,), f"gated_mixer.{norm}.bias": (C,)}
    linear = {"gated_mixer.w_proj": (C, E), "gated_mixer.ca.out_proj": (C, C), "gripper_proj": (C, dino)}
    decoder = "action_decoder."
    for stem in ("z", "lang", "visual"):
        shapes |= {f"{decoder}{stem}_norm.weight": (C,), f"{decoder}{stem}_norm.bias": (C,)}
        linear[f"{decoder}{stem}_proj"] = (W, C)
    linear |= {
        f"{decoder}state_proj": (W, P),
        f"{decoder}action_in_proj": (W, 32),
        f"{decoder}action_out_proj": (32, W),
    }
    linear |= {f"{decoder}time_mlp_{side}": (W, W) for side in ("in", "out")}
    gemma = f"{decoder}gemma_expert.model."
    for i in range(depth):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            linear[f"{gemma}layers.{i}.{norm}.dense"] = (3 * W, W)
        bare = {
            "self_attn.q_proj": (heads * head_dim, W),
            "self_attn.k_proj": (head_dim, W),
            "self_attn.v_proj": (head_dim, W),
            "self_attn.o_proj": (W, heads * head_dim),
            "mlp.gate_proj": (mlp, W),
            "mlp.up_proj": (mlp, W),
            "mlp.down_proj": (W, mlp),
        }
        shapes |= {f"{gemma}layers.{i}.{name}.weight": shape for name, shape in bare.items()}
    linear[f"{gemma}norm.dense"] = (3 * W, W)
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    shapes |= {"gated_mixer.ca.in_proj_weight": (3 * C, C), "gated_mixer.ca.in_proj_bias": (3 * C,)}
    return shapes


SMALL = {"C": 32, "E": 16, "W": 24, "depth": 2, "heads": 3, "head_dim": 8, "mlp": 40, "dino": 12, "side": 2}


def small_state(seed=0, **changed):
    g = torch.Generator().manual_seed(seed)
    shapes = released_shapes(**{**SMALL, **changed})
    return {name: torch.randn(shape, generator=g) * 0.2 for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def mu0_folder(tmp_path_factory):
    mu0 = make_mu0(MU0)
    return save_checkpoint(tmp_path_factory.mktemp("mu0") / "m", mu0, mu0.normalisation, keep_backbones=True)


def write(path, state, **more):
    torch.save({"step": 60_000, "model_state_dict": state, "optimizer_state_dict": {}, **more}, path)
    return path


def test_every_released_tensor_has_a_place_of_its_shape():
    state = {name: torch.empty(shape, device="meta") for name, shape in released_shapes().items()}
    ours = {name: tuple(t.shape) for name, t in converted(state, 12).items()}
    config = config_of(state, 12, 16, True)
    assert config == sizes.policy_config("400m-official", 16, 12)
    with torch.device("meta"):
        stems, head = trained_parts(config, feature_widths(mu0_config("large-official"), config))
    wanted = {f"conditioning.{n}": tuple(t.shape) for n, t in stems.state_dict().items()}
    wanted |= {f"head.{n}": tuple(t.shape) for n, t in head.state_dict().items()}
    assert ours == wanted
    assert sum(math.prod(shape) for name, shape in released_shapes().items() if "gemma" in name) == pytest.approx(
        427.9e6, rel=1e-3
    )


def test_a_small_one_converts_and_gives_what_the_released_formulas_give(mu0_folder, tmp_path):
    state = small_state()
    report = convert_policy(
        write(tmp_path / "checkpoint.pt", state | {"dino.layer.weight": torch.zeros(3)}), mu0_folder, tmp_path / "p"
    )
    assert report.step == 60_000
    assert report.left_out == ("dino.layer.weight",)
    mu0 = make_mu0(MU0)
    model = load_policy_checkpoint(tmp_path / "p", mu0=mu0).model
    looks = [model.frozen.glance(picture(i), "push it", picture(i + 5, 40, 40)) for i in range(2)]
    features = model.features(looks)
    g = torch.Generator().manual_seed(1)
    robot, noisy, tau = torch.randn(2, 16, generator=g), torch.randn(2, 16, 12, generator=g), torch.tensor([0.3, 0.9])
    found = model.head.velocity(noisy[:, None], tau[:, None], model.tokens(features, robot))[:, 0]
    assert torch.allclose(found, released_velocity(state, features, robot, noisy, tau), atol=2e-4)


def released_velocity(state, features, robot, noisy, tau):
    """The released forward pass written from the dossier (§5.1), on the released tensors."""

    def linear(name, x):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name, x):
        return nn.functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    def stem(name, x):
        return linear(f"action_decoder.{name}_proj", norm(f"action_decoder.{name}_norm", x))

    attention = nn.MultiheadAttention(32, 16, batch_first=True)
    attention.load_state_dict({k.removeprefix("gated_mixer.ca."): v for k, v in state.items() if ".ca." in k})
    z = features["z"]
    motion = norm("gated_mixer.norm_kv", linear("gated_mixer.w_proj", features["trace"]))
    z = z + state["gated_mixer.gate"].sigmoid() * attention(norm("gated_mixer.norm_q", z), motion, motion)[0]
    gripper = linear("gripper_proj", features["gripper"]) + state["gripper_spatial_pos_embed"]
    padded = nn.functional.pad(noisy, (0, 20))
    tokens = [stem("z", z), stem("lang", features["words"]), stem("visual", gripper)]
    tokens += [linear("action_decoder.state_proj", robot)[:, None], linear("action_decoder.action_in_proj", padded)]
    x = torch.cat(tokens, dim=1)
    B, M, K = len(x), x.shape[1], noisy.shape[1]
    there = torch.ones(B, M, dtype=torch.bool)
    L = features["z"].shape[1]
    there[:, :L] = features["z_seen"]
    there[:, L : L + features["words"].shape[1]] = features["words_seen"]
    action = torch.arange(M) >= M - K
    mask = there[:, None] & (action[:, None] | ~action[None])
    angle = (there.cumsum(1) - 1)[..., None] * 10_000.0 ** -(torch.arange(0, 8, 2) / 8)
    cos, sin = (torch.cat([f(angle)] * 2, -1)[:, None] for f in (torch.cos, torch.sin))
    period = 4e-3 * (4.0 / 4e-3) ** torch.linspace(0, 1, 12, dtype=torch.float64)
    wave = 2 * torch.pi * tau[:, None].double() / period
    time = torch.cat([wave.sin(), wave.cos()], -1).float()
    silu = nn.functional.silu
    condition = silu(linear("action_decoder.time_mlp_out", silu(linear("action_decoder.time_mlp_in", time))))
    gemma = "action_decoder.gemma_expert.model."

    def modulated(name, v):
        scale, shift, gate = linear(f"{gemma}{name}.dense", condition)[:, None].chunk(3, -1)
        return v * torch.rsqrt(v.square().mean(-1, keepdim=True) + 1e-6) * (1 + scale) + shift, gate

    def turn(v):
        return v * cos + torch.cat([-v[..., 4:], v[..., :4]], -1) * sin

    for i in range(2):
        weight = {n: state[f"{gemma}layers.{i}.{n}.weight"] for n in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                  "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")}  # fmt: skip
        v, gate = modulated(f"layers.{i}.input_layernorm", x)
        q = turn((v @ weight["self_attn.q_proj"].T).view(B, M, 3, 8).transpose(1, 2))
        k = turn((v @ weight["self_attn.k_proj"].T)[:, None])
        scores = (q @ k.mT / 8**0.5).masked_fill(~mask[:, None], -1e30).softmax(-1)
        found = (scores @ (v @ weight["self_attn.v_proj"].T)[:, None]).transpose(1, 2).flatten(2)
        x = x + found @ weight["self_attn.o_proj"].T * gate
        v, gate = modulated(f"layers.{i}.post_attention_layernorm", x)
        up = nn.functional.gelu(v @ weight["mlp.gate_proj"].T, approximate="tanh") * (v @ weight["mlp.up_proj"].T)
        x = x + up @ weight["mlp.down_proj"].T * gate
    return linear("action_decoder.action_out_proj", modulated("norm", x)[0][:, -K:])[..., :12]


def test_how_the_released_policy_looks():
    config = sizes.policy_config("400m-official", 16, 12)
    frozen = FrozenMu0(make_mu0(MU0), config)
    look = frozen.glance(picture(0), "go", picture(1, 40, 40))
    assert look["query_uv"].shape == (400, 2)
    found = frozen([look])
    assert found["trace"].shape == (1, 100, 16)
    # 20×20 points averaged over 2×2 neighbours, of the hidden states before the final norm
    batch = frozen._batch([look])
    noise = torch.from_numpy(look["noise"])[None]
    with torch.no_grad():
        prefix = frozen.mu0.encode(batch)
        seen = []
        frozen.mu0.expert.norm.register_forward_pre_hook(lambda _, a: seen.append(a[0]))
        frozen.mu0.denoise_features(noise[:, None], torch.ones(1, 1), frozen.mu0.context(batch, prefix))
    grid = seen[0][0].view(10, 2, 10, 2, -1).mean((1, 3)).view(100, -1)
    assert torch.allclose(found["trace"][0], grid, atol=1e-5)
    # the gripper's picture goes to DINOv2's size in one bilinear step
    pixels = torch.from_numpy(look["wrist"]).movedim(-1, 0)[None].float() / 255
    pixels = nn.functional.interpolate(pixels, (28, 28), mode="bilinear", align_corners=False)
    mean, std = (torch.tensor(x)[:, None, None] for x in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        patches = frozen.mu0.features.dino(pixel_values=(pixels - mean) / std).last_hidden_state[:, 1:]
    pooled = nn.functional.adaptive_avg_pool2d(patches.mT.view(1, -1, 4, 4), (8, 8)).flatten(2).mT
    assert torch.allclose(found["gripper"], pooled, atol=1e-4)


def test_it_acts_and_its_numbers_are_not_normalised(mu0_folder, tmp_path):
    convert_policy(write(tmp_path / "checkpoint.pt", small_state(P=4)), mu0_folder, tmp_path / "p")
    model = load_policy_checkpoint(tmp_path / "p", mu0=make_mu0(MU0)).model
    assert model.scales.action_std == (1.0,) * 12
    assert model.scales.spec == ROBOCASA_SPEC
    assert ActionExpertPolicy(model).act(observation()).actions.shape == (16, 12)


def test_without_trace_the_injection_is_left_out(mu0_folder, tmp_path):
    path = write(tmp_path / "checkpoint.pt", small_state())
    report = convert_policy(path, mu0_folder, tmp_path / "p", use_trace=False)
    assert any(name.startswith("gated_mixer") for name in report.left_out)
    assert load_policy_checkpoint(tmp_path / "p", mu0=make_mu0(MU0)).model.conditioning.guidance is None


class Evil:
    def __reduce__(self):
        return (print, ("run by a pickle",))


def test_what_cannot_be_trusted_or_does_not_fit_is_refused(mu0_folder, tmp_path, capsys):
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(CheckpointError, match="is not there"):
        convert_policy(path, mu0_folder, tmp_path / "p")
    with pytest.raises(CheckpointError, match="more than tensors"):
        convert_policy(write(path, small_state(), scheduler_state_dict=Evil()), mu0_folder, tmp_path / "p")
    assert "run by a pickle" not in capsys.readouterr().out
    with pytest.raises(CheckpointError, match=r"unknown tensors gated_mixer\.second_gate"):
        convert_policy(
            write(path, small_state() | {"gated_mixer.second_gate": torch.zeros(())}), mu0_folder, tmp_path / "p"
        )
    short = {k: v for k, v in small_state().items() if k != "gripper_proj.bias"}
    with pytest.raises(CheckpointError, match=r"gripper_proj\.bias is missing"):
        convert_policy(write(path, short), mu0_folder, tmp_path / "p")
    with pytest.raises(CheckpointError, match="not"):
        convert_policy(write(path, small_state(E=20)), mu0_folder, tmp_path / "p")
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="model_state_dict"):
        convert_policy(path, mu0_folder, tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_compat_is_all_or_nothing():
    config = sizes.policy_config("400m-official", 16, 12)
    with pytest.raises(ConfigError, match=r"normalise is 'mean_std'"):
        dataclasses.replace(config, normalise="mean_std")
    with pytest.raises(ConfigError, match="does not know"):
        dataclasses.replace(config, trace="self")
    assert np.isclose(config.query.points, 400)


def test_the_command_line_converts_a_released_run(mu0_folder, tmp_path, capsys):
    from traceworld.cli import main

    (tmp_path / "run" / "final").mkdir(parents=True)
    write(tmp_path / "run" / "final" / "checkpoint.pt", small_state())
    command = ["convert", "policy", str(tmp_path / "run"), "--mu0", str(mu0_folder), "--json", "--out"]
    assert main([*command, str(tmp_path / "p"), "--chunk", "8"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["step"], report["left_out"]) == (60_000, [])
    made = load_policy_checkpoint(tmp_path / "p", mu0=make_mu0(MU0)).model
    assert (made.config.chunk, made.config.trace) == (8, "expert")
    assert sum(value.numel() for value in made.own_state().values()) == report["parameters"]
    assert main([*command, str(tmp_path / "q"), "--without-trace"]) == 0
    dropped = json.loads(capsys.readouterr().out)["left_out"]
    assert dropped
    assert all(name.startswith("gated_mixer.") for name in dropped)
    (tmp_path / "empty").mkdir()
    assert (
        main(["convert", "policy", str(tmp_path / "empty"), "--mu0", str(mu0_folder), "--out", str(tmp_path / "r")])
        == 1
    )
    assert "holds no checkpoint.pt" in capsys.readouterr().err
