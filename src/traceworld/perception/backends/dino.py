"""DINOv2 and DINOv3 patch descriptors (mu0-paper A.1), through transformers' classes."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Float32, UInt8

from traceworld.errors import CheckpointError
from traceworld.perception import conventions
from traceworld.perception.backends.loading import as_weights, pick_device, pretrained
from traceworld.perception.conventions import Native
from traceworld.perception.interfaces import BackendInfo
from traceworld.perception.weights import Weights

NATIVE = Native(image="imagenet")


class DinoFeatures:
    """One unit vector per patch: two descriptors are 1 apart where their cosine is ½, which entity clustering takes for a
    clear difference.

    Args:
        weights: hub id or folder of a `Dinov2Model`, `Dinov2WithRegistersModel` or `DINOv3ViTModel`.
        long_side: pixels of the longer image side as the model sees it; both sides become multiples of its patch.
    """

    def __init__(self, weights: Weights | str, long_side: int = 518, device: str = "auto"):
        self._device = pick_device(device)
        self._model = pretrained("AutoModel", weights, self._device)
        config = self._model.config
        if not str(config.model_type).startswith(("dinov2", "dinov3_vit")):
            raise CheckpointError(
                f"is a '{config.model_type}'", where=as_weights(weights).source, mend="name a DINOv2 or DINOv3 ViT"
            )
        self._patch = int(config.patch_size)
        self._skip = 1 + int(getattr(config, "num_register_tokens", 0))
        self._long_side = long_side
        self.info = BackendInfo("features", str(config.model_type), "1", "", weights=as_weights(weights).source)

    @torch.inference_mode()
    def describe(
        self, image: UInt8[np.ndarray, "H W 3"], depth_m: Float32[np.ndarray, "H W"] | None = None
    ) -> Float32[np.ndarray, "h w C"]:
        """[h,w,C] over the whole image; depth is not used."""
        height, width = image.shape[:2]
        size = conventions.fit_size(width, height, self._long_side, self._patch)
        shrinks = size[0] < width
        resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
        pixels = torch.from_numpy(conventions.pixel_values(resized, NATIVE.image)).permute(2, 0, 1)[None]
        tokens = self._model(pixel_values=pixels.to(self._device)).last_hidden_state[0, self._skip :].float()
        grid = tokens.reshape(size[1] // self._patch, size[0] // self._patch, -1)
        return torch.nn.functional.normalize(grid, dim=-1).cpu().numpy()
