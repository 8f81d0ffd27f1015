"""What a μ0 model is: frozen dataclasses that go into a checkpoint as JSON and come back strictly."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from traceworld.errors import ConfigError
from traceworld.models.config_json import read_config


@dataclass(frozen=True)
class NanoPrefixConfig:
    """The small prefix, trained from scratch: convolutional stems, hashed words, a few bidirectional layers.

    Attributes:
        image_height, image_width: pictures are resized to this, px.
        stem_channels: channels at strides 2, 4, 8; the last step to stride 16 has `width`.
        width, layers, heads, mlp_hidden: the transformer; one key/value pair per layer goes to the expert.
        word_buckets, max_words: hashed vocabulary and the longest instruction.
        rope_base: base of the rotary angles of words.
    """

    kind: Literal["nano"] = "nano"
    image_height: int = 144
    image_width: int = 192
    stem_channels: tuple[int, int, int] = (24, 48, 96)
    width: int = 192
    layers: int = 4
    heads: int = 6
    mlp_hidden: int = 512
    word_buckets: int = 2048
    max_words: int = 24
    rope_base: float = 10_000.0


@dataclass(frozen=True)
class SmolVLMPrefixConfig:
    """SmolVLM2 cut to its first text layers (mu0-paper B.1). The numbers describe the published model of `hub_id`.

    Attributes:
        hub_id, revision: where the weights come from; None for a random one.
        layers: text layers that are kept (L_vlm).
        image_size: both pictures are resized to this square, px.
        vision_*: the SigLIP tower. connector_shuffle: pixel-shuffle factor of the connector.
        text_*: the language model. vocab: rows of its embedding.
        max_text_tokens, prompt: how the instruction is tokenised; `{}` is the instruction.
        rope_base: rotary base; None keeps the one the language model was trained with (`text_rope_theta`).
        attention: `causal`, as the frozen language model was trained, or `bidirectional` (released μ0 code).
        embedding_scale: `none`, or `sqrt_width`: multiply image and text embeddings by √width (released μ0 code).
        depth_lora_rank, depth_lora_alpha: a low-rank adapter in every SigLIP layer for the depth picture only (released
            μ0 code); rank 0: none, depth shares the deeper layers as they are (paper).
    """

    kind: Literal["smolvlm"] = "smolvlm"
    hub_id: str | None = None
    revision: str | None = None
    layers: int = 20
    image_size: int = 512
    vision_width: int = 768
    vision_layers: int = 12
    vision_heads: int = 12
    vision_mlp: int = 3072
    vision_patch: int = 16
    vision_image_size: int = 512
    connector_shuffle: int = 4
    text_width: int = 576
    text_heads: int = 9
    text_kv_heads: int = 3
    text_mlp: int = 1536
    text_rope_theta: float = 100_000.0
    vocab: int = 49_280
    max_text_tokens: int = 48
    prompt: str = "Task: {}\n"
    rope_base: float | None = None
    attention: Literal["causal", "bidirectional"] = "causal"
    embedding_scale: Literal["none", "sqrt_width"] = "none"
    depth_lora_rank: int = 0
    depth_lora_alpha: float = 16.0


PrefixConfig = NanoPrefixConfig | SmolVLMPrefixConfig


@dataclass(frozen=True)
class LocalFeatureConfig:
    """Where the feature of eq. 5 comes from.

    Attributes:
        source: `dino` (a frozen DINOv2), `prefix` (the prefix's own maps), `none` (Table 6, w/o DINOv2).
        hub_id, revision: weights of DINOv2.
        image_size, patch, width, layers, heads: the DINOv2 model (`image_size` px square).
    """

    source: Literal["dino", "prefix", "none"] = "dino"
    hub_id: str = "facebook/dinov2-base"
    revision: str | None = None
    image_size: int = 518
    patch: int = 14
    width: int = 768
    layers: int = 12
    heads: int = 12


@dataclass(frozen=True)
class ExpertConfig:
    """The trace expert (mu0-paper §3.2, B.2). It has as many layers as the prefix.

    Attributes:
        width: hidden width; the paper takes half the prefix's.
        mlp_hidden: hidden width of the gated MLP.
        history_group, control_group: steps per history token (g_time) and controls per control token (g_cp).
        uv_freqs: octaves of the Fourier expansion of the current (u, v).
        anchor_z: also give the current z, with a flag whether it is known (the released code does not).
        history_validity: give each history token the validity of its steps (the released code shows zeros).
        history_scale: `none`: history enters as it is (paper); `s_delta`: divided by s_Δ like the future.
        history_time: the flow time that modulates history tokens: `shared`: the control tokens' τ (released code);
            `clean`: always 0, since history is never noisy. Then its keys and values are computed once per observation.
        summary: add the prefix's pooled last features to the adaLN condition (ours; for the small prefix).
        clock: add an embedding of the clock to the adaLN condition (the released code knows one clock).
    """

    width: int = 288
    mlp_hidden: int = 768
    history_group: int = 8
    control_group: int = 10
    uv_freqs: int = 8
    anchor_z: bool = True
    history_validity: bool = True
    history_scale: Literal["none", "s_delta"] = "none"
    history_time: Literal["shared", "clean"] = "shared"
    summary: bool = False
    clock: bool = True


@dataclass(frozen=True)
class LossConfig:
    """Equations 7–10. All terms are means (over keypoints, controls, axes, steps, pairs), so the weights compare.

    Attributes:
        lambda_done: weight of the validity loss.
        lambda_rig: weight of the rigidity loss. The released 5 stands beside a flow loss that is a sum over 30 numbers;
            beside our mean the same balance is 5/30.
        rigidity: variance of the `squared_distance` (eq. 9) or of the `distance` (released code).
        tau: `uniform` (eq. 6) or `beta`: 0.999·Beta(1.5, 1) + 0.001, more mass near noise (released code).
        draws: independent (τ, ε) per observation and step; they share the prefix, so they are nearly free.
    """

    lambda_done: float = 0.5
    lambda_rig: float = 5 / 30
    rigidity: Literal["squared_distance", "distance"] = "squared_distance"
    tau: Literal["uniform", "beta"] = "uniform"
    draws: int = 1


@dataclass(frozen=True)
class Mu0Config:
    """A whole μ0.

    Attributes:
        size: the dial it was made with, or `custom`.
        history, horizon, num_controls: h, H, D of the paper. degree, knots: of the B-spline (`geometry.bspline`).
        euler_steps: steps of the sampler from τ=1 to 0.
        stop_threshold: the trace is frozen from the first step whose validity probability is below this.
        target: `spline`: flow over the D control points; `raw`: over the H steps themselves (Table 6, w/o B-spline), then
            num_controls is the horizon.
        use_depth, use_history: without one, the model has no part that could read it (Table 6).
        compat: `official`: as the released code does it, `official.switches` says in what; `none`: the paper's intent.
    """

    size: str = "custom"
    history: int = 8
    horizon: int = 32
    num_controls: int = 10
    degree: int = 3
    knots: Literal["uniform", "official"] = "uniform"
    euler_steps: int = 4
    stop_threshold: float = 0.5
    target: Literal["spline", "raw"] = "spline"
    use_depth: bool = True
    use_history: bool = True
    compat: Literal["none", "official"] = "none"
    prefix: PrefixConfig = field(default_factory=NanoPrefixConfig)
    local: LocalFeatureConfig = field(default_factory=LocalFeatureConfig)
    expert: ExpertConfig = field(default_factory=ExpertConfig)
    loss: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self):
        _positive(self, "history", "horizon", "num_controls", "euler_steps")
        _positive(self.loss, "draws")
        if self.history % self.expert.history_group:
            raise ConfigError(f"does not divide history={self.history}", where="expert.history_group")
        if self.num_controls % self.expert.control_group:
            raise ConfigError(f"does not divide num_controls={self.num_controls}", where="expert.control_group")
        if self.target == "raw" and self.num_controls != self.horizon:
            raise ConfigError(
                f"a raw target has a point per step, not {self.num_controls} for {self.horizon}",
                where="num_controls",
                mend=f"set it to {self.horizon}, and expert.control_group with it",
            )
        if self.expert.anchor_z and not self.use_depth:
            raise ConfigError(
                "a model without depth is not told z either", where="expert.anchor_z", mend="set it False"
            )
        if self.local.source == "prefix" and self.prefix.kind != "nano":
            raise ConfigError("only the nano prefix has maps of its own", where="local.source", mend="use 'dino'")
        if self.expert.summary and self.prefix.kind != "nano":
            raise ConfigError("only the nano prefix has a summary", where="expert.summary", mend="set it False")
        width, heads = (
            (self.prefix.width, self.prefix.heads)
            if isinstance(self.prefix, NanoPrefixConfig)
            else (self.prefix.text_width, self.prefix.text_heads)
        )
        if width % heads or (width // heads) % 2:
            raise ConfigError(f"{heads} heads do not split width {width} into even parts", where="prefix")
        if self.compat == "official":
            from traceworld.models.mu0.official.switches import check_official

            check_official(self)

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) in px of the pictures that the prefix looks at; others are resized to it."""
        if isinstance(self.prefix, NanoPrefixConfig):
            return self.prefix.image_width, self.prefix.image_height
        return self.prefix.image_size, self.prefix.image_size

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Mu0Config:
        """The config that `to_dict` (through JSON) described.

        Raises:
            ConfigError: an unknown field, or a value of the wrong kind; named with its path.
        """
        return read_config(Mu0Config, values)


def _positive(config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ConfigError("must be at least 1", where=name)
