"""The action expert proper (mu0-paper B.4): π0.5's self-attention over observation and noisy actions, and the flow of eq. 12."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from traceworld.models.blocks.embeddings import TimeEmbedding
from traceworld.models.blocks.rotary import rotary_angles
from traceworld.models.mu0.losses import draw_tau, masked_mean
from traceworld.policies.action_expert.config import FlowHeadConfig
from traceworld.policies.action_expert.expert_layers import AdaRMSNorm, ExpertLayer, KeyValue
from traceworld.policies.action_expert.flow import noisy_actions, velocity_target
from traceworld.policies.action_expert.stems import Tokens


@dataclass(frozen=True)
class Memory:
    """The tokens of an observation as the actions see them: keys and values per layer, which are there, and how many."""

    layers: tuple[KeyValue, ...]
    seen: Bool[Tensor, "B L"]
    count: Int[Tensor, " B"]


class FlowHead(nn.Module):
    """Velocity of noisy action chunks, given an observation.

    The tokens of the observation see each other and no action; actions see everything of their own chunk. Without
    `prefix_sees_time` the former are the same at every Euler step, and are computed once.
    """

    def __init__(self, config: FlowHeadConfig, action_dim: int):
        super().__init__()
        self.config = config
        width = config.width
        self.layers = nn.ModuleList(
            ExpertLayer(width, config.heads, config.kv_heads, config.head_dim, config.mlp_hidden)
            for _ in range(config.depth)
        )
        self.norm = AdaRMSNorm(width)
        self.time_embedding = TimeEmbedding(width, sinusoid_dim=width)
        self.action_in = nn.Linear(action_dim, width)
        self.action_out = nn.Linear(width, action_dim)

    def read(self, tokens: Tokens, condition: Float[Tensor, "B W"] | None = None) -> Memory:
        """Run the tokens of an observation through the layers that update them."""
        x, layers = tokens.x, []
        angles = self._angles((tokens.seen.cumsum(1) - 1).clamp(min=0))
        updating = min(self.config.prefix_layers, self.config.depth - 1)  # nothing reads them after the last layer
        for index, layer in enumerate(self._blocks):
            if index < updating:
                x, own = layer(x, condition, angles, tokens.seen[:, None])
            else:
                own = layer.keys_values(x, condition, angles)
            layers.append(own)
        return Memory(tuple(layers), tokens.seen, tokens.seen.sum(1))

    def velocity(
        self,
        noisy: Float[Tensor, "B R K A"],
        tau: Float[Tensor, "B R"],
        tokens: Tokens,
        memory: Memory | None = None,
        known: Bool[Tensor, "B K"] | None = None,
    ) -> Float[Tensor, "B R K A"]:
        """Noise − actions at the noisy actions.

        Args:
            memory: of `read`, if it is there already.
            known: actions that are there; the others, past the end of an episode, are seen by themselves alone. None: all.
        """
        B, R, K = noisy.shape[:3]
        condition = self._condition(tau)
        if known is None:
            known = torch.ones(B, K, dtype=torch.bool, device=noisy.device)
        if self.config.prefix_sees_time:
            each, memory = condition.flatten(0, 1), self.read(tokens.repeated(R), condition.flatten(0, 1))
            found = self._decode(noisy.flatten(0, 1)[:, None], each[:, None], memory, known.repeat_interleave(R, 0))
            return found.view(B, R, K, -1)
        return self._decode(noisy, condition, memory or self.read(tokens), known)

    def loss(
        self,
        tokens: Tokens,
        actions: Float[Tensor, "B K A"],
        known: Bool[Tensor, "B K"],
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """eq. 12 as a mean over the known actions, their numbers, and `draws` draws of (τ, ε)."""
        shape = (len(actions), self.config.draws)
        tau = draw_tau(shape, self.config.tau, generator, actions.device)
        noise = torch.randn((*shape, *actions.shape[1:]), generator=generator, device=actions.device)
        noisy = noisy_actions(actions[:, None], noise, tau)
        found = self.velocity(noisy, tau, tokens, known=known).float()
        error = (found - velocity_target(actions[:, None], noise)).square().mean(-1)
        return {"loss": masked_mean(error, known[:, None].expand_as(error))}

    def shares(self, known: Bool[Tensor, "B K"]) -> dict[str, tuple[float, float]]:
        """What each term of the loss is a mean over (`training.registry.Shares`)."""
        return {"loss": (1.0, float(known.sum()))}

    @torch.no_grad()
    def sample(
        self,
        tokens: Tokens,
        noise: Float[Tensor, "B K A"],
        committed: Float[Tensor, "B J A"] | None = None,
    ) -> Float[Tensor, "B K A"]:
        """Euler from τ = 1 (noise) to 0 (actions).

        Args:
            committed: the first J actions, if they are settled: along the way they are put where the path to them is
                (inpainting), so that the rest goes on from them.
        """
        steps, x = self.config.euler_steps, noise
        memory = None if self.config.prefix_sees_time else self.read(tokens)
        for step in range(steps):
            tau = torch.full((len(x), 1), 1 - step / steps, device=x.device)
            velocity = self.velocity(x[:, None], tau, tokens, memory)[:, 0].float()
            x = x - velocity / steps
            if committed is not None:
                after = torch.full_like(tau, 1 - (step + 1) / steps)
                settled = noisy_actions(committed[:, None], noise[:, None, : committed.shape[1]], after)[:, 0]
                x = torch.cat([settled, x[:, committed.shape[1] :]], dim=1)
        return x

    def _decode(
        self,
        noisy: Float[Tensor, "B R K A"],
        condition: Float[Tensor, "B R W"],
        memory: Memory,
        known: Bool[Tensor, "B K"],
    ) -> Float[Tensor, "B R K A"]:
        R, K = noisy.shape[1:3]
        x = self.action_in(noisy)
        chunk = torch.arange(R, device=x.device).repeat_interleave(K)
        itself = torch.eye(R * K, dtype=torch.bool, device=x.device)
        own = (chunk[:, None] == chunk[None]) & known.repeat(1, R)[:, None] | itself
        mask = torch.cat([memory.seen[:, None].expand(-1, R * K, -1), own], dim=2)
        angles = self._angles(memory.count[:, None] + torch.arange(K, device=x.device).repeat(R))
        for layer, seen in zip(self._blocks, memory.layers, strict=True):
            x, _ = layer(x, condition, angles, mask, seen)
        return self.action_out(self.norm(x, condition)[0].float())

    def _condition(self, tau: Float[Tensor, "B R"]) -> Float[Tensor, "B R W"]:
        return F.silu(self.time_embedding(tau))

    def _angles(self, positions: Int[Tensor, "B L"]) -> KeyValue:
        cos, sin = rotary_angles(positions, self.config.head_dim, self.config.rope_base)
        return cos, sin

    @property
    def _blocks(self) -> list[ExpertLayer]:
        return cast(list[ExpertLayer], list(self.layers))
