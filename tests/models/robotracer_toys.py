"""Tiny random image-text models of every family, through their transformers classes, with a tokenizer of bytes."""

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from traceworld.models.robotracer.config import OwnEncoderConfig, RoboTracerConfig
from traceworld.models.robotracer.model import build_robotracer
from traceworld.models.robotracer.processor import Example, RoboTracerProcessor

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "smolvlm", "internvl")
_CHATML = ["<|im_start|>", "<|im_end|>"]
_VISION = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
_WORDS = {
    "qwen2_5_vl": [*_CHATML, *_VISION],
    "qwen3_vl": [*_CHATML, *_VISION],
    "internvl": [*_CHATML, "<img>", "</img>", "<IMG_CONTEXT>"],
    "smolvlm": [
        "<|im_start|>", "<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global-img>",
        *(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)),
    ],
}  # fmt: skip
TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}  # fmt: skip
TINY = RoboTracerConfig(
    base="",
    spatial=OwnEncoderConfig(height=24, width=32, patch=8, dim=24, layers=1, heads=2, mlp=32),
    scale_width=16,
    scale_hidden=12,
    max_tokens=600,
    max_new_tokens=12,
    horizon=8,
)


def byte_tokenizer(family):
    """One token per byte, and the family's special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<|endoftext|>")
    tokenizer.add_tokens([transformers.AddedToken(w, special=True) for w in _WORDS[family]], special_tokens=True)
    return tokenizer


def image_processor(family):
    if family == "smolvlm":
        return SmolVLMImageProcessorPil(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})
    if family == "internvl":
        return GotOcr2ImageProcessorPil(size={"height": 16, "width": 16}, min_patches=1, max_patches=2)
    patch = 14 if family == "qwen2_5_vl" else 16
    side = 2 * patch
    return Qwen2VLImageProcessorPil(patch_size=patch, size={"shortest_edge": side**2, "longest_edge": 6 * side**2})


def base_config(family, tokenizer):
    word, vocab = tokenizer.convert_tokens_to_ids, len(tokenizer)
    qwen = {"image_token_id": word("<|image_pad|>"), "video_token_id": word("<|video_pad|>")}
    qwen |= {"vision_start_token_id": word("<|vision_start|>"), "vision_end_token_id": word("<|vision_end|>")}
    vision = {"hidden_size": 16, "intermediate_size": 24, "depth": 2, "num_heads": 2, "out_hidden_size": 32}
    if family == "qwen2_5_vl":
        rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
        text = {**TEXT, "vocab_size": vocab, "rope_parameters": rope}
        return transformers.Qwen2_5_VLConfig(
            text_config=text, vision_config={**vision, "window_size": 56, "fullatt_block_indexes": [1]}, **qwen
        )
    if family == "qwen3_vl":
        rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
        text = {**TEXT, "vocab_size": vocab, "head_dim": 8, "rope_parameters": rope}
        return transformers.Qwen3VLConfig(
            text_config=text,
            vision_config={**vision, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
            **qwen,
        )
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    if family == "smolvlm":
        return transformers.SmolVLMConfig(
            text_config={"model_type": "llama", **TEXT, "vocab_size": vocab, "pad_token_id": tokenizer.pad_token_id},
            vision_config={**vision, "patch_size": 4, "image_size": 16},
            scale_factor=2,
            image_token_id=word("<image>"),
            pad_token_id=tokenizer.pad_token_id,
        )
    return transformers.InternVLConfig(
        text_config={"model_type": "qwen2", **TEXT, "vocab_size": vocab},
        vision_config={**vision, "patch_size": 4, "image_size": 16},
        image_token_id=word("<IMG_CONTEXT>"),
        image_seq_length=4,
        vision_feature_layer=-1,
    )


def make_vlm(config, seed=0):
    torch.manual_seed(seed)
    vlm = transformers.AutoModelForImageTextToText.from_config(config)
    for parameter in vlm.parameters():  # random enough that every path carries a signal
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return vlm


def make(family="qwen2_5_vl", config=TINY, seed=0):
    """(model in eval mode, processor)."""
    tokenizer = byte_tokenizer(family)
    base = base_config(family, tokenizer)
    processor = RoboTracerProcessor(config, base, tokenizer, image_processor(family))
    vlm = make_vlm(base, seed)
    return build_robotracer(config, processor, vlm).eval(), processor


def example(seed=0, height=40, width=56, answer="[(500, 500, 1.000)]", question="Where to?", full=True):
    """A picture of noise with all geometry."""
    rng = np.random.default_rng(seed)
    pose = np.eye(4)
    pose[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    pose[:3, :3] *= np.sign(np.linalg.det(pose[:3, :3]))
    pose[:3, 3] = rng.normal(size=3)
    depth = rng.uniform(0.5, 2.0, (height, width))
    depth[rng.random(depth.shape) < 0.2] = 0
    return Example(
        image=rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
        turns=[(question, answer)],
        K=np.array([[50.0, 0, width / 2], [0, 48.0, height / 2], [0, 0, 1]]) if full else None,
        depth_m=depth if full else None,
        world_from_cam=pose if full else None,
        scale_m=float(depth[depth > 0].mean()),
    )
