"""A policy of ACT's kind (Zhao et al. 2023), as small as it is honest: a conditional VAE that gives the whole chunk at once.

In training a style is read off the demonstrated chunk; what it may say is taxed by its divergence from N(0, I). When acting the
style is 0. The loss of the actions is their mean absolute error, as published.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from traceworld.models.mu0.losses import masked_mean
from traceworld.policies.action_expert.stems import Tokens
from traceworld.policies.baselines.config import RegressionHeadConfig


class RegressionHead(nn.Module):
    """Actions from an observation and a style."""

    def __init__(self, config: RegressionHeadConfig, action_dim: int, chunk: int):
        super().__init__()
        self.config = config
        width = config.width

        def encoder(layers: int) -> nn.TransformerEncoder:
            layer = nn.TransformerEncoderLayer(
                width, config.heads, config.mlp_hidden, config.dropout, "relu", batch_first=True, norm_first=True
            )
            return nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)

        self.style_encoder, self.encoder = encoder(config.style_layers), encoder(config.encoder_layers)
        layer = nn.TransformerDecoderLayer(
            width, config.heads, config.mlp_hidden, config.dropout, "relu", batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, config.decoder_layers, nn.LayerNorm(width))
        self.style_query = nn.Parameter(torch.randn(1, width) * 0.02)
        self.style_place = nn.Parameter(torch.randn(chunk, width) * 0.02)
        self.style_out = nn.Linear(width, 2 * config.latent)
        self.style_in = nn.Linear(config.latent, width)
        self.queries = nn.Parameter(torch.randn(chunk, width) * 0.02)
        self.action_in = nn.Linear(action_dim, width)
        self.action_out = nn.Linear(width, action_dim)
        for part in (self.style_encoder, self.encoder, self.decoder):  # the layers are copies of one
            for parameter in part.parameters():
                if parameter.ndim > 1:
                    nn.init.xavier_uniform_(parameter)

    def decode(self, tokens: Tokens, style: Float[Tensor, "B Z"], length: int) -> Float[Tensor, "B K A"]:
        """The chunk of a style."""
        x = torch.cat([tokens.x, self.style_in(style)[:, None].to(tokens.x.dtype)], dim=1)
        hidden = torch.cat([~tokens.seen, torch.zeros_like(tokens.seen[:, :1])], dim=1)
        memory = self.encoder(x, src_key_padding_mask=hidden)
        queries = self.queries[:length].expand(len(x), -1, -1)
        return self.action_out(self.decoder(queries, memory, memory_key_padding_mask=hidden).float())

    def style(
        self, tokens: Tokens, actions: Float[Tensor, "B K A"], known: Bool[Tensor, "B K"]
    ) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the style of a chunk; the state is the last of the observation's tokens."""
        shown = self.action_in(actions) + self.style_place[: actions.shape[1]]
        query = self.style_query.expand(len(actions), -1, -1)
        hidden = torch.cat([torch.zeros_like(known[:, :2]), ~known], dim=1)
        x = torch.cat([query, tokens.x[:, -1:].to(shown.dtype), shown], dim=1)
        mean, log_variance = self.style_out(self.style_encoder(x, src_key_padding_mask=hidden)[:, 0].float()).chunk(
            2, -1
        )
        return mean, log_variance

    def loss(
        self,
        tokens: Tokens,
        actions: Float[Tensor, "B K A"],
        known: Bool[Tensor, "B K"],
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Mean absolute error over the known actions, and the style's divergence (a sum over its numbers)."""
        mean, log_variance = self.style(tokens, actions, known)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        found = self.decode(tokens, mean + (log_variance / 2).exp() * noise, actions.shape[1])
        error = masked_mean((found.float() - actions).abs().mean(-1), known)
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(-1).mean()
        return {"loss": error + self.config.kl_weight * divergence, "l1": error, "kl": divergence}

    def shares(self, known: Bool[Tensor, "B K"]) -> dict[str, tuple[float, float]]:
        """What each term of the loss is a mean over (`training.registry.Shares`)."""
        return {"l1": (1.0, float(known.sum())), "kl": (self.config.kl_weight, float(len(known)))}

    @torch.no_grad()
    def sample(
        self,
        tokens: Tokens,
        noise: Float[Tensor, "B K A"],
        committed: Float[Tensor, "B J A"] | None = None,
    ) -> Float[Tensor, "B K A"]:
        """The chunk of the mean style. It is given at once, so nothing random happens and nothing can be settled before."""
        return self.decode(tokens, tokens.x.new_zeros(len(noise), self.config.latent), noise.shape[1])
