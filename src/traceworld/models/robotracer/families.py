"""The families of image-text models that RoboTracer is built on: how each writes a conversation and lets a picture in.

| family | class of transformers | a picture is | positions |
|---|---|---|---|
| qwen2_5_vl | Qwen2_5_VLForConditionalGeneration | patches of any number, `image_grid_thw` | M-RoPE |
| qwen3_vl | Qwen3VLForConditionalGeneration | as before, and once more in the first layers (deepstack) | M-RoPE |
| smolvlm | SmolVLMForConditionalGeneration | tiles [B, tiles, 3, H, W] with a pixel mask | 1D |
| internvl | InternVLForConditionalGeneration | tiles of all samples in one stack | 1D |

In all of them picture features replace the embeddings of placeholder tokens; ours do the same for `<spatial>`. Under M-RoPE the
spatial tokens count as words: one position each, the same on all three axes (they carry their place in the picture).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from traceworld.errors import ConfigError


@dataclass(frozen=True)
class Family:
    """How one family writes.

    Attributes:
        name: `model_type` of its transformers config.
        opening: before everything. system: around what is said first. default_system: that, when nothing else is asked for.
        first_user, user: around a question with the picture before it, around a later one.
        answer: before an answer; `lead` is generated with it. end: ends an answer, generated too. after: follows it.
        after_picture: between picture and question.
        image_token: placeholder of one feature of a picture.
    """

    name: str
    opening: str
    system: str
    default_system: str
    first_user: str
    user: str
    answer: str
    lead: str
    end: str
    after: str
    after_picture: str
    image_token: str

    def begin(self, system: str) -> str:
        """What a conversation begins with."""
        said = system or self.default_system
        return self.opening + (self.system.replace("{}", said) if said else "")


def _chatml(name: str, image_token: str, default_system: str = "", after_picture: str = "") -> Family:
    user = "<|im_start|>user\n{}<|im_end|>\n"
    return Family(
        name=name,
        opening="",
        system="<|im_start|>system\n{}<|im_end|>\n",
        default_system=default_system,
        first_user=user,
        user=user,
        answer="<|im_start|>assistant\n",
        lead="",
        end="<|im_end|>",
        after="\n",
        after_picture=after_picture,
        image_token=image_token,
    )


_SMOLVLM = Family(
    name="smolvlm",
    opening="<|im_start|>",
    system="System: {}<end_of_utterance>\n",
    default_system="",
    first_user="User:{}<end_of_utterance>\n",
    user="User: {}<end_of_utterance>\n",
    answer="Assistant:",
    lead=" ",
    end="<end_of_utterance>",
    after="\n",
    after_picture="",
    image_token="<image>",
)
FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        _chatml("qwen2_5_vl", "<|image_pad|>", default_system="You are a helpful assistant."),
        _chatml("qwen3_vl", "<|image_pad|>"),
        _chatml("internvl", "<IMG_CONTEXT>", after_picture="\n"),
        _SMOLVLM,
    )
}


def family_of(base_config: Any) -> Family:
    """The family of a transformers config.

    Raises:
        ConfigError: none that is known here.
    """
    name = str(getattr(base_config, "model_type", None))
    if name not in FAMILIES:
        raise ConfigError(
            f"'{name}' is no family that RoboTracer is built on here",
            where="base",
            mend=f"one of {', '.join(FAMILIES)}",
        )
    return FAMILIES[name]


def picture_texts(family: Family, base_config: Any, seen: Mapping[str, Any], count: int, merge: int) -> list[str]:
    """The placeholders of each picture of a batch (one picture per sample), as text.

    Args:
        seen: what the family's image processor gave for the pictures.
        count: of the pictures.
        merge: Qwen: side of the square of patches that become one feature (of the image processor).
    """
    token, vision = family.image_token, base_config.vision_config
    if family.name in ("qwen2_5_vl", "qwen3_vl"):
        grids = [[int(n) for n in grid] for grid in seen["image_grid_thw"]]
        return [f"<|vision_start|>{token * (t * h * w // merge**2)}<|vision_end|>" for t, h, w in grids]
    if family.name == "internvl":
        side = _first(vision.image_size) // _first(vision.patch_size)
        per_tile = round((side * base_config.downsample_ratio) ** 2)
        return [f"<img>{token * (per_tile * int(tiles))}</img>" for tiles in seen["num_patches"]]
    per_tile = (vision.image_size // vision.patch_size) ** 2 // base_config.scale_factor**2
    rows, columns = ([int(each[0]) for each in seen[name]] for name in ("rows", "cols"))
    return [_smolvlm_picture(token * per_tile, rows[i], columns[i]) for i in range(count)]


def _smolvlm_picture(features: str, rows: int, columns: int) -> str:
    """Tiles row by row, each named by its place, then the whole picture once more (Idefics 3's layout)."""
    mark = "<fake_token_around_image>"
    tiles = "".join(
        "".join(f"{mark}<row_{row + 1}_col_{column + 1}>{features}" for column in range(columns)) + "\n"
        for row in range(rows)
    )
    return f"{tiles}{chr(10) if rows else ''}{mark}<global-img>{features}{mark}"


def _first(size: Any) -> int:
    return int(size[0] if isinstance(size, list | tuple) else size)
