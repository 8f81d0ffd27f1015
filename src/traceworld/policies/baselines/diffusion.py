"""A diffusion policy of the transformer kind (Chi et al. 2023, "time-series diffusion transformer"), as small as it is honest.

A decoder layer lets the noisy actions see each other (causally, as published), then the observation and the noising step.
Training predicts the noise of the cosine schedule (Nichol and Dhariwal 2021); actions are sampled by DDIM without added noise.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from traceworld.models.blocks.embeddings import TimeEmbedding
from traceworld.models.mu0.losses import masked_mean
from traceworld.policies.action_expert.stems import Tokens
from traceworld.policies.baselines.config import DiffusionHeadConfig

_LARGEST_BETA = 0.999


def cosine_signal(steps: int) -> Float[Tensor, " steps"]:
    """ᾱ of the cosine schedule: the share of the signal's power after noising step 0, 1, …"""
    at = torch.arange(steps + 1, dtype=torch.float64) / steps
    power = torch.cos((at + 0.008) / 1.008 * math.pi / 2) ** 2
    return torch.cumprod((power[1:] / power[:-1]).clamp(min=1 - _LARGEST_BETA), 0).float()


class DiffusionHead(nn.Module):
    """Noise in a noisy chunk, given an observation."""

    signal: Tensor

    def __init__(self, config: DiffusionHeadConfig, action_dim: int, chunk: int):
        super().__init__()
        self.config = config
        layer = nn.TransformerDecoderLayer(
            config.width, config.heads, config.mlp_hidden, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, config.depth, nn.LayerNorm(config.width))
        self.time_embedding = TimeEmbedding(config.width)
        self.place = nn.Parameter(torch.randn(chunk, config.width) * 0.02)
        self.action_in = nn.Linear(action_dim, config.width)
        self.action_out = nn.Linear(config.width, action_dim)
        self.register_buffer("signal", cosine_signal(config.train_steps), persistent=False)
        for parameter in self.decoder.parameters():  # the layers are copies of one: each gets weights of its own
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def noise_in(self, noisy: Float[Tensor, "B K A"], step: Tensor, tokens: Tokens) -> Float[Tensor, "B K A"]:
        """The noise that the head sees in a chunk after noising step `step` [B]."""
        time = self.time_embedding((step + 1) / self.config.train_steps)[:, None]
        memory = torch.cat([tokens.x, time.to(tokens.x.dtype)], dim=1)
        seen = torch.cat([tokens.seen, torch.ones_like(tokens.seen[:, :1])], dim=1)
        x = self.action_in(noisy) + self.place[: noisy.shape[1]]
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        return self.action_out(self.decoder(x, memory, tgt_mask=later, memory_key_padding_mask=~seen).float())

    def loss(
        self,
        tokens: Tokens,
        actions: Float[Tensor, "B K A"],
        known: Bool[Tensor, "B K"],
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Mean squared error of the noise over the known actions."""
        draws = self.config.draws
        shape = (len(actions), draws)
        uniform = torch.rand(shape, generator=generator, device=actions.device)
        noise = torch.randn((*shape, *actions.shape[1:]), generator=generator, device=actions.device).flatten(0, 1)
        step = (uniform * self.config.train_steps).long().clamp(max=self.config.train_steps - 1).flatten()
        power = self.signal[step][:, None, None]
        clean = actions.repeat_interleave(draws, 0)
        noisy = power.sqrt() * clean + (1 - power).sqrt() * noise
        error = (self.noise_in(noisy, step, tokens.repeated(draws)).float() - noise).square().mean(-1)
        return {"loss": masked_mean(error, known.repeat_interleave(draws, 0))}

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
        """DDIM from `noise`; `committed` actions are put where the path to them is, as in `FlowHead.sample`."""
        last = self.config.train_steps - 1
        steps = torch.linspace(last, 0, self.config.sample_steps).round().long().tolist()
        x = noise
        for step, after in zip(steps, [*steps[1:], None], strict=True):
            power = self.signal[step]
            found = self.noise_in(x, torch.full((len(x),), step, device=x.device), tokens).float()
            clean = ((x - (1 - power).sqrt() * found) / power.sqrt()).clamp(-self.config.clip, self.config.clip)
            found = (x - power.sqrt() * clean) / (1 - power).sqrt()
            then = self.signal[after] if after is not None else torch.ones_like(power)
            x = then.sqrt() * clean + (1 - then).sqrt() * found
            if committed is not None:
                J = committed.shape[1]
                settled = then.sqrt() * committed + (1 - then).sqrt() * noise[:, :J]
                x = torch.cat([settled, x[:, J:]], dim=1)
        return x
