"""A tiny model that speaks in whole coordinates (robotracer-nano's tokenizer), so that an answer is some 30 tokens, not 90."""

import dataclasses

import robotracer_toys as toys
import torch
import transformers

from traceworld.models.robotracer.model import build_robotracer
from traceworld.models.robotracer.nano_words import nano_tokenizer, order_coordinates
from traceworld.models.robotracer.processor import RoboTracerProcessor

CONFIG = dataclasses.replace(toys.TINY, max_new_tokens=48)


def make(seed=0, width=64):
    """(model, processor): InternVL's class, `width` wide, two layers."""
    tokenizer = nano_tokenizer()
    base = toys.base_config("internvl", tokenizer)
    text = {**toys.TEXT, "hidden_size": width, "intermediate_size": 2 * width, "vocab_size": len(tokenizer) + 2}
    base = transformers.InternVLConfig(
        **{**base.to_dict(), "text_config": {"model_type": "qwen2", **text, "tie_word_embeddings": True}},
    )
    processor = RoboTracerProcessor(CONFIG, base, tokenizer, toys.image_processor("internvl"))
    torch.manual_seed(seed)
    vlm = transformers.AutoModelForImageTextToText.from_config(base)
    order_coordinates(vlm.get_input_embeddings().weight.data, tokenizer, 0.06, waves=8)
    return build_robotracer(CONFIG, processor, vlm), processor
