"""The loss as a module that torch can wrap (DDP, FSDP2, compile), and FSDP2: parameters, gradients and optimiser state cut
over the ranks.

What is cut together is declared by the model kind (`ModelKind.units`). A unit must run on every rank in every step, since
its parameters are gathered when it starts; what runs only for some windows (the stem of an absent depth) belongs to the
root. Frozen parameters stay whole: they have neither gradient nor optimiser state, and their backward pass may differ
between ranks.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from traceworld.training.distributed import World

Factors = Mapping[str, float] | None


class LossModule(nn.Module):
    """`model.loss` as a forward pass: the terms weighed by `factors`, or the model's own sum without them.

    Args:
        model: a `TrainableModel`.
        compiled: run its loss through torch.compile. Its noise is then drawn by torch's own generator, which is seeded from
            the one of the step: generators cannot be traced.
    """

    def __init__(self, model: Any, compiled: bool = False):
        super().__init__()
        self.model, self.compiled = model, compiled
        self._loss = model.loss
        if compiled:
            # How many pairs share a part, and how many windows have depth, is known only while the batch is worked on.
            torch._dynamo.config.capture_dynamic_output_shape_ops = True
            self._loss = torch.compile(model.loss, dynamic=True)

    def forward(
        self, batch: Mapping[str, Any], generator: torch.Generator, factors: Factors
    ) -> tuple[Tensor, dict[str, Tensor]]:
        parts = self._loss(batch, None if self.compiled else generator)
        if factors is None:
            return parts["loss"], parts
        weighed = [parts[name] * factor for name, factor in factors.items()]
        return torch.stack(weighed).sum(), parts


class ShardedLoss(LossModule):
    """A `LossModule` in which every rank gives every root parameter a gradient, if only zero: FSDP2 adds up what ranks
    hold, and ranks that hold different sets would add up different things. `forget_unused` takes those back that no rank
    used, so that the optimiser leaves them alone, as it does on one process."""

    def __init__(self, model: Any):
        super().__init__(model)
        self._root: list[str] = []
        self._used: set[str] = set()

    def forward(
        self, batch: Mapping[str, Any], generator: torch.Generator, factors: Factors
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss, parts = super().forward(batch, generator, factors)
        if loss.grad_fn is None:
            return loss, parts
        found = _leaves(loss)
        root = {n: p for n, p in self.model.named_parameters() if p.requires_grad and not isinstance(p, DTensor)}
        self._root = list(root)
        self._used |= {name for name, parameter in root.items() if id(parameter) in found}
        idle = [parameter for name, parameter in root.items() if id(parameter) not in found]
        return loss + sum((p.reshape(-1)[:1].sum() * 0 for p in idle), loss.new_zeros(())), parts

    def forget_unused(self, world: World) -> None:
        """After the last backward pass of a step (collective): no gradient where no rank used the parameter."""
        if not self._root:
            return
        flags = world.any(*(name in self._used for name in self._root))
        parameters = dict(self.model.named_parameters())
        for name, used in zip(self._root, flags, strict=True):
            if not used:
                parameters[name].grad = None
        self._used = set()


def _leaves(loss: Tensor) -> set[int]:
    """Ids of the tensors that the loss's gradient reaches."""
    reached, seen, todo = set(), set(), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            reached.add(id(node.variable))
        todo += [following for following, _ in node.next_functions]
    return reached


def shard(loss: ShardedLoss, units: Iterable[nn.Module | Sequence[nn.Module]], world: World) -> None:
    """Cut the parameters of `loss.model` over the ranks: each unit together, the rest as the root."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    frozen = {p for p in loss.parameters() if not p.requires_grad}
    for unit in units:
        fully_shard(unit if isinstance(unit, nn.Module) else list(unit), mesh=mesh, ignored_params=frozen)
    # The root too is cut again after each pass, so that between passes (averages, checkpoints) all parameters are.
    fully_shard(loss, mesh=mesh, ignored_params=frozen, reshard_after_forward=True)


def whole(tensor: Tensor) -> Tensor:
    """A cut tensor put together (collective); any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def cut_like(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor on the parameter's device, cut as the parameter is. Every rank has the whole: nothing is sent."""
    value = value.to(parameter.device)
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


class Twin:
    """A whole copy of a sharded model on rank 0's CPU: what checkpoints are written from.

    Args:
        model: before it is sharded.
    """

    def __init__(self, model: nn.Module, world: World):
        self.model = copy.deepcopy(model) if world.leads else None

    @torch.no_grad()
    def fill(self, model: nn.Module) -> nn.Module | None:
        """The copy with the weights of `model` (collective); None on other ranks."""
        kept = dict(self.model.named_parameters()) if self.model is not None else {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                value = whole(parameter.detach())
                if kept:
                    kept[name].copy_(value)
        return self.model
