"""Where our tokens enter the language model and where the scale is read: two hooks for the length of one call.

The words go in as ids, so every family counts positions, masks and caches as it always does; when the embedding layer has
looked them up, the rows of `<spatial>` and `<SCALE>` are replaced. The state at `<SCALE>` is taken from the language model's last
layer. This is the same in training and generation, where it happens once, when the prompt is read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from traceworld.errors import InvalidInputError


class Tapped:
    """What goes in and comes out during one call.

    Args:
        spatial_id, scale_id: token ids.
        spatial: features for the `<spatial>` tokens of each sample; None: there are none.
        scale: the embedding of `<SCALE>`.

    Attributes:
        state: the language model's state at `<SCALE>` [B',C], once it has read the prompt; B' is B, or B times the number of
            answers asked for at once.
    """

    def __init__(
        self, spatial_id: int, scale_id: int, spatial: Float[Tensor, "B L C"] | None, scale: Float[Tensor, " C"]
    ):
        self.spatial_id, self.scale_id = spatial_id, scale_id
        self.spatial, self.scale = spatial, scale
        self.state: Float[Tensor, "Bn C"] | None = None
        self._at: Tensor | None = None

    def insert(self, _module: nn.Module, inputs: tuple[Any, ...], embedded: Tensor) -> Tensor:
        """Hook of the embedding layer."""
        ids: Tensor = inputs[0]
        if ids.dim() != 2:
            return embedded
        at_spatial, at_scale = ids == self.spatial_id, ids == self.scale_id
        if not (at_spatial | at_scale).any():
            return embedded
        self._at = _one_per_row(at_scale)
        embedded = torch.where(at_scale[..., None], self.scale.to(embedded.dtype), embedded)
        given = 0 if self.spatial is None else self.spatial.shape[1]
        if not bool((at_spatial.sum(1) == given).all()):
            raise InvalidInputError(
                f"{sorted(set(at_spatial.sum(1).tolist()))} spatial tokens in the samples, {given} features each",
                where="input_ids",
                mend="build the batch with this model's processor, and give its geometry",
            )
        if self.spatial is None:
            return embedded
        if len(ids) % len(self.spatial):
            raise InvalidInputError(f"{len(ids)} rows, geometry of {len(self.spatial)}", where="geometry")
        features = self.spatial.repeat_interleave(len(ids) // len(self.spatial), dim=0)
        return embedded.masked_scatter(at_spatial[..., None], features.to(embedded.dtype))

    def read(self, _module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
        """Hook of the model without its language head."""
        if self._at is not None:
            hidden = output[0]
            self.state = hidden[torch.arange(len(hidden), device=hidden.device), self._at]
            self._at = None


@contextlib.contextmanager
def tapped(embedding: nn.Module, body: nn.Module, tap: Tapped) -> Iterator[Tapped]:
    """Within the block the two modules of a model work through `tap`."""
    handles = [embedding.register_forward_hook(tap.insert), body.register_forward_hook(tap.read)]
    try:
        yield tap
    finally:
        for handle in handles:
            handle.remove()


def _one_per_row(found: Tensor) -> Tensor:
    if not bool((found.sum(1) == 1).all()):
        raise InvalidInputError(
            "not exactly one <SCALE> per sample", where="input_ids", mend="build the batch with this model's processor"
        )
    return found.long().argmax(1)
