"""In which precision a model's parameters are held. A frozen part needs no more than it was published in (bfloat16); what is
trained needs float32, or the small updates are rounded away (dossier of the released μ0, weak point 26a)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

ModelT = TypeVar("ModelT", bound=nn.Module)


@contextlib.contextmanager
def parameters_in(dtype: torch.dtype) -> Iterator[None]:
    """Within the block every new floating-point parameter is made in `dtype`; buffers keep theirs.

    Torch's default dtype would change the buffers too, and tables of positions and scales must stay float32. A model is never
    there in float32 as a whole: each parameter is turned as soon as its module takes it in.
    """

    def turn(
        module: nn.Module, name: str, parameter: nn.Parameter | None
    ) -> Any:  # torch's stub says it returns nothing
        if parameter is None or not parameter.is_floating_point() or parameter.dtype == dtype:
            return None  # as it is: a tied parameter stays tied
        return nn.Parameter(parameter.detach().to(dtype), requires_grad=parameter.requires_grad)

    handle = register_module_parameter_registration_hook(turn)
    try:
        yield
    finally:
        handle.remove()


def build_frugally(build: Callable[[], ModelT], frozen: torch.dtype = torch.bfloat16) -> ModelT:
    """What `build` makes, with its frozen parameters in `frozen` and the trained ones in float32.

    μ0 `large` takes 6.2 GB so, instead of 10.3. Its forward pass runs with and without autocast.
    """
    if frozen == torch.float32:
        return build()
    with parameters_in(frozen):
        model = build()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model
