"""The released policy's `checkpoint.pt` as ours (dossier §5.2).

The file is a pickle. It is read by torch's restricted loader, which makes tensors, numbers, strings and plain containers of it and
nothing else; whatever would need more is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from traceworld.errors import CheckpointError
from traceworld.models.checkpoint import CONFIG_FILE, storable, write_folder
from traceworld.models.mu0.config import Mu0Config
from traceworld.policies.action_expert.checkpoint import policy_record
from traceworld.policies.action_expert.config import FlowHeadConfig, PolicyConfig
from traceworld.policies.action_expert.model import trained_parts
from traceworld.policies.action_expert.normalisation import ActionScales
from traceworld.policies.action_expert.official.switches import official_config
from traceworld.policies.action_expert.trace_features import feature_widths
from traceworld.traces.atomic import read_json
from traceworld.traces.robot import ActionSpec

_LAYER = r"^action_decoder\.gemma_expert\.model\.layers\.(\d+)\."
_RENAMED = [
    (r"^gated_mixer\.norm_q\.(.+)$", r"conditioning.guidance.norm_query.\1"),
    (r"^gated_mixer\.norm_kv\.(.+)$", r"conditioning.guidance.norm_trace.\1"),
    (r"^gated_mixer\.w_proj\.(.+)$", r"conditioning.guidance.trace_proj.\1"),
    (r"^gated_mixer\.ca\.out_proj\.(.+)$", r"conditioning.guidance.o_proj.\1"),
    (r"^gated_mixer\.gate$", r"conditioning.guidance.gate"),
    (r"^gripper_proj\.(.+)$", r"conditioning.gripper_proj.\1"),
    (r"^gripper_spatial_pos_embed$", r"conditioning.gripper_place"),
    (r"^action_decoder\.z_(norm|proj)\.(.+)$", r"conditioning.guided_stem.\1.\2"),
    (r"^action_decoder\.lang_(norm|proj)\.(.+)$", r"conditioning.words_stem.\1.\2"),
    (r"^action_decoder\.visual_(norm|proj)\.(.+)$", r"conditioning.gripper_stem.\1.\2"),
    (r"^action_decoder\.state_proj\.(.+)$", r"conditioning.state_stem.\1"),
    (r"^action_decoder\.time_mlp_in\.(.+)$", r"head.time_embedding.mlp.0.\1"),
    (r"^action_decoder\.time_mlp_out\.(.+)$", r"head.time_embedding.mlp.2.\1"),
    (r"^action_decoder\.action_in_proj\.(.+)$", r"head.action_in.\1"),
    (r"^action_decoder\.action_out_proj\.(.+)$", r"head.action_out.\1"),
    (_LAYER + r"self_attn\.(\w+_proj)\.weight$", r"head.layers.\1.\2.weight"),
    (_LAYER + r"mlp\.(\w+_proj)\.weight$", r"head.layers.\1.mlp.\2.weight"),
    (_LAYER + r"input_layernorm\.dense\.(.+)$", r"head.layers.\1.norm_attention.modulation.\2"),
    (_LAYER + r"post_attention_layernorm\.dense\.(.+)$", r"head.layers.\1.norm_mlp.modulation.\2"),
    (r"^action_decoder\.gemma_expert\.model\.norm\.dense\.(.+)$", r"head.norm.modulation.\1"),
]
_IN_PROJ = re.compile(r"^gated_mixer\.ca\.in_proj_(weight|bias)$")
_FROZEN = ("trace_policy.", "trace_model.", "dino.")
"""The μ0 that the released module holds by reference; it comes from its own checkpoint."""

ROBOCASA_SPEC = ActionSpec(
    names=(
        *("base_x", "base_y", "base_yaw", "torso", "mode"),
        *("eef_x", "eef_y", "eef_z", "eef_rx", "eef_ry", "eef_rz", "gripper"),
    ),
    low=(-1.0,) * 12,
    high=(1.0,) * 12,
    control_hz=20.0,
    state_names=(
        *(f"base_pos_{axis}" for axis in "xyz"),
        *(f"base_quat_{axis}" for axis in "xyzw"),
        *(f"base_to_eef_pos_{axis}" for axis in "xyz"),
        *(f"base_to_eef_quat_{axis}" for axis in "xyzw"),
        *("gripper_left", "gripper_right"),
    ),
)
"""The released policies' robot: PandaOmron in RoboCasa365, the numbers in the order of its dataset (dossier §5.4)."""


@dataclass(frozen=True)
class PolicyConversion:
    """What was made of a released policy.

    Attributes:
        out: our folder. step: of its training. parameters: of what we stored.
        left_out: released tensors of the frozen μ0, and of the injection where it is not used.
    """

    out: str
    step: int
    parameters: int
    left_out: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def convert_policy(
    checkpoint: str | Path,
    mu0: str | Path,
    out: str | Path,
    *,
    spec: ActionSpec = ROBOCASA_SPEC,
    chunk: int = 16,
    use_trace: bool = True,
) -> PolicyConversion:
    """Convert a released `checkpoint.pt`. Ours names its μ0 and holds what was trained.

    Args:
        checkpoint: the file, or a folder that holds it, also as `final/checkpoint.pt`.
        mu0: checkpoint folder of the released μ0, converted (`traceworld convert mu0`).
        spec: what its actions mean; their number is not in the file, which pads them to 32.
        chunk: actions per chunk, which is not in the file either. use_trace: False: its "w/o Trace".

    Raises:
        CheckpointError: the file is no such checkpoint, or needs more than the restricted loader makes; tensors are unknown,
            missing or of another shape (named); the μ0 is not the released one.
    """
    path = _file(Path(checkpoint))
    state, step = _load(path)
    trained = {name: tensor for name, tensor in state.items() if not name.startswith(_FROZEN)}
    left_out = sorted(set(state) - set(trained))
    if not use_trace:
        mixer = [name for name in trained if name.startswith("gated_mixer.")]
        left_out += mixer
        trained = {name: tensor for name, tensor in trained.items() if name not in mixer}
    mu0_config = Mu0Config.from_dict(read_json(Path(mu0) / CONFIG_FILE)["config"])
    if mu0_config.compat != "official":
        raise CheckpointError("is no released μ0", where=str(mu0), mend="convert it with `traceworld convert mu0`")
    ours = converted(trained, spec.dim, path)
    config = config_of(trained, spec.dim, chunk, use_trace, path)
    _check_fit(ours, config, mu0_config, path)
    scales = ActionScales.unit(config.state_dim, spec, ("robot0_agentview_left", config.gripper.camera))
    extra = {"converted_from": "released mu0 policy", "step": step}
    record = policy_record(config, scales, str(mu0), None, extra, "float32")
    write_folder(out, {name: storable(name, tensor, torch.float32) for name, tensor in ours.items()}, record)
    return PolicyConversion(str(out), step, sum(math.prod(t.shape) for t in ours.values()), tuple(left_out))


def converted(state: Mapping[str, Tensor], action_dim: int, where: Path = Path("checkpoint.pt")) -> dict[str, Tensor]:
    """Released tensors under our names. Actions are padded there to 32 numbers, of which the first are used.

    Raises:
        CheckpointError: names that have no place (listed).
    """
    ours, unknown = {}, []
    for name, tensor in state.items():
        if found := _IN_PROJ.match(name):
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                ours[f"conditioning.guidance.{part}_proj.{found[1]}"] = piece
            continue
        for pattern, place in _RENAMED:
            if re.match(pattern, name):
                ours[re.sub(pattern, place, name)] = tensor
                break
        else:
            unknown.append(name)
    if unknown:
        raise CheckpointError(f"unknown tensors {', '.join(sorted(unknown)[:5])}", where=str(where))
    cuts: dict[str, tuple[slice, ...]] = {"head.action_in.weight": (slice(None), slice(action_dim))}
    cuts |= {f"head.action_out.{name}": (slice(action_dim),) for name in ("weight", "bias")}
    return {name: tensor[cuts[name]] if name in cuts else tensor for name, tensor in ours.items()}


def config_of(
    state: Mapping[str, Tensor], action_dim: int, chunk: int, use_trace: bool, where: Path = Path("checkpoint.pt")
) -> PolicyConfig:
    """The config that the shapes of released tensors say. Raises CheckpointError if one that is needed is missing."""
    expert = "action_decoder.gemma_expert.model.layers"
    try:
        width, state_dim = state["action_decoder.state_proj.weight"].shape
        head_dim = len(state[f"{expert}.0.self_attn.k_proj.weight"])  # one key and value head
        heads = len(state[f"{expert}.0.self_attn.q_proj.weight"]) // head_dim
        mlp_hidden = len(state[f"{expert}.0.mlp.gate_proj.weight"])
        side = math.isqrt(len(state["gripper_spatial_pos_embed"]))
    except KeyError as error:
        raise CheckpointError(f"has no tensor {error}", where=str(where)) from error
    depth = len({name.split(".")[4] for name in state if name.startswith(f"{expert}.")})
    config = official_config(state_dim, action_dim, chunk=chunk, use_trace=use_trace)
    assert isinstance(config.head, FlowHeadConfig)
    head = replace(
        config.head,
        width=width,
        depth=depth,
        heads=heads,
        head_dim=head_dim,
        mlp_hidden=mlp_hidden,
        prefix_layers=depth,
    )
    return replace(config, head=head, gripper=replace(config.gripper, grid=(side, side)))


def _check_fit(ours: Mapping[str, Tensor], config: PolicyConfig, mu0: Mu0Config, path: Path) -> None:
    with torch.device("meta"):
        stems, head = trained_parts(config, feature_widths(mu0, config))
    wanted = {f"conditioning.{name}": tuple(value.shape) for name, value in stems.state_dict().items()}
    wanted |= {f"head.{name}": tuple(value.shape) for name, value in head.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in ours.items()}
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        faults = [f"{name} is {found.get(name, 'missing')}, not {wanted.get(name, 'known')}" for name in wrong[:5]]
        raise CheckpointError("; ".join(faults), where=str(path), mend="give the μ0 it was trained on")


def _file(place: Path) -> Path:
    if not place.is_dir():
        return place
    found = [path for name in ("checkpoint.pt", "final/checkpoint.pt") if (path := place / name).is_file()]
    if not found:
        raise CheckpointError(
            "holds no checkpoint.pt and no final/checkpoint.pt", where=str(place), mend="give the file itself"
        )
    return found[0]


def _load(path: Path) -> tuple[dict[str, Tensor], int]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise CheckpointError("is not there", where=str(path), mend="give the file `checkpoint.pt`") from error
    except Exception as error:  # torch's loader raises whatever a damaged or unsafe pickle makes it raise
        raise CheckpointError(f"is damaged, or more than tensors: {error}", where=str(path)) from error
    state = found.get("model_state_dict") if isinstance(found, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError("holds no model_state_dict", where=str(path), mend="give the file `checkpoint.pt`")
    return state, int(found.get("step", 0))
