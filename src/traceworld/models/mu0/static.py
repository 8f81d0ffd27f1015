"""Prediction with tensors of a few sizes only, as one compiled function; on CUDA its kernels are recorded once and replayed.

Keypoints are padded to the next of a few numbers and words to the next multiple of 16. Padding is masked wherever it could be
seen, so results stay the same but for rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from traceworld.models.blocks.turbo import turbo_picture
from traceworld.models.mu0.model import Mu0Model
from traceworld.models.mu0.prefix import depth_rows

KEYPOINT_SIZES = (16, 64, 256)
_WORDS_STEP = 16
_KEYPOINT_FIELDS = ("anchor_uvz", "anchor_z_known", "history", "history_valid", "present")
_OBSERVED = ("image", "depth_m", "depth_present", "clock")


class StaticSampler:
    """`Mu0Model.sample` from given noise, over few shapes.

    Args:
        model: in eval mode. Its parameters may be changed afterwards, not replaced.
        sizes: numbers of keypoints to pad to; beyond the last one, multiples of it.
        compiled: compile it (one compilation for each size, number of samples and presence of depth); False: only pad.
    """

    def __init__(self, model: Mu0Model, sizes: tuple[int, ...] = KEYPOINT_SIZES, compiled: bool = True):
        self.model, self.sizes = model, tuple(sorted(sizes))
        self._run: Any = self._sample
        if compiled:
            depth_m = torch.ones(1, 1, 1, device=model.device)
            turbo_picture(depth_m, model.depth_log_range)  # its table is on the device before a graph is recorded
            mode = "reduce-overhead" if model.device.type == "cuda" else "default"
            self._run = torch.compile(self._sample, mode=mode, fullgraph=True, dynamic=False)

    def __call__(
        self, batch: Mapping[str, Any], noise: Float[Tensor, "B S N D 3"]
    ) -> tuple[Float[Tensor, "B S N D 3"], Float[Tensor, "B S N H"]]:
        """Control points in units of s_Δ and validity logits. On CUDA the next call overwrites them: copy what is kept."""
        N = noise.shape[2]
        padding = self._padded_count(N) - N
        noise = F.pad(noise, (0, 0, 0, 0, 0, padding))
        controls, logits = self._run(self._padded(batch, padding), noise)
        return controls[:, :, :N], logits[:, :, :N]

    def _sample(self, batch: Mapping[str, Any], noise: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.sample_from(self.model.context(batch, self.model.encode(batch)), noise.shape[1], None, noise)

    def _padded_count(self, keypoints: int) -> int:
        for size in self.sizes:
            if keypoints <= size:
                return size
        return -(-keypoints // self.sizes[-1]) * self.sizes[-1]

    def _padded(self, batch: Mapping[str, Any], padding: int) -> dict[str, Any]:
        """Fields in their static sizes, with words as numbers and the rows that have depth counted."""
        ids, known = batch["words"] if "words" in batch else self.model.prefix.read(batch["instruction"])
        ids, known = ids.to(self.model.device), known.to(self.model.device)
        more = -ids.shape[1] % _WORDS_STEP
        out: dict[str, Any] = {name: batch[name] for name in _OBSERVED}
        out["words"] = (_pad_second(ids, more), _pad_second(known, more))
        out["depth_rows"] = depth_rows(batch)
        return out | {name: _pad_second(batch[name], padding) for name in _KEYPOINT_FIELDS}


def _pad_second(x: Tensor, count: int) -> Tensor:
    """`count` zeros (False) more along the second axis."""
    return torch.cat([x, x.new_zeros(x.shape[0], count, *x.shape[2:])], dim=1)
