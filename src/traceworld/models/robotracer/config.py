"""What a RoboTracer is: frozen dataclasses that go into a checkpoint as JSON and come back strictly."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from traceworld.errors import ConfigError
from traceworld.models.config_json import read_config

_FORM_3D = (
    "Your answer should be formatted as a list of tuples, i.e. [(x1, y1, d1), (x2, y2, d2), ...], x and y between 0 and 1000, "
    "d the distance from the camera in metres."
)
_FORM_2D = (
    "Your answer should be formatted as a list of tuples, i.e. [(x1, y1), (x2, y2), ...], x and y between 0 and 1000."
)


@dataclass(frozen=True)
class OwnEncoderConfig:
    """Our trainable spatial encoder.

    Attributes:
        height, width: of the picture and depth map it sees, px (both are stretched to it, the intrinsics with them).
        patch: side of a square patch, px; one spatial token per patch.
        dim, layers, heads, mlp: its transformer.
    """

    kind: Literal["own"] = "own"
    height: int = 224
    width: int = 224
    patch: int = 28
    dim: int = 384
    layers: int = 4
    heads: int = 6
    mlp: int = 1536

    def __post_init__(self):
        _check_grid(self.height, self.width, self.patch)
        if self.dim < 1 or self.layers < 0 or self.mlp < 1 or self.heads < 1 or self.dim % self.heads:
            raise ConfigError(f"dim {self.dim}, heads {self.heads}", where="spatial", mend="dim is a multiple of heads")


@dataclass(frozen=True)
class MapAnythingConfig:
    """The frozen MapAnything encoder.

    Attributes:
        hub_id, revision: its published weights (`facebook/map-anything`: CC-BY-NC-4.0; `…-apache`: Apache-2.0).
        height, width, patch: as of `OwnEncoderConfig`; its patches are 14 px.
        dim: width of its information-sharing transformer.
        scale_head: start the scale decoder from its scale head (paper, supplement D.1).
    """

    kind: Literal["mapanything"] = "mapanything"
    hub_id: str = "facebook/map-anything-apache"
    revision: str | None = None
    height: int = 224
    width: int = 224
    patch: int = 14
    dim: int = 1536
    scale_head: bool = True

    def __post_init__(self):
        _check_grid(self.height, self.width, self.patch)


@dataclass(frozen=True)
class NoEncoderConfig:
    """No spatial tokens; the rest as with one."""

    kind: Literal["none"] = "none"


SpatialConfig = OwnEncoderConfig | MapAnythingConfig | NoEncoderConfig


@dataclass(frozen=True)
class Prompts:
    """What the predictor asks. `{task}` is the instruction.

    Attributes:
        trace_3d, trace_2d: for a trace of (u, v, d) and of (u, v).
        system: said before the conversation; empty: the base model's usual words, if it has any.
    """

    trace_3d: str = f'Please point out the 3D object-centric visual trace for the task "{{task}}". {_FORM_3D}'
    trace_2d: str = f'Please point out the 2D object-centric visual trace for the task "{{task}}". {_FORM_2D}'
    system: str = ""

    def __post_init__(self):
        for name in ("trace_3d", "trace_2d"):
            if "{task}" not in getattr(self, name):
                raise ConfigError("has no place for the task", where=f"prompts.{name}", mend="write {task} into it")


@dataclass(frozen=True)
class RoboTracerConfig:
    """A whole RoboTracer.

    Attributes:
        base: hub id or local folder of the image-text model; empty: made from a transformers config that its checkpoint holds.
        base_revision: of a hub id.
        spatial: the spatial encoder.
        projector_hidden: width inside the spatial projector; None: that of the language model.
        scale_width: width between scale projector and scale decoder (that of the spatial encoder if it is MapAnything).
        scale_hidden: width inside the scale decoder (196 in MapAnything).
        scale_loss_weight: of the scale loss beside next-token prediction (paper §3.2: 0.1); 0: none.
        max_tokens: longest sequence the processor makes; a longer one is refused.
        max_new_tokens: longest answer.
        space: what the predictor asks for, `metric` (u, v, d) or `image` (u, v).
        horizon: steps of its predictions.
        prompts: what it asks.
    """

    base: str = "Qwen/Qwen2.5-VL-3B-Instruct"
    base_revision: str | None = None
    spatial: SpatialConfig = field(default_factory=OwnEncoderConfig)
    projector_hidden: int | None = None
    scale_width: int = 384
    scale_hidden: int = 196
    scale_loss_weight: float = 0.1
    max_tokens: int = 8192
    max_new_tokens: int = 1024
    space: Literal["metric", "image"] = "metric"
    horizon: int = 32
    prompts: Prompts = field(default_factory=Prompts)

    def __post_init__(self):
        for name in ("scale_width", "scale_hidden", "max_tokens", "max_new_tokens", "horizon"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{getattr(self, name)}", where=f"config.{name}", mend="give 1 or more")
        if not 0 <= self.scale_loss_weight < float("inf"):
            raise ConfigError(f"{self.scale_loss_weight}", where="config.scale_loss_weight", mend="give 0 or more")
        if self.projector_hidden is not None and self.projector_hidden < 1:
            raise ConfigError(f"{self.projector_hidden}", where="config.projector_hidden", mend="give 1 or more")

    @property
    def num_spatial_tokens(self) -> int:
        """Spatial tokens per sample: one per patch and the scale token; 0 without an encoder."""
        if isinstance(self.spatial, NoEncoderConfig):
            return 0
        return (self.spatial.height // self.spatial.patch) * (self.spatial.width // self.spatial.patch) + 1

    @property
    def spatial_size(self) -> tuple[int, int] | None:
        """(height, width) px of what the spatial encoder sees; None without one."""
        return None if isinstance(self.spatial, NoEncoderConfig) else (self.spatial.height, self.spatial.width)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RoboTracerConfig:
        """Read back what `to_dict` gave. Raises ConfigError for an unknown field or a value of the wrong kind."""
        return read_config(cls, values)


def _check_grid(height: int, width: int, patch: int) -> None:
    if min(height, width, patch) < 1 or height % patch or width % patch:
        raise ConfigError(
            f"{height}×{width} px in patches of {patch}", where="spatial", mend="both sides are multiples of the patch"
        )
