"""`robotracer-nano`: a RoboTracer small enough to be trained from scratch on a CPU and to be shipped.

The base is InternVL's class of transformers in a small width: its pictures are one square of patches, so a batch is one dense
tensor. Around it stand the same spatial encoder, projectors, `<SCALE>` token and scale decoder as around a published base.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from traceworld.extras import require
from traceworld.models.robotracer.config import NoEncoderConfig, OwnEncoderConfig, Prompts, RoboTracerConfig
from traceworld.models.robotracer.model import RoboTracer, build_robotracer
from traceworld.models.robotracer.nano_words import nano_tokenizer, order_coordinates, order_places
from traceworld.models.robotracer.processor import RoboTracerProcessor

NAME = "robotracer-nano"
PICTURE, PATCH, MERGED = 144, 9, 2
"""Side of the picture that the base sees and of its patches, px; that many patches by as many become one token."""
NANO = RoboTracerConfig(
    base="",
    spatial=OwnEncoderConfig(height=144, width=144, patch=18, dim=192, layers=2, heads=6, mlp=512),
    scale_width=128,
    scale_hidden=128,
    max_tokens=1500,
    max_new_tokens=40,
    prompts=Prompts(trace_3d="3D trace: {task}", trace_2d="2D trace: {task}"),
)
RGB_ONLY = dataclasses.replace(NANO, spatial=NoEncoderConfig())
"""Without a spatial encoder, so without intrinsics and depth: for the ablation."""
_TEXT = {
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    "use_sliding_window": False,
    "tie_word_embeddings": True,
}
_VISION = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 6}
_WAVE, _PLACE = 0.06, 0.3
"""Amplitudes at the start, about those of what stands beside: other words, and patches of a picture."""


def nano_processor(config: RoboTracerConfig = NANO) -> RoboTracerProcessor:
    """Its tokenizer and pictures."""
    transformers = require("transformers")
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    tokenizer = nano_tokenizer()
    word = tokenizer.convert_tokens_to_ids
    base = transformers.InternVLConfig(
        text_config={
            "model_type": "qwen2",
            **_TEXT,
            "vocab_size": len(tokenizer) + 2,
            "pad_token_id": word("<|endoftext|>"),
        },
        vision_config={**_VISION, "patch_size": PATCH, "image_size": PICTURE},
        image_token_id=word("<IMG_CONTEXT>"),
        image_seq_length=(PICTURE // PATCH // MERGED) ** 2,
        downsample_ratio=1 / MERGED,
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    pictures = GotOcr2ImageProcessorPil(size={"height": PICTURE, "width": PICTURE}, min_patches=1, max_patches=1)
    return RoboTracerProcessor(config, base, tokenizer, pictures)


def make_nano(
    config: RoboTracerConfig = NANO, seed: int = 0, base: nn.Module | None = None
) -> tuple[RoboTracer, RoboTracerProcessor]:
    """A new one with random weights (coordinates and places in order, see `nano_words`) and its processor.

    Args:
        config: `NANO`, `RGB_ONLY`, or one that differs in weights of losses.
        base: the `vlm` of another one, which has learned to see (`training.robotracer.pointing`); None: a new one.
    """
    processor = nano_processor(config)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = build_robotracer(config, processor, _new_base(processor) if base is None else base)
        if model.spatial_encoder is not None:
            order_places(model.spatial_encoder.positions.data, _PLACE)
    return model, processor


def _new_base(processor: RoboTracerProcessor) -> nn.Module:
    made: Any = require("transformers").AutoModelForImageTextToText
    vlm = made.from_config(processor.base_config, dtype=torch.float32)
    order_coordinates(vlm.get_input_embeddings().weight.data, processor.tokenizer, _WAVE)
    order_places(vlm.model.vision_tower.embeddings.position_embeddings.data[0, 1:], _PLACE)  # the first is no patch
    return vlm
