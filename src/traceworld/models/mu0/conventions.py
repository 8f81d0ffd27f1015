"""How μ0 looks at an observation, where the paper leaves it open: resizing, the depth picture, what an absent past shows.

One object per model, chosen when it is built; `official.conventions` is the other one.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor

from traceworld.models.blocks.turbo import turbo_picture
from traceworld.models.mu0.config import Mu0Config
from traceworld.models.mu0.pictures import resize_depth, resize_rgb
from traceworld.traces import batching


class Conventions:
    """Ours: pictures are averaged when they shrink, depth is resized in metres, an unknown past is not shown.

    Attributes:
        freezes_past_end: a predicted trace stands still from its predicted end on (mu0-paper B.3).
    """

    freezes_past_end = True

    def observed_picture(
        self, image: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]
    ) -> UInt8[np.ndarray, "_h _w 3"]:
        """What a predictor puts into a batch: the picture at the model's (width, height)."""
        return batching.resize_picture(image, size)

    def observed_depth(
        self, depth_m: Float32[np.ndarray, "H W"], size: tuple[int, int]
    ) -> Float32[np.ndarray, "_h _w"]:
        """What a predictor puts into a batch: metres at the model's (width, height)."""
        return batching.resize_depth(depth_m, size)

    def rgb(self, image: UInt8[Tensor, "B H W 3"], height: int, width: int) -> Float[Tensor, "B 3 height width"]:
        """RGB in [0, 1] at the size the prefix looks at."""
        return resize_rgb(image, height, width)

    def dino_rgb(self, image: UInt8[Tensor, "B H W 3"], side: int) -> Float[Tensor, "B 3 side side"]:
        """RGB in [0, 1] at the size DINOv2 looks at."""
        return resize_rgb(image, side, side)

    def depth_picture(
        self, depth_m: Float[Tensor, "B H W"], log_range: Float[Tensor, " 2"], height: int, width: int
    ) -> Float[Tensor, "B 3 height width"]:
        """Metric depth as a Turbo picture in [0, 1] at the size the prefix looks at."""
        return turbo_picture(resize_depth(depth_m, height, width), log_range)

    def instruction(self, text: str) -> str:
        """What goes into the prompt."""
        return text

    def history_shown(self, valid: Bool[np.ndarray, "N h"], given: bool) -> Bool[np.ndarray, "N h"]:
        """Which past steps of an observation the model is shown. `given`: the observation has a history at all."""
        return valid


def conventions_of(config: Mu0Config) -> Conventions:
    """The conventions that a config asks for."""
    if config.compat == "official":
        from traceworld.models.mu0.official.conventions import OfficialConventions

        return OfficialConventions(config.image_size)
    return Conventions()
