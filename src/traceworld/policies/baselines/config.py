"""The heads that the action expert is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from traceworld.errors import ConfigError


@dataclass(frozen=True)
class DiffusionHeadConfig:
    """A diffusion policy of the transformer kind (Chi et al. 2023): denoise a chunk that attends to the observation.

    Attributes:
        width, depth, heads, mlp_hidden: the decoder.
        train_steps: of the noising process. sample_steps: of the deterministic sampler (DDIM).
        clip: predicted actions are kept within ± this while sampling, in normalised units.
        draws: independent (step, noise) for each observation of a batch.
    """

    kind: Literal["diffusion"] = "diffusion"
    width: int = 192
    depth: int = 6
    heads: int = 6
    mlp_hidden: int = 768
    train_steps: int = 100
    sample_steps: int = 10
    clip: float = 5.0
    draws: int = 1

    def __post_init__(self):
        if min(self.width, self.depth, self.sample_steps, self.draws) < 1 or self.width % self.heads or self.clip <= 0:
            raise ConfigError(f"impossible settings {self}", where="head")
        if self.sample_steps > self.train_steps:
            raise ConfigError(f"more than the {self.train_steps} of training", where="head.sample_steps")


@dataclass(frozen=True)
class RegressionHeadConfig:
    """A policy of ACT's kind (Zhao et al. 2023): a conditional VAE whose decoder gives the whole chunk at once.

    Attributes:
        width, heads, mlp_hidden: of all transformers.
        encoder_layers, decoder_layers, style_layers: over the observation, of the chunk, over the shown actions.
        latent: numbers of the style. kl_weight: of its divergence from N(0, I).
        dropout: in all layers.
    """

    kind: Literal["act"] = "act"
    width: int = 192
    heads: int = 6
    mlp_hidden: int = 768
    encoder_layers: int = 2
    decoder_layers: int = 3
    style_layers: int = 2
    latent: int = 32
    kl_weight: float = 10.0
    dropout: float = 0.1

    def __post_init__(self):
        if min(self.width, self.encoder_layers, self.decoder_layers, self.style_layers, self.latent) < 1:
            raise ConfigError(f"impossible settings {self}", where="head")
        if self.width % self.heads or not 0 <= self.dropout < 1:
            raise ConfigError(f"impossible settings {self}", where="head")
