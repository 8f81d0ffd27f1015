"""The size dial: `nano`, and layers × heads of the released configs: `4x8`, `6x12` (the published one, 0.67B), `12x16`."""

from __future__ import annotations

import difflib

from traceworld.errors import ConfigError
from traceworld.models.mu0.config import NanoPrefixConfig
from traceworld.models.tracegen.config import DecoderConfig, HubEncodersConfig, TraceGenConfig


def _full(layers: int, heads: int) -> TraceGenConfig:
    decoder = DecoderConfig(layers=layers, heads=heads)
    return TraceGenConfig(size=f"{layers}x{heads}", decoder=decoder, encoders=HubEncodersConfig())


_SIZES = {
    # Trained from scratch on a CPU: μ0-nano's stems and words, and patches of 16 steps, so that the joint sequence is 200 trace
    # tokens long and not 1,600.
    "nano": TraceGenConfig(
        size="nano",
        decoder=DecoderConfig(layers=4, heads=6, head_dim=32, time_width=96, patch_time=16, image_positions=True),
        nano=NanoPrefixConfig(layers=2),
    ),
    "4x8": _full(4, 8),
    "6x12": _full(6, 12),
    "12x16": _full(12, 16),
}
SIZES = tuple(_SIZES)


def tracegen_config(size: str) -> TraceGenConfig:
    """The config of a named size; `dataclasses.replace` it for variants.

    Raises:
        ConfigError: no such size; names the nearest.
    """
    if size not in _SIZES:
        near = difflib.get_close_matches(size, _SIZES, n=1, cutoff=0.3)
        raise ConfigError(
            f"no TraceGen size is called '{size}', there are {', '.join(_SIZES)}",
            where="size",
            mend=f"did you mean '{near[0]}'?" if near else None,
        )
    return _SIZES[size]
