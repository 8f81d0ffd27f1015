"""Guided attention: a base that can point learns to say where, by being shown where to look while it says it.

While an answer says a coordinate, a head of each of a few layers shall look at the cell of the picture that holds the point: one
head for u, one for v, one for d, so that what each has to copy is always the same. The
loss is the mean of −log of its attention there. Ours, for a base from scratch: next-token prediction alone leaves the first point of
an answer blind for thousands of steps (docs/log.md); a published base has learned to look from the web. Nothing of it is left
in the model that is trained.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from traceworld.errors import ConfigError
from traceworld.models.robotracer.model import RoboTracer
from traceworld.models.robotracer.nano_words import coordinate_ids
from traceworld.models.robotracer.processor import RoboTracerProcessor

LAYERS = (-2, -1)
"""Of the language model: the last two."""
_NONE, _U, _V, _D = range(4)
_LEAST = 1e-4
"""Added to an attention: none shall not cost infinitely much."""


class Looks(NamedTuple):
    """Who shall look where: rows of a batch, heads, positions of tokens that say the next coordinate, cells of the picture."""

    row: Int[Tensor, " K"]
    head: Int[Tensor, " K"]
    token: Int[Tensor, " K"]
    cell: Int[Tensor, " K"]


class Guide:
    """Watches the attention of a base.

    Args:
        tracer: of InternVL's family, whose picture is one square of cells, row by row.
        processor: its own, with the tokenizer of `nano_words`.

    Raises:
        ConfigError: it is of another family, or speaks of coordinates in other words.
    """

    def __init__(self, tracer: RoboTracer, processor: RoboTracerProcessor):
        if tracer.family.name != "internvl":
            raise ConfigError(
                f"pictures of {tracer.family.name} are no square of cells", where="guide", mend="set it to 0"
            )
        base: Any = tracer.vlm
        layers = base.model.language_model.layers
        self.watched = [layers[number].self_attn for number in LAYERS]
        self.image_id = processor.image_id
        size = base.get_input_embeddings().weight.shape[0]
        self.role, self.place = torch.zeros(size, dtype=torch.long), torch.zeros(size)
        for name, role in (("first_u", _U), ("u", _U), ("v", _V), ("d", _D)):
            ids, places = coordinate_ids(processor.tokenizer, name)
            self.role[ids], self.place[ids] = role, places
        self.seen: list[Tensor] = []

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Within the block a forward pass leaves its attention here."""
        self.seen = []
        hooks = [layer.register_forward_hook(lambda _m, _i, out: self.seen.append(out[1])) for layer in self.watched]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def looks(self, input_ids: Int[Tensor, "B L"], labels: Int[Tensor, "B L"]) -> Looks:
        """Where a batch shall look: for u, v and d of every point that is learned, at the cell of (u, v)."""
        learned = labels.clamp(min=0)
        role = self.role.to(labels.device)[learned] * (labels >= 0)
        place = self.place.to(labels.device)[learned]
        row, at = ((role[:, :-1] == _U) & (role[:, 1:] == _V)).nonzero().unbind(-1)
        side = math.isqrt(int((input_ids[0] == self.image_id).sum()))
        column, line = ((place[row, at + k] * side).long().clamp(max=side - 1) for k in (0, 1))
        cell = line * side + column
        third = role[row, (at + 2).clamp(max=role.shape[1] - 1)] == _D
        near, row_d, cell_d = at[third], row[third], cell[third]
        heads = torch.repeat_interleave(torch.arange(3), torch.tensor([len(at), len(at), len(near)]))
        return Looks(
            torch.cat([row, row, row_d]),
            heads.to(row.device),
            torch.cat([at - 1, at, near + 1]),
            torch.cat([cell, cell, cell_d]),
        )

    def loss(self, input_ids: Int[Tensor, "B L"], labels: Int[Tensor, "B L"]) -> Float[Tensor, ""]:
        """Mean of −log of the attention, after a pass that was watched; 0 if no answer of the batch has a point.

        Raises:
            ConfigError: the base's attention was not written out, so there is nothing to see.
        """
        if not self.seen or any(attention is None for attention in self.seen):
            raise ConfigError(
                "the base keeps its attention to itself", where="guide", mend="set_attn_implementation('eager')"
            )
        looks = self.looks(input_ids, labels)
        if not len(looks.row):
            return self.seen[0].new_zeros((), dtype=torch.float32)
        # cells stand in one piece, as many in every row
        first = (input_ids == self.image_id).int().argmax(1)
        target = first[looks.row] + looks.cell
        there = [attention[looks.row, looks.head, looks.token, target] for attention in self.seen]
        return -torch.stack(there).float().add(_LEAST).log().mean()
