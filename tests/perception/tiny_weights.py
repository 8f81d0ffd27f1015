"""Tiny models of transformers' real classes with random weights, saved to disk as published ones are."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers


def save(name: str, folder: Path) -> str:
    """Folder of the weights that the backend `name` loads."""
    torch.manual_seed(0)
    place = folder / name
    MAKERS[name](place)
    return str(place)


def _lively(model: torch.nn.Module) -> torch.nn.Module:
    """Weights large enough that every input shows in the output."""
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3)
    return model


def _dinov2(place: Path) -> None:
    config = transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, mlp_ratio=2, image_size=28, patch_size=14
    )
    transformers.Dinov2Model(config).save_pretrained(place)


def _dinov3(place: Path) -> None:
    config = transformers.DINOv3ViTConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=16,
        num_register_tokens=4,
    )  # fmt: skip
    transformers.DINOv3ViTModel(config).save_pretrained(place)


def _depth_anything(place: Path, kind: str = "metric") -> None:
    backbone = transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=2, image_size=28, patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=24, neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=8,
        head_hidden_size=8, depth_estimation_type=kind, max_depth=20,
    )  # fmt: skip
    transformers.DepthAnythingForDepthEstimation(config).save_pretrained(place)


def relative_depth_anything(folder: Path) -> str:
    """A checkpoint of inverse depth, which is of no use here."""
    _depth_anything(folder / "relative", "relative")
    return str(folder / "relative")


def _sam2(place: Path) -> None:
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=8, num_attention_heads=1, image_size=[128, 128], blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[8, 4, 4, 2], global_attention_blocks=[3],
    )  # fmt: skip
    vision = transformers.Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=128,
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
    )  # fmt: skip
    config = transformers.Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 128, "image_size": 128, "mask_input_channels": 8},
        mask_decoder_config={
            "hidden_size": 128, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 32,
        },
        image_size=128, memory_attention_hidden_size=128, memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=32, memory_attention_rope_feat_sizes=[8, 8],
        memory_encoder_hidden_size=128, mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128, memory_fuser_intermediate_dim=32, memory_fuser_num_layers=1,
    )  # fmt: skip
    transformers.Sam2VideoModel(config).save_pretrained(place)


_TEMPLATE = (
    "{% for m in messages %}User: {% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE{% else %}{{ c['text'] }}"
    "{% endif %}{% endfor %}\nAssistant:{% endfor %}"
)


def _tokenizer(place: Path, image: str, special: list[str]) -> dict[str, int]:
    """Bytes and special tokens; returns their numbers."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(symbols)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<end>", pad_token="<pad>", additional_special_tokens=special
    )
    tokenizer.chat_template = _TEMPLATE.replace("IMAGE", image)
    tokenizer.save_pretrained(place)
    return {token: tokenizer.convert_tokens_to_ids(token) for token in [*special, "<end>", "<pad>"]} | {
        "size": len(tokenizer)
    }


def _smolvlm(place: Path) -> None:
    ids = _tokenizer(place, "<image>", ["<image>", "<fake_token_around_image>", "<global-img>"])
    config = transformers.SmolVLMConfig(
        vision_config={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                       "image_size": 32, "patch_size": 8},
        text_config={"model_type": "llama", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
                     "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": ids["size"],
                     "eos_token_id": ids["<end>"], "pad_token_id": ids["<pad>"], "bos_token_id": None},
        image_token_id=ids["<image>"], scale_factor=2,
    )  # fmt: skip
    _lively(transformers.SmolVLMForConditionalGeneration(config)).save_pretrained(place)
    transformers.SmolVLMImageProcessorPil(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 32}, do_image_splitting=True
    ).save_pretrained(place)


def _qwen_vl(place: Path) -> None:
    special = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    ids = _tokenizer(place, "<|vision_start|><|image_pad|><|vision_end|>", special)
    config = transformers.Qwen2_5_VLConfig(
        vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "patch_size": 14,
                       "out_hidden_size": 16, "fullatt_block_indexes": [0], "window_size": 56},
        text_config={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                     "num_key_value_heads": 1, "vocab_size": ids["size"], "eos_token_id": ids["<end>"],
                     "pad_token_id": ids["<pad>"], "bos_token_id": None,
                     "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}},
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip
    _lively(transformers.Qwen2_5_VLForConditionalGeneration(config)).save_pretrained(place)
    transformers.Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 112 * 112}).save_pretrained(
        place
    )


MAKERS = {
    "dinov2": _dinov2,
    "dinov3": _dinov3,
    "depth-anything-v2": _depth_anything,
    "sam2": _sam2,
    "smolvlm2": _smolvlm,
    "qwen-vl": _qwen_vl,
}
