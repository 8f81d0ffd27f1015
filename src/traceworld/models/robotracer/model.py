"""RoboTracer: an image-text model of transformers, a spatial encoder whose tokens it reads, and a scale decoder (paper §3.2, D.1).

picture ─ vision tower ─────────────┐
picture, K, depth, pose ─ spatial encoder ─ spatial projector ─┤ language model ─ words
<SCALE> ────────────────────────────┘       └ state at <SCALE> ─ scale projector ─ scale decoder ─ ŝ
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.extras import require
from traceworld.models.backbones import fingerprint
from traceworld.models.pretrained import missing_weights
from traceworld.models.robotracer.config import MapAnythingConfig, RoboTracerConfig
from traceworld.models.robotracer.families import family_of
from traceworld.models.robotracer.geometry import GeometryInputs
from traceworld.models.robotracer.processor import RoboTracerProcessor
from traceworld.models.robotracer.projector import SpatialProjector
from traceworld.models.robotracer.scale import ScaleDecoder, ScaleProjector, scale_loss
from traceworld.models.robotracer.spatial_encoder import build_spatial_encoder
from traceworld.models.robotracer.tokens import Tapped, tapped

Stage = Literal["alignment", "enhancement"]


@dataclass(frozen=True, eq=False)
class RoboTracerOutput:
    """What one forward pass gives.

    Attributes:
        logits: [B,L,V].
        log_scale: [B] natural log of ŝ, the predicted scale in metres.
        ntp_loss: of next-token prediction, mean over the learned tokens; None without labels.
        scale_loss: mean (log ŝ − log s*)², unweighted; None without a target.
        loss: ntp_loss + config.scale_loss_weight · scale_loss, of what there is; None if there is neither.
    """

    logits: Float[Tensor, "B L V"]
    log_scale: Float[Tensor, " B"]
    ntp_loss: Float[Tensor, ""] | None = None
    scale_loss: Float[Tensor, ""] | None = None
    loss: Float[Tensor, ""] | None = None


@dataclass(frozen=True, eq=False)
class Generated:
    """Answers.

    Attributes:
        ids: [B·n, L] generated tokens alone, n answers of a sample behind each other, padded behind their end.
        scale_m: [B] predicted scale in metres.
    """

    ids: Int[Tensor, "Bn L"]
    scale_m: Float[Tensor, " B"]


class RoboTracer(nn.Module):
    """A base model with spatial tokens and a scale.

    Args:
        config: of the parts around the base.
        vlm: the base, an `AutoModelForImageTextToText` of a known family (`families`), with its weights.
        spatial_id, scale_id, image_id, end_id, pad_id: of the processor's tokenizer. Rows for them are added to the base's
            embeddings where it has too few (as means of the others).

    Attributes:
        base_trained: whether `vlm` may have been trained (a stage that trains it was set, or a checkpoint held it).
    """

    kind = "robotracer"

    def __init__(
        self,
        config: RoboTracerConfig,
        vlm: nn.Module,
        spatial_id: int,
        scale_id: int,
        image_id: int,
        end_id: int,
        pad_id: int,
    ):
        super().__init__()
        inner: Any = vlm
        self.family = family_of(inner.config)
        self.config, self.vlm = config, vlm
        self.spatial_id, self.scale_id, self.image_id, self.end_id, self.pad_id = (
            spatial_id,
            scale_id,
            image_id,
            end_id,
            pad_id,
        )
        self.base_trained = False
        grow_embeddings(vlm, max(spatial_id, scale_id) + 1)
        self._base_mark = fingerprint(vlm.state_dict().values())
        width = inner.get_input_embeddings().weight.shape[1]
        self.spatial_encoder: Any = build_spatial_encoder(config.spatial)
        self.spatial_projector: SpatialProjector | None = None
        if self.spatial_encoder is not None:
            dim = self.spatial_encoder.config.dim
            self.spatial_projector = SpatialProjector(dim, config.projector_hidden or width, width)
        self.scale_embedding = nn.Parameter(inner.get_input_embeddings().weight.detach().float().mean(0))
        self.scale_projector = ScaleProjector(width, config.scale_width)
        self.scale_decoder = ScaleDecoder(config.scale_width, config.scale_hidden)
        if isinstance(config.spatial, MapAnythingConfig) and config.spatial.scale_head:
            self.scale_decoder.start_from(self.spatial_encoder.scale_head)

    def forward(
        self,
        input_ids: Int[Tensor, "B L"],
        attention_mask: Int[Tensor, "B L"] | Float[Tensor, "B 1 L L"] | None = None,
        labels: Int[Tensor, "B L"] | None = None,
        geometry: GeometryInputs | None = None,
        scale_target: Float[Tensor, " B"] | None = None,
        **pictures: Any,
    ) -> RoboTracerOutput:
        """One pass over a batch of `RoboTracerProcessor`.

        Args:
            labels: token ids, −100 where nothing is learned.
            geometry: what the spatial encoder sees; needed unless the config has none.
            scale_target: s* in metres, NaN where unknown (`scale.scale_target`).
            pictures: what the base's own forward takes beside (pixel_values, image_grid_thw, mm_token_type_ids, …).

        Raises:
            InvalidInputError: the ids do not have the tokens of this model, or geometry is missing.
        """
        learned = labels is not None and bool((labels[:, 1:] >= 0).any())
        with self._tapped(geometry) as tap:
            output = self.vlm(
                input_ids=input_ids,
                attention_mask=attention_mask,
                labels=labels if learned else None,
                use_cache=False,
                **pictures,
            )
        log_scale = self._log_scale(tap)
        ntp = output.loss if learned else None
        scale = None if scale_target is None else scale_loss(log_scale, scale_target.to(log_scale.device))
        return RoboTracerOutput(output.logits, log_scale, ntp, scale, self._total(ntp, scale))

    @torch.no_grad()  # not inference mode: what was said may be trained on (RFT)
    def generate(
        self,
        input_ids: Int[Tensor, "B L"],
        attention_mask: Int[Tensor, "B L"],
        geometry: GeometryInputs | None = None,
        *,
        num_answers: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
        max_new_tokens: int | None = None,
        **pictures: Any,
    ) -> Generated:
        """Answers to a `generation_batch`.

        The base's own generation settings (sampling, penalties) are not used: the same batch and seed give the same tokens.

        Args:
            num_answers: n per sample.
            temperature: 0: the likeliest token each time, so n answers are equal; above: drawn.
            max_new_tokens: default `config.max_new_tokens`.

        Raises:
            InvalidInputError: as `forward`.
        """
        transformers = require("transformers")
        vlm: Any = self.vlm
        drawn: dict[str, Any] = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}
        settings = transformers.GenerationConfig(
            do_sample=bool(drawn),
            **drawn,
            repetition_penalty=1.0,
            num_beams=1,
            num_return_sequences=num_answers if temperature > 0 else 1,
            max_new_tokens=max_new_tokens or self.config.max_new_tokens,
            eos_token_id=self.end_id,
            pad_token_id=self.pad_id,
            suppress_tokens=[self.spatial_id, self.scale_id, self.image_id],
        )
        devices = [input_ids.device] if input_ids.device.type == "cuda" else []
        with torch.random.fork_rng(devices), _evaluating(self), self._tapped(geometry) as tap:
            torch.manual_seed(seed)
            ids = vlm.generate(
                input_ids=input_ids, attention_mask=attention_mask, generation_config=settings, **pictures
            )[:, input_ids.shape[1] :]
        if temperature <= 0:
            ids = ids.repeat_interleave(num_answers, dim=0)
        scale = self._log_scale(tap).exp()
        return Generated(ids, scale[:: max(1, len(scale) // len(input_ids))])

    def trainable(self, stage: str) -> list[str]:
        """Set what learns in a stage of supervised fine-tuning (paper §3.2), and say which parameters those are.

        `alignment`: spatial projector, scale projector, scale decoder; and what else is new here and would stay random, our own
        spatial encoder and the embedding of `<SCALE>`. `enhancement`: everything but MapAnything; a base in half precision is
        turned into float32, or small updates would be rounded away.

        Args:
            stage: one of `Stage`.

        Raises:
            ConfigError: no such stage.
        """
        if stage not in get_args(Stage):
            raise ConfigError(f"'{stage}' is no stage", where="stage", mend=" or ".join(get_args(Stage)))
        self.requires_grad_(True)
        self.vlm.requires_grad_(stage == "enhancement")
        if self.spatial_encoder is not None and self.spatial_encoder.frozen:
            self.spatial_encoder.requires_grad_(False)
        if stage == "enhancement":
            self.vlm.float()
            self.base_trained = True
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]

    def _tapped(self, geometry: GeometryInputs | None) -> Any:
        vlm: Any = self.vlm
        spatial = None
        if self.spatial_encoder is not None:
            if geometry is None:
                raise InvalidInputError(
                    "is missing", where="geometry", mend="give GeometryInputs (the picture alone will do)"
                )
            assert self.spatial_projector is not None
            spatial = self.spatial_projector(self.spatial_encoder(geometry.to(self.device)))
        return tapped(
            vlm.get_input_embeddings(), vlm.model, Tapped(self.spatial_id, self.scale_id, spatial, self.scale_embedding)
        )

    @property
    def base_changed(self) -> bool:
        """Whether `vlm` is not, or may not be, the published base that the config names; then a checkpoint holds it."""
        return (
            not self.config.base or self.base_trained or fingerprint(self.vlm.state_dict().values()) != self._base_mark
        )

    @property
    def device(self) -> torch.device:
        return self.scale_embedding.device

    def _log_scale(self, tap: Tapped) -> Float[Tensor, " B"]:
        if tap.state is None:
            raise InvalidInputError(
                "holds no <SCALE>", where="input_ids", mend="build the batch with this model's processor"
            )
        return self.scale_decoder(self.scale_projector(tap.state.to(self.scale_embedding.dtype)))

    def _total(self, ntp: Tensor | None, scale: Tensor | None) -> Tensor | None:
        parts = [] if ntp is None else [ntp]
        if scale is not None and self.config.scale_loss_weight:
            parts.append(self.config.scale_loss_weight * scale)
        return torch.stack([part.float() for part in parts]).sum() if parts else None


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Within the block every part is in eval mode; afterwards each is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def build_robotracer(
    config: RoboTracerConfig, processor: RoboTracerProcessor, vlm: nn.Module | None = None
) -> RoboTracer:
    """A RoboTracer whose own parts are new (draws from torch's generator).

    Args:
        vlm: the base; None: the published one that `config.base` names (hub cache or folder).

    Raises:
        ConfigError: neither is given, or it is of no known family.
        MissingWeightsError, MissingExtraError: the base, or MapAnything, is not on this machine.
    """
    if vlm is None:
        if not config.base:
            raise ConfigError(
                "names no base model", where="config.base", mend="give a hub id, a folder, or the model itself"
            )
        vlm = load_base(config)
    ids = (processor.spatial_id, processor.scale_id, processor.image_id, processor.end_id, processor.pad_id)
    return RoboTracer(config, vlm, *ids)


def load_base(config: RoboTracerConfig) -> nn.Module:
    """The published base with its weights, from the local hub cache or a folder.

    Raises:
        MissingWeightsError: it is not on this machine.
    """
    try:
        return require("transformers").AutoModelForImageTextToText.from_pretrained(
            config.base, revision=config.base_revision, local_files_only=True, dtype="auto"
        )
    except OSError as error:
        raise missing_weights(config.base, config.base_revision) from error


@torch.no_grad()
def grow_embeddings(vlm: nn.Module, rows: int) -> None:
    """Give a base at least so many rows of embeddings; new ones are the mean of the others, so that growing draws nothing."""
    base: Any = vlm
    before = base.get_input_embeddings().weight.shape[0]
    if before >= rows:
        return
    base.resize_token_embeddings(rows, mean_resizing=False)
    for layer in (base.get_input_embeddings(), base.get_output_embeddings()):
        layer.weight[before:] = layer.weight[:before].float().mean(0).to(layer.weight.dtype)
