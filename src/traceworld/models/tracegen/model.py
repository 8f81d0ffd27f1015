"""The whole TraceGen: condition, decoder, flow objective on grid increments, sampler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from traceworld.models.backbones import Backbone
from traceworld.models.normalisation import CLOCKS, Normalisation
from traceworld.models.tracegen.condition import Condition, ConditionEncoder
from traceworld.models.tracegen.condition_nano import NanoCondition
from traceworld.models.tracegen.config import TraceGenConfig
from traceworld.models.tracegen.conventions import Conventions, conventions_of
from traceworld.models.tracegen.decoder import TraceDecoder
from traceworld.models.tracegen.grid import increments

if TYPE_CHECKING:
    from traceworld.models.tracegen.condition_hub import HubCondition

_NULL_STD = 0.01


class TraceGenModel(nn.Module):
    """Image, instruction (and depth) → distribution over the increments of a fixed grid of image points.

    Args:
        config: what to build. Weights are random; `load_pretrained` fills in the published encoders.
        normalisation: scales of the corpus; may be set later (`set_normalisation`) and is stored beside the weights.
    """

    kind = "tracegen"
    s_delta: Tensor
    depth_log_range: Tensor

    def __init__(self, config: TraceGenConfig, normalisation: Normalisation | Mapping[str, Any] | None = None):
        super().__init__()
        self.config = config
        self.conventions = conventions_of(config)
        self.grid = self.conventions.grid()
        self.condition = _build_condition(config, self.conventions)
        encoder = cast(ConditionEncoder, self.condition)
        self.decoder = TraceDecoder(config, encoder.width, encoder.image_grid)
        self.null_condition = nn.Parameter(torch.randn(1, encoder.max_tokens, encoder.width) * _NULL_STD)
        self.register_buffer("s_delta", torch.ones(len(CLOCKS), 3), persistent=False)
        self.register_buffer("depth_log_range", torch.zeros(2), persistent=False)
        self.set_normalisation(normalisation or Normalisation())

    def set_normalisation(self, normalisation: Normalisation | Mapping[str, Any]) -> None:
        """Tell the model its corpus' scales (they are stored in config.json, not among the weights)."""
        if not isinstance(normalisation, Normalisation):
            normalisation = Normalisation.from_dict(normalisation)
        self.normalisation = normalisation
        self.s_delta.copy_(torch.from_numpy(normalisation.scale_table()))
        self.depth_log_range.copy_(torch.tensor([normalisation.depth_log_min, normalisation.depth_log_max]))

    def load_pretrained(self) -> None:
        """Fill the frozen encoders with published weights from the local hub cache.

        Raises:
            MissingWeightsError: they are not on this machine; says licences and commands.
        """
        if not isinstance(self.condition, NanoCondition):
            self.condition.load_pretrained()

    def backbones(self) -> tuple[Backbone, ...]:
        """The published parts, by hub id and (once their weights are loaded) revision."""
        return () if isinstance(self.condition, NanoCondition) else self.condition.backbones("condition")

    def enable_gradient_checkpointing(self, on: bool = True) -> None:
        """Recompute each decoder layer in the backward pass."""
        self.decoder.gradient_checkpointing = on

    @property
    def device(self) -> torch.device:
        return self.s_delta.device

    # What is computed once per observation

    def encode(self, batch: Mapping[str, Any]) -> Condition:
        """Picture, depth and words as tokens."""
        return self.condition(batch, self.depth_log_range)

    def target(
        self, batch: Mapping[str, Any]
    ) -> tuple[Float[Tensor, "B H side side 3"], Float[Tensor, "B H side side"]]:
        """The batch's keypoints on the grid: increments in network units, and how much keypoint is behind each (0: none)."""
        scale = self.s_delta[batch["clock"]][:, None, None]
        anchor = torch.where(batch["present"][..., None], batch["anchor_uvz"], 0)[:, :, None]
        path = torch.where(batch["future_valid"][..., None], batch["future"], 0) * scale + anchor
        path = self.conventions.positions(path)
        step, known = increments(path - self.conventions.positions(anchor), batch["future_valid"])
        matrix = self.grid.weights(anchor[:, :, 0, :2])
        values = self.conventions.to_network(step, scale)
        return self.grid.splat(matrix, values, known & batch["present"][..., None])

    # The denoiser

    def velocity(
        self,
        noisy: Float[Tensor, "R H side side 3"],
        tau: Float[Tensor, " R"],
        condition: Condition,
        clock: Int[Tensor, " R"],
    ) -> Float[Tensor, "R H side side 3"]:
        """noise − data at the noisy increments."""
        mask = self.conventions.words_seen(condition.mask)
        return self.decoder(noisy, 100 * tau, condition.tokens, mask, clock)

    def guided_velocity(
        self,
        noisy: Float[Tensor, "R H side side 3"],
        tau: Float[Tensor, " R"],
        condition: Condition,
        unconditional: Condition | None,
        clock: Int[Tensor, " R"],
    ) -> Float[Tensor, "R H side side 3"]:
        """Classifier-free guidance, v = v_u + g (v_c − v_u); without an unconditional input v_c alone."""
        with_condition = self.velocity(noisy, tau, condition, clock)
        if unconditional is None:
            return with_condition
        without = self.velocity(noisy, tau, unconditional, clock)
        return without + self.config.guidance * (with_condition - without)

    # Training

    def loss(self, batch: Mapping[str, Any], generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """The flow loss, and `covered`: the share of the grid that had a keypoint."""
        clean, weight = self.target(batch)
        tau = self.conventions.draw_tau(len(clean), generator, self.device)
        noise = torch.randn(clean.shape, generator=generator, device=self.device)
        at = tau[:, None, None, None, None]
        noisy = (1 - at) * clean + at * noise
        condition = self._drop(self.encode(batch), generator)
        velocity = self.velocity(noisy, tau, condition, batch["clock"])
        loss = self.conventions.mean_error(velocity, noise - clean, weight)
        return {"loss": loss, "covered": (weight > 0).float().mean()}

    def loss_weight(self, batch: Mapping[str, Any]) -> float:
        """What the loss of this batch is a mean over: several processes weigh their means by it."""
        fields = ("anchor_uvz", "present", "future", "future_valid", "clock")
        _, weight = self.target({name: batch[name].to(self.device) for name in fields})
        return float(self.conventions.total_weight(weight))

    def _drop(self, condition: Condition, generator: torch.Generator | None) -> Condition:
        """In training, some observations' condition gives way to the null tokens, all of them visible."""
        if not self.training or not self.config.condition_drop:
            return condition
        drawn = torch.rand(len(condition.mask), generator=generator, device=self.device)
        dropped = drawn < self.config.condition_drop
        null = self.conventions.unconditional(condition.tokens, self.null_condition, generator)
        return Condition(
            torch.where(dropped[:, None, None], null.to(condition.tokens.dtype), condition.tokens),
            condition.mask | dropped[:, None],
        )

    # Prediction

    @torch.no_grad()
    def sample(
        self,
        batch: Mapping[str, Any],
        num_samples: int,
        generator: torch.Generator | None = None,
        noise: Float[Tensor, "B S H side side 3"] | None = None,
    ) -> Float[Tensor, "B S H side side 3"]:
        """Increments of the grid in network units, S samples for each observation.

        Args:
            batch: an observation with its keypoints; they say which grid points are asked for.
            noise: start from this noise instead of drawing it from `generator`.
        """
        return self.sample_from(self.encode(batch), batch, num_samples, generator, noise)

    @torch.no_grad()
    def sample_from(
        self,
        condition: Condition,
        batch: Mapping[str, Any],
        num_samples: int,
        generator: torch.Generator | None = None,
        noise: Float[Tensor, "B S H side side 3"] | None = None,
    ) -> Float[Tensor, "B S H side side 3"]:
        """As `sample`, from a condition that is already there."""
        B, side = len(condition.mask), self.grid.side
        unconditional = None
        if self.config.guidance != 1:
            tokens = self.conventions.unconditional(condition.tokens, self.null_condition, generator)
            unconditional = Condition(tokens, torch.ones_like(condition.mask))
        if noise is None:
            shape = (B, num_samples, self.config.horizon, side, side, 3)
            noise = torch.randn(shape, generator=generator, device=self.device)
        start = noise.flatten(0, 1)
        asked = self._asked(batch).repeat_interleave(num_samples, 0)[:, None, ..., None]
        condition, unconditional = _repeat(condition, num_samples), _repeat(unconditional, num_samples)
        clock = batch["clock"].repeat_interleave(num_samples, 0)
        x = start
        for tau, step in self.conventions.schedule(self.config.euler_steps):
            now = torch.full((len(x),), tau, device=self.device)
            x = x - step * self.guided_velocity(x, now, condition, unconditional, clock).float()
            x = torch.where(asked, x, (tau - step) * start)
        return x.unflatten(0, (B, num_samples))

    def _asked(self, batch: Mapping[str, Any]) -> Bool[Tensor, "B side side"]:
        """Grid points that the keypoints touch; all of them if none is held still."""
        side, rows = self.grid.side, len(batch["anchor_uvz"])
        if not self.conventions.holds_unasked:
            return torch.ones(rows, side, side, dtype=torch.bool, device=self.device)
        touched = (self.grid.weights(batch["anchor_uvz"][..., :2]) > 0) & batch["present"][..., None]
        return touched.any(dim=1).unflatten(1, (side, side))


def _repeat(condition: Any, count: int) -> Any:
    if condition is None:
        return None
    return Condition(condition.tokens.repeat_interleave(count, 0), condition.mask.repeat_interleave(count, 0))


def _build_condition(config: TraceGenConfig, conventions: Conventions) -> NanoCondition | HubCondition:
    if config.nano is not None:
        return NanoCondition(config.nano)
    from traceworld.models.tracegen.condition_hub import HubCondition

    assert config.encoders is not None
    return HubCondition(config.encoders, conventions)
