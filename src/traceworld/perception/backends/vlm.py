"""Captions by a vision-language model of transformers on this machine: SmolVLM2, Qwen2.5-VL, Qwen3-VL; pictures, not video.

The models' own processors need a video processor and with it torchvision, even for pictures. So the picture part is called
directly and the placeholders of the pictures are written out here; each family's are stated in `_FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from traceworld.errors import CheckpointError
from traceworld.extras import require
from traceworld.perception.backends.loading import as_weights, from_folder, pick_device, pretrained
from traceworld.perception.interfaces import BackendInfo
from traceworld.perception.language_captioner import LanguageCaptioner
from traceworld.perception.weights import Weights

_SMOLVLM = ("smolvlm", "idefics3")
_QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


class VlmCaptioner(LanguageCaptioner):
    """Greedy answers of an `AutoModelForImageTextToText`, so that the same pictures give the same words.

    Args:
        weights: hub id or folder of a SmolVLM or Qwen-VL model with its tokenizer and image processor.
        style, overlay: see `LanguageCaptioner`. max_new_tokens: of an answer. longer_side: pixels of the pictures.
        dtype: of the weights; `auto`: bfloat16 on CUDA, float32 on a CPU.
    """

    def __init__(
        self,
        weights: Weights | str,
        style: str = "structured",
        overlay: bool = True,
        max_new_tokens: int = 400,
        longer_side: int = 512,
        dtype: str = "auto",
        device: str = "auto",
    ):
        super().__init__(style, overlay)
        transformers = require("transformers")
        self._device, self._max_new, self._longer_side = pick_device(device), max_new_tokens, longer_side
        chosen = "bfloat16" if self._device.type == "cuda" else "float32"
        kind = getattr(torch, chosen if dtype == "auto" else dtype)
        self._model = pretrained("AutoModelForImageTextToText", weights, self._device, dtype=kind)
        self._family = str(self._model.config.model_type)
        source = as_weights(weights).source
        if self._family not in (*_SMOLVLM, *_QWEN):
            raise CheckpointError(f"is a '{self._family}'", where=source, mend="name a SmolVLM2 or Qwen-VL model")
        self._tokenizer = from_folder(transformers.AutoTokenizer.from_pretrained, weights, local_files_only=True)
        self._pictures = from_folder(self._picture_class(transformers).from_pretrained, weights, local_files_only=True)
        self.info = BackendInfo("captions", "vlm", "1", "", weights=source)

    def _picture_class(self, transformers: Any) -> Any:
        """The PIL version of the family's image processor (the other one needs torchvision)."""
        return (
            transformers.SmolVLMImageProcessorPil if self._family in _SMOLVLM else transformers.Qwen2VLImageProcessorPil
        )

    @torch.inference_mode()
    def say(self, prompt: str, images: Sequence[np.ndarray], merging: bool) -> str:
        """See `LanguageCaptioner`; merging is text alone."""
        pixels, placeholders = self._picture_inputs(images) if len(images) else ({}, [])
        content = [*({"type": "image"} for _ in images), {"type": "text", "text": prompt}]
        text = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        text = _written_out(text, self._image_token(), placeholders)
        inputs = self._tokenizer(text, return_tensors="pt", add_special_tokens=False)
        given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        if pixels and self._family in _QWEN:
            given["mm_token_type_ids"] = (inputs["input_ids"] == self._model.config.image_token_id).long()
        moved = {
            name: value.to(self._device, self._model.dtype if value.is_floating_point() else value.dtype)
            for name, value in {**given, **pixels}.items()
        }
        made = self._model.generate(**moved, max_new_tokens=self._max_new, do_sample=False)
        return self._tokenizer.decode(made[0, given["input_ids"].shape[1] :], skip_special_tokens=True)

    def _image_token(self) -> str:
        return self._tokenizer.convert_ids_to_tokens(self._model.config.image_token_id)

    def _picture_inputs(self, images: Sequence[np.ndarray]) -> tuple[dict[str, torch.Tensor], list[str]]:
        """Pixels for the model, and the text that stands for each picture."""
        pictures = [Image.fromarray(_at_most(image, self._longer_side)) for image in images]
        token = self._image_token()
        if self._family in _SMOLVLM:
            found = self._pictures([pictures], do_image_splitting=False, return_tensors="pt")
            vision, share = self._model.config.vision_config, int(self._model.config.scale_factor)
            side = int(vision.image_size) // int(vision.patch_size) // share
            around = "<fake_token_around_image>"
            text = f"{around}<global-img>{token * side**2}{around}"
            names = ("pixel_values", "pixel_attention_mask")
            return {name: found[name] for name in names if name in found}, [text] * len(pictures)
        found = self._pictures(pictures, return_tensors="pt")
        merged = int(self._pictures.merge_size) ** 2
        counts = (found["image_grid_thw"].prod(-1) // merged).tolist()
        return {name: found[name] for name in ("pixel_values", "image_grid_thw")}, [token * count for count in counts]


def _written_out(text: str, token: str, placeholders: Sequence[str]) -> str:
    """The template's placeholder of each picture replaced by what stands for it."""
    pieces = text.split(token)
    if len(pieces) != len(placeholders) + 1:
        raise CheckpointError(
            f"writes {len(pieces) - 1} placeholders for {len(placeholders)} pictures",
            where="chat template",
            mend="name weights whose tokenizer has the model's own chat template",
        )
    return pieces[0] + "".join(part + piece for part, piece in zip(placeholders, pieces[1:], strict=True))


def _at_most(image: np.ndarray, longer_side: int) -> np.ndarray:
    import cv2

    height, width = image.shape[:2]
    share = longer_side / max(width, height)
    if share >= 1:
        return image
    size = (max(1, round(width * share)), max(1, round(height * share)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
