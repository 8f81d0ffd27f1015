"""A low-rank adapter (LoRA; Hu et al. 2021) of the SigLIP layers, in force for the depth picture only.

The paper lets depth share SigLIP's deeper layers as they are; the released code adapts them so (dossier §0, fact 2).
"""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

ADAPTED = {
    "q_proj": "self_attn",
    "k_proj": "self_attn",
    "v_proj": "self_attn",
    "out_proj": "self_attn",
    "fc1": "mlp",
    "fc2": "mlp",
}
"""Adapted linear layer → its module within a SigLIP layer."""


class LowRank(nn.Module):
    """A change of a linear layer's weight, alpha / rank · B A. It starts at zero."""

    def __init__(self, inputs: int, outputs: int, rank: int, alpha: float):
        super().__init__()
        self.scale = alpha / rank
        self.A = nn.Parameter(torch.empty(rank, inputs))
        self.B = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.A, a=5**0.5)

    def forward(self, weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """The changed weight; the sum is rounded to the weight's dtype only once."""
        return (weight + self.scale * (self.B.float() @ self.A.float())).to(weight.dtype)


class DepthAdapter(nn.Module):
    """Low-rank changes of q, k, v, out, fc1 and fc2 in every layer.

    Args:
        layers, width, mlp: of the SigLIP tower.
        rank, alpha: of the changes.
    """

    def __init__(self, layers: int, width: int, mlp: int, rank: int, alpha: float):
        super().__init__()
        shapes = dict.fromkeys(ADAPTED, (width, width)) | {"fc1": (width, mlp), "fc2": (mlp, width)}
        self.layers = nn.ModuleList(
            nn.ModuleDict({name: LowRank(*shape, rank, alpha) for name, shape in shapes.items()}) for _ in range(layers)
        )

    def forward(self, index: int, layer: nn.Module, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """What SigLIP layer number `index` gives with its weights changed. The layer itself stays as it is."""
        changes = cast(nn.ModuleDict, self.layers[index])
        changed = {}
        for name, within in ADAPTED.items():
            linear = layer.get_submodule(f"{within}.{name}")
            changed[f"{within}.{name}.weight"] = changes[name](linear.weight)
        return functional_call(layer, changed, (hidden, mask))
