"""What a TraceGen is: frozen dataclasses that go into a checkpoint as JSON and come back strictly."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from traceworld.errors import ConfigError
from traceworld.models.config_json import read_config
from traceworld.models.mu0.config import NanoPrefixConfig


@dataclass(frozen=True)
class HubEncodersConfig:
    """The four frozen encoders (DINOv3, SigLIP for RGB, SigLIP for depth, T5). The numbers describe the published models.

    Attributes:
        dino_id, siglip_id, t5_id: hub ids, with `*_revision`.
        image_size: pictures are resized to this square, px. patch: of all vision encoders.
        dino_registers: register tokens, dropped with the class token. dino_qkv_bias: biases of query and value (timm's port
            leaves them out).
        max_text_tokens: longest instruction.
    """

    dino_id: str = "facebook/dinov3-vitl16-pretrain-lvd1689m"
    dino_revision: str | None = None
    siglip_id: str = "google/siglip-base-patch16-384"
    siglip_revision: str | None = None
    t5_id: str = "google-t5/t5-base"
    t5_revision: str | None = None
    image_size: int = 384
    patch: int = 16
    dino_width: int = 1024
    dino_layers: int = 24
    dino_heads: int = 16
    dino_mlp: int = 4096
    dino_registers: int = 4
    dino_qkv_bias: bool = True
    siglip_width: int = 768
    siglip_layers: int = 12
    siglip_heads: int = 12
    siglip_mlp: int = 3072
    t5_width: int = 768
    t5_layers: int = 12
    t5_heads: int = 12
    t5_mlp: int = 3072
    vocab: int = 32_128
    max_text_tokens: int = 128


@dataclass(frozen=True)
class DecoderConfig:
    """The joint-attention decoder (dossier §2.2).

    Attributes:
        layers, heads, head_dim: the trunk; its width is heads · head_dim.
        time_width: of the flow-time embedding that modulates every layer.
        patch_space, patch_time: one token holds patch_space² neighbouring points over patch_time steps.
        image_positions: give image tokens the spatial code of the trace tokens at the same place (ours, for encoders trained
            from scratch; the reference leaves condition tokens without one).
    """

    layers: int = 6
    heads: int = 12
    head_dim: int = 64
    time_width: int = 512
    patch_space: int = 2
    patch_time: int = 2
    image_positions: bool = False

    @property
    def width(self) -> int:
        return self.heads * self.head_dim


@dataclass(frozen=True)
class TraceGenConfig:
    """A whole TraceGen. Exactly one of `encoders` and `nano` is given.

    Attributes:
        size: the dial it was made with, or `custom`.
        horizon: H steps of the future. grid: points per side of the fixed grid.
        euler_steps: steps of the sampler from τ=1 to 0.
        guidance: g of classifier-free guidance, v = v_u + g (v_c − v_u); 1 evaluates the condition alone.
        condition_drop: chance in training that an observation's condition is replaced by the learned null tokens.
        increment_scale: an increment of this many s_Δ is 1 for the network.
        clock: tell the network which clock a step is on (the reference has one clock).
        compat: behave as the released code does, `compat.ReferenceConventions` says in what.
    """

    size: str = "custom"
    horizon: int = 32
    grid: int = 20
    euler_steps: int = 10
    guidance: float = 1.0
    condition_drop: float = 0.1
    increment_scale: float = 1 / 16
    clock: bool = True
    compat: bool = False
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    encoders: HubEncodersConfig | None = None
    nano: NanoPrefixConfig | None = None

    def __post_init__(self):
        if (self.encoders is None) == (self.nano is None):
            raise ConfigError("give either hub encoders or a nano one", where="encoders")
        for name in ("horizon", "grid", "euler_steps"):
            if getattr(self, name) < 1:
                raise ConfigError("must be at least 1", where=name)
        decoder = self.decoder
        if self.grid % decoder.patch_space or self.horizon % decoder.patch_time:
            raise ConfigError(
                f"patches of {decoder.patch_space}² points over {decoder.patch_time} steps do not tile a grid of {self.grid}² "
                f"over {self.horizon} steps",
                where="decoder",
            )
        if decoder.width % 16:
            raise ConfigError(
                f"width {decoder.width} is not a multiple of 16",
                where="decoder",
                mend="the position code splits it in 16 parts",
            )
        if not 0 <= self.condition_drop < 1:
            raise ConfigError("is a probability below 1", where="condition_drop")
        if self.guidance < 0 or self.increment_scale <= 0:
            raise ConfigError("guidance must not be negative and increment_scale positive", where="guidance")
        if self.guidance != 1 and not self.condition_drop and not self.compat:
            raise ConfigError(
                "guidance needs a model that was trained with its condition dropped at times",
                where="guidance",
                mend="set condition_drop, or leave guidance at 1",
            )
        if self.compat and (self.encoders is None or self.clock or self.condition_drop):
            raise ConfigError(
                "the released model has hub encoders, one clock and no condition dropout",
                where="compat",
                mend="start from compat.reference_config(size)",
            )

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) in px of the pictures that the encoders look at; others are resized to it."""
        if self.nano is not None:
            return self.nano.image_width, self.nano.image_height
        assert self.encoders is not None
        return self.encoders.image_size, self.encoders.image_size

    @property
    def history(self) -> int:
        """Steps of the past in which a predictor looks for a point's depth where the present has none.

        The network itself sees no history.
        """
        return 8

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> TraceGenConfig:
        """The config that `to_dict` (through JSON) described.

        Raises:
            ConfigError: an unknown field, or a value of the wrong kind; named with its path.
        """
        return read_config(TraceGenConfig, values)
