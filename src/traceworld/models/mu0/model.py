"""The whole μ0: prefix, keypoint tokens, trace expert, flow objective and sampler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from traceworld.errors import CheckpointError
from traceworld.models.backbones import Backbone
from traceworld.models.blocks.embeddings import TimeEmbedding
from traceworld.models.mu0 import losses
from traceworld.models.mu0.config import Mu0Config, NanoPrefixConfig
from traceworld.models.mu0.conventions import Conventions, conventions_of
from traceworld.models.mu0.expert import KeyValue, PrefixContext, TraceExpert
from traceworld.models.mu0.local_features import DinoFeatures
from traceworld.models.mu0.prefix import Prefix
from traceworld.models.mu0.prefix_nano import NanoPrefix
from traceworld.models.mu0.targets import target_of
from traceworld.models.mu0.tokens import KeypointTokens, Query
from traceworld.models.normalisation import CLOCKS, Normalisation

if TYPE_CHECKING:
    from traceworld.models.mu0.prefix_smolvlm import SmolVLMPrefix

_VALID_BIAS = 3.0
"""The validity head starts at sigmoid(3) = 0.95 everywhere: most steps are valid."""


@dataclass(frozen=True)
class Context:
    """All that is fixed while the controls of one batch are denoised.

    Attributes:
        prefix: per-layer keys and values.
        query: the keypoints.
        condition: [B,E] what modulates every layer beside flow time: the clock, and the prefix's summary if used.
        history: keys and values of the history stream, when they do not depend on τ; else None.
    """

    prefix: PrefixContext
    query: Query
    condition: Float[Tensor, "B E"]
    history: dict[int, KeyValue] | None = None


class Mu0Model(nn.Module):
    """Image, instruction, keypoints (and depth, history) → distribution over B-spline control points.

    Args:
        config: what to build. Weights are random; `load_pretrained` fills in published backbones.
        normalisation: scales of the corpus; may be set later (`set_normalisation`) and is stored beside the weights.
    """

    kind = "mu0"
    s_delta: Tensor
    depth_log_range: Tensor

    def __init__(self, config: Mu0Config, normalisation: Normalisation | Mapping[str, Any] | None = None):
        super().__init__()
        self.config = config
        self.conventions = conventions_of(config)
        self.target = target_of(config)
        self.prefix = _build_prefix(config, self.conventions)
        self.features = DinoFeatures(config.local, self.conventions) if config.local.source == "dino" else None
        local_channels = {
            "dino": config.local.width,
            "prefix": sum(self.prefix.map_channels),
            "none": 0,
        }[config.local.source]
        width = config.expert.width
        self.tokens = KeypointTokens(config, local_channels)
        self.expert = TraceExpert(
            width,
            config.expert.mlp_hidden,
            self.prefix.num_layers,
            self.prefix.num_heads,
            self.prefix.num_kv_heads,
            self.prefix.head_dim,
            self.prefix.rope_base,
        )
        self.time_embedding = TimeEmbedding(width)
        if config.expert.clock:
            self.clock_embedding = nn.Embedding(len(CLOCKS), width)
            nn.init.zeros_(self.clock_embedding.weight)
        if config.expert.summary:
            self.summary_proj = nn.Linear(self.prefix.summary_width, width)
        self.velocity_proj = nn.Linear(width, 3 * config.expert.control_group)
        self.validity_proj = nn.Linear(width, config.horizon)
        nn.init.zeros_(self.validity_proj.weight)
        nn.init.constant_(self.validity_proj.bias, _VALID_BIAS)
        self.register_buffer("s_delta", torch.ones(len(CLOCKS), 3), persistent=False)
        self.register_buffer("depth_log_range", torch.zeros(2), persistent=False)
        self.set_normalisation(normalisation or Normalisation())

    def set_normalisation(self, normalisation: Normalisation | Mapping[str, Any]) -> None:
        """Tell the model its corpus' scales (they are stored in config.json, not among the weights)."""
        if not isinstance(normalisation, Normalisation):
            normalisation = Normalisation.from_dict(normalisation)
        self.normalisation = normalisation
        self.s_delta.copy_(torch.from_numpy(normalisation.scale_table()))
        log_range = [normalisation.depth_log_min, normalisation.depth_log_max]
        self.depth_log_range.copy_(torch.tensor(log_range))

    def load_pretrained(self) -> None:
        """Fill the backbones with published weights from the local hub cache.

        Raises:
            MissingWeightsError: they are not on this machine; says licence and command.
            CheckpointError: they do not fit, or loading has unfrozen them.
        """
        if not isinstance(self.prefix, NanoPrefix):
            self.prefix.load_pretrained()
        if self.features is not None:
            self.features.load_pretrained()
        check_frozen(self)

    def backbones(self) -> tuple[Backbone, ...]:
        """The published parts, by hub id and (once their weights are loaded) revision; a random model has none."""
        found = []
        if not isinstance(self.prefix, NanoPrefix) and self.prefix.config.hub_id is not None:
            revision = self.prefix.config.revision or _commit(self.prefix.vlm)
            found.append(Backbone("prefix.vlm", "SmolVLMForConditionalGeneration", self.prefix.config.hub_id, revision))
        if self.features is not None:
            revision = self.config.local.revision or _commit(self.features.dino)
            found.append(Backbone("features.dino", "Dinov2Model", self.config.local.hub_id, revision))
        return tuple(found)

    def enable_gradient_checkpointing(self, on: bool = True) -> None:
        """Recompute each expert layer (and each layer of a large prefix) in the backward pass."""
        self.expert.gradient_checkpointing = on
        if not isinstance(self.prefix, NanoPrefix):
            self.prefix.gradient_checkpointing = on

    @property
    def device(self) -> torch.device:
        return self.s_delta.device

    # What is computed once per observation

    def encode(self, batch: Mapping[str, Any]) -> Prefix:
        """Per-layer keys and values of picture, depth and words: [B,kv_heads,L,head_dim] for each layer."""
        return self.prefix(batch, self.depth_log_range)

    def context(self, batch: Mapping[str, Any], prefix: Prefix) -> Context:
        """Prefix and keypoints as the denoiser needs them; shared by all samples, draws and Euler steps."""
        maps = self.features(batch) if self.features is not None else prefix.maps
        query = self.tokens.observe(batch, maps, self.s_delta, self.depth_log_range)
        condition = self._clock_condition(batch["clock"])
        if self.config.expert.summary:
            assert prefix.summary is not None, "the config promises a summary"
            condition = condition + self.summary_proj(prefix.summary)
        context = Context(self.expert.project_prefix(prefix), query, condition)
        if self.config.expert.history_time == "clean":
            context = replace(context, history=self._run_history(context, condition.new_zeros(len(condition), 1)))
        return context

    def _clock_condition(self, clock: Int[Tensor, " B"]) -> Float[Tensor, "B E"]:
        if self.config.expert.clock:
            return self.clock_embedding(clock)
        return self.s_delta.new_zeros(len(clock), self.config.expert.width)

    # The denoiser

    def denoise(
        self, noisy: Float[Tensor, "B R N D 3"], tau: Float[Tensor, "B R"], context: Context
    ) -> tuple[Float[Tensor, "B R N D 3"], Float[Tensor, "B R N H"]]:
        """Velocity noise − data at the noisy controls, and validity logits per step; R versions of each observation."""
        hidden = self.denoise_features(noisy, tau, context)
        velocity = self.velocity_proj(hidden).flatten(-2).unflatten(-1, (-1, 3))
        return velocity, self.validity_proj(hidden.mean(dim=-2))

    def denoise_features(
        self, noisy: Float[Tensor, "B R N D 3"], tau: Float[Tensor, "B R"], context: Context
    ) -> Float[Tensor, "B R N Gc E"]:
        """Final expert features of the control tokens: the motion descriptor of App. B.4 when taken at τ = 1."""
        B, R, N = noisy.shape[:3]
        query = context.query
        tokens = self.tokens.controls(noisy, query)
        condition = context.condition[:, None] + self.time_embedding(tau)
        history = context.history
        if history is None:
            history = self._run_history(context, tau)
        controls_seen = query.present.repeat_interleave(tokens.shape[2] // N, dim=1)
        mask = torch.cat([query.history_seen, controls_seen], dim=1).repeat_interleave(R, 0)[:, None]
        hidden = self.expert(tokens.flatten(0, 1), condition.flatten(0, 1), context.prefix, history, mask)
        return hidden.unflatten(0, (B, R)).unflatten(2, (N, -1))

    def _run_history(self, context: Context, tau: Float[Tensor, "B R"]) -> dict[int, KeyValue]:
        query, R = context.query, tau.shape[1]
        if not self.config.use_history:
            return {}
        condition = context.condition[:, None] + self.time_embedding(tau)
        group = torch.arange(query.history.shape[1], device=tau.device) % self.tokens.history_groups
        causal = group[None, :] <= group[:, None]
        mask = (causal & query.history_seen[:, None]).repeat_interleave(R, 0)
        tokens = query.history.repeat_interleave(R, 0)
        return self.expert.run_history(tokens, condition.flatten(0, 1), context.prefix, mask)

    # Training

    def loss(self, batch: Mapping[str, Any], generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """eq. 10 and its parts (`loss`, `flow`, `done`, `rig`), averaged over `config.loss.draws` draws of (τ, ε)."""
        options = self.config.loss
        target = self.target.of(batch)
        clean = target.points[:, None]
        shape = (len(clean), options.draws)
        tau = losses.draw_tau(shape, options.tau, generator, self.device)
        given: dict[str, Any] = (
            {} if generator is None else {"generator": generator}
        )  # None cannot be traced with sizes that vary
        noise = torch.randn((*shape, *clean.shape[2:]), device=self.device, **given)
        at = tau[..., None, None, None]
        noisy = at * noise + (1 - at) * clean  # eq. 6
        velocity, logits = self.denoise(noisy, tau, self.context(batch, self.encode(batch)))
        rebuilt = noisy - at * velocity.float()
        parts = {
            "flow": losses.flow_loss(velocity, noise - clean, target.counts),
            "done": losses.validity_loss(logits, batch["future_valid"], batch["present"]),
            "rig": losses.rigidity_loss(rebuilt, batch["part_id"], target.whole, options.rigidity),
        }
        total = parts["flow"] + options.lambda_done * parts["done"] + options.lambda_rig * parts["rig"]
        return {"loss": total, **parts}

    # Prediction

    @torch.no_grad()
    def sample(
        self,
        batch: Mapping[str, Any],
        num_samples: int,
        generator: torch.Generator | None = None,
        noise: Float[Tensor, "B S N D 3"] | None = None,
    ) -> tuple[Float[Tensor, "B S N D 3"], Float[Tensor, "B S N H"]]:
        """Control points in units of s_Δ and validity logits, S samples for each observation on one prefix.

        Args:
            noise: start from this noise instead of drawing it from `generator`.
        """
        return self.sample_from(self.context(batch, self.encode(batch)), num_samples, generator, noise)

    @torch.no_grad()
    def sample_from(
        self,
        context: Context,
        num_samples: int,
        generator: torch.Generator | None = None,
        noise: Float[Tensor, "B S N D 3"] | None = None,
    ) -> tuple[Float[Tensor, "B S N D 3"], Float[Tensor, "B S N H"]]:
        """As `sample`, from a context that is already there. Euler from τ = 1 (noise) to 0 (data)."""
        B, N = context.query.present.shape
        if noise is None:
            shape = (B, num_samples, N, self.config.num_controls, 3)
            noise = torch.randn(shape, generator=generator, device=self.device)
        controls, steps = noise, self.config.euler_steps
        for step in range(steps):
            tau = torch.full((B, num_samples), 1 - step / steps, device=self.device)
            velocity, logits = self.denoise(controls, tau, context)
            controls = controls - velocity.float() / steps
        return controls, logits.float()


def _build_prefix(config: Mu0Config, conventions: Conventions) -> NanoPrefix | SmolVLMPrefix:
    if isinstance(config.prefix, NanoPrefixConfig):
        return NanoPrefix(config.prefix, config.use_depth)
    from traceworld.models.mu0.prefix_smolvlm import SmolVLMPrefix

    return SmolVLMPrefix(config.prefix, conventions, config.use_depth)


def _commit(module: Any) -> str | None:
    """The hub's revision that was loaded into a transformers module."""
    return getattr(module.config, "_commit_hash", None)


def check_frozen(model: Mu0Model) -> None:
    """
    Raises:
        CheckpointError: a parameter of a published part would be trained.
    """
    frozen: list[nn.Module] = [model.features] if model.features is not None else []
    if not isinstance(model.prefix, NanoPrefix):
        frozen.append(model.prefix.vlm)
    loose = sum(p.numel() for part in frozen for p in part.parameters() if p.requires_grad)
    if loose:
        raise CheckpointError(f"{loose} parameters of the frozen backbones would be trained", where="Mu0Model")
