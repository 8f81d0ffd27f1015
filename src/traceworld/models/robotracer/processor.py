"""Pictures, conversations and geometry → what the model is given. Pictures go through the family's own image processor (its PIL
form), words through its tokenizer; the conversation is written here, so that no video package is needed.

A question stands behind its picture, the spatial tokens and `<SCALE>`; with causal attention the scale is then read before the
question is known, and the answer sees all of it. Every piece is tokenised alone, so that training and generation cut the text at
the same places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from traceworld.errors import CheckpointError, ConfigError, InvalidInputError
from traceworld.extras import require
from traceworld.models.pretrained import missing_weights
from traceworld.models.robotracer.config import RoboTracerConfig
from traceworld.models.robotracer.families import family_of, picture_texts
from traceworld.models.robotracer.geometry import GeometryInputs, geometry_of

SPATIAL_TOKEN = "<spatial>"
SCALE_TOKEN = "<SCALE>"
IGNORED = -100
"""Label of a token that is not learned."""
_PIL = "pil"


@dataclass(frozen=True, eq=False)
class Example:
    """One picture and what is said about it.

    Attributes:
        image: [H,W,3] uint8 RGB.
        turns: (question, answer) in order; the last answer may be None: to be generated.
        K: [3,3] pixels of `image`. depth_m: [H,W] metres, 0 or NaN unknown. world_from_cam: [4,4].
        scale_m: s*, the target of the scale loss in metres (`scale.scale_target`); None: no target.
        apart: the turns are questions of their own: each sees the picture and its own words, and is what it would be alone. So
            many questions share the cost of one picture in training.
    """

    image: UInt8[np.ndarray, "Himg Wimg 3"]
    turns: Sequence[tuple[str, str | None]]
    K: Float[np.ndarray, "3 3"] | None = None
    depth_m: Float[np.ndarray, "Hdepth Wdepth"] | None = None
    world_from_cam: Float[np.ndarray, "4 4"] | None = None
    scale_m: float | None = None
    apart: bool = False

    def __post_init__(self):
        if not self.turns or any(answer is None for _, answer in self.turns[:-1]):
            raise InvalidInputError(
                "every question but the last has its answer",
                where="Example.turns",
                mend="give (question, answer) pairs",
            )


class RoboTracerProcessor:
    """Builds batches for one base model.

    Args:
        config: of the model.
        base_config: transformers config of the base.
        tokenizer: of the base; `<spatial>` and `<SCALE>` are added if they are not in it.
        image_processor: of the base.

    Attributes:
        family, tokenizer, image_processor; spatial_id, scale_id, image_id, end_id: token ids.
    """

    def __init__(self, config: RoboTracerConfig, base_config: Any, tokenizer: Any, image_processor: Any):
        self.config, self.base_config = config, base_config
        self.family = family_of(base_config)
        self.tokenizer, self.image_processor = tokenizer, image_processor
        special = require("transformers").AddedToken
        tokenizer.add_tokens(
            [special(text, special=True, normalized=False) for text in (SPATIAL_TOKEN, SCALE_TOKEN)],
            special_tokens=True,
        )
        self.spatial_id, self.scale_id = self._id(SPATIAL_TOKEN), self._id(SCALE_TOKEN)
        self.image_id, self.end_id = self._id(self.family.image_token), self._id(self.family.end)
        self._reserved = {self.spatial_id, self.scale_id, self.image_id}
        self.pad_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.end_id

    @classmethod
    def from_base(cls, config: RoboTracerConfig, place: str | Path | None = None) -> RoboTracerProcessor:
        """That of a published base, or of a folder that `save` wrote.

        Raises:
            MissingWeightsError: it is not on this machine.
            CheckpointError: it is damaged, or nothing that transformers knows.
            ConfigError: it is of no family known here.
        """
        transformers = require("transformers")
        source = str(place if place is not None else config.base)
        options: dict[str, Any] = {"local_files_only": True}
        if place is None:
            options["revision"] = config.base_revision
        try:
            base_config = transformers.AutoConfig.from_pretrained(source, **options)
            family_of(base_config)
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
            images = transformers.AutoImageProcessor.from_pretrained(source, backend=_PIL, **options)
        except ConfigError:
            raise
        except (
            OSError,
            ValueError,
        ) as error:  # ValueError: a config that transformers does not know, or a damaged file
            if place is None and isinstance(error, OSError):
                raise missing_weights(source, config.base_revision) from error
            raise CheckpointError(f"cannot be read: {error}", where=source, mend="fetch it again") from error
        return cls(config, base_config, tokenizer, images)

    def save(self, folder: Path, base_config: Any = None) -> None:
        """Tokenizer, image processor and the base's config (or another), for `from_base(config, folder)`."""
        folder.mkdir(parents=True, exist_ok=True)
        (self.base_config if base_config is None else base_config).save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)

    def training_batch(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Inputs of `RoboTracer.forward` with labels: answers are learned, nothing else. Padded on the right.

        With an example whose questions stand apart there are `position_ids` [B,L], and `attention_mask` is [B,1,L,L]: who sees whom.

        Raises:
            InvalidInputError: an answer is missing, or a conversation is longer than `config.max_tokens`.
            ConfigError: questions stand apart and the family counts positions on three axes (Qwen).
        """
        if any(example.turns[-1][1] is None for example in examples):
            raise InvalidInputError(
                "the last question has no answer", where="Example.turns", mend="give what is learned"
            )
        return self._batch(examples, left=False)

    def generation_batch(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Inputs of `RoboTracer.generate`: up to where the last answer begins. Padded on the left, no labels."""
        asked = [
            Example(e.image, [*_before_last(e), (e.turns[-1][0], None)], e.K, e.depth_m, e.world_from_cam)
            for e in examples
        ]
        batch = self._batch(asked, left=True)
        return {name: value for name, value in batch.items() if name not in ("labels", "scale_target")}

    def questions(self, asked: Sequence[str]) -> tuple[Int[Tensor, "N L"], Int[Tensor, "N L"]]:
        """(ids, mask) of questions without their picture, up to where an answer would begin; padded on the right.

        Raises:
            InvalidInputError: a question holds a token of the model.
        """
        head, tail = self.family.first_user.split("{}")
        rows = []
        for question in asked:
            pieces = ((head, False), (question, True), (tail + self.family.answer, False))
            rows.append([token for text, plain in pieces for token in self._encode(text, plain)])
        longest = max(len(row) for row in rows)
        return _padded(rows, longest, self.pad_id, False), _padded([[1] * len(row) for row in rows], longest, 0, False)

    def decode(self, ids: Int[Tensor, "B L"]) -> list[str]:
        """What was generated, as text: up to its end, without special tokens."""
        texts = []
        for row in ids.tolist():
            row = row[: row.index(self.end_id)] if self.end_id in row else row
            texts.append(self.tokenizer.decode(row, skip_special_tokens=True).strip())
        return texts

    def _batch(self, examples: Sequence[Example], left: bool) -> dict[str, Any]:
        if not examples:
            raise InvalidInputError("no example", where="examples")
        seen = self.pictures([example.image for example in examples])
        merge = int(getattr(self.image_processor, "merge_size", 1))
        pictures = picture_texts(self.family, self.base_config, seen, len(examples), merge)
        rows = [self._tokens(example, picture) for example, picture in zip(examples, pictures, strict=True)]
        longest = max(len(row.ids) for row in rows)
        if longest > self.config.max_tokens:
            raise InvalidInputError(
                f"{longest} tokens, at most {self.config.max_tokens}", where="examples", mend="ask for less at a time"
            )
        padded = {
            "input_ids": _padded([row.ids for row in rows], longest, self.pad_id, left),
            "attention_mask": _padded([[1] * len(row.ids) for row in rows], longest, 0, left),
            "labels": _padded([row.labels for row in rows], longest, IGNORED, left),
        }
        if any(example.apart for example in examples):
            padded |= self._apart(rows, longest)
        batch: dict[str, Any] = {**padded, **{name: seen[name] for name in seen if name in _PICTURE_FIELDS}}
        if self.family.name in ("qwen2_5_vl", "qwen3_vl"):  # from which M-RoPE counts positions
            batch["mm_token_type_ids"] = (batch["input_ids"] == self.image_id).long()
        size = self.config.spatial_size
        if size is not None:
            batch["geometry"] = GeometryInputs.collate(
                [geometry_of(e.image, size, e.K, e.depth_m, e.world_from_cam) for e in examples]
            )
        targets = [np.nan if example.scale_m is None else example.scale_m for example in examples]
        batch["scale_target"] = torch.tensor(targets, dtype=torch.float32)
        return batch

    def pictures(self, images: Sequence[np.ndarray]) -> dict[str, Any]:
        """What the family's image processor makes of pictures [H,W,3] uint8, whole (tensors as its model takes them)."""
        shown: list[Any] = [Image.fromarray(image) for image in images]
        if self.family.name == "smolvlm":
            return dict(self.image_processor([[each] for each in shown], return_row_col_info=True, return_tensors="pt"))
        if self.family.name == "internvl":
            return dict(self.image_processor(shown, crop_to_patches=True, return_tensors="pt"))
        return dict(self.image_processor(shown, return_tensors="pt"))

    def _apart(self, rows: Sequence[_Row], longest: int) -> dict[str, Tensor]:
        """Who sees whom, and where each token counts from, padded on the right."""
        if self.family.name in ("qwen2_5_vl", "qwen3_vl"):
            raise ConfigError(
                f"questions cannot stand apart in {self.family.name}", where="Example.apart", mend="one question each"
            )
        parts = _padded([row.parts for row in rows], longest, -1, left=False)
        common = (parts == 0).sum(1, keepdim=True)
        place = torch.arange(longest).expand_as(parts)
        first = torch.stack([torch.searchsorted(row.contiguous(), row.contiguous()) for row in _rising(parts)])
        positions = torch.where(parts > 0, place - first + common, place)
        sees = (parts[:, None, :] == 0) | (parts[:, None, :] == parts[:, :, None])
        sees &= (parts >= 0)[:, None, :] & (place[0][:, None] >= place[0][None])
        sees |= torch.eye(longest, dtype=torch.bool)  # padding sees itself: a row without anything has no softmax
        added = torch.zeros(sees.shape).masked_fill_(
            ~sees, torch.finfo(torch.float32).min
        )  # what every attention takes
        return {"attention_mask": added[:, None], "position_ids": positions}

    def _tokens(self, example: Example, picture: str) -> _Row:
        """Token ids, labels and parts of a conversation."""
        family, ids, labels, parts = self.family, list[int](), list[int](), list[int]()
        part = 0

        def add(text: str, learned: bool = False, plain: bool = False) -> None:
            piece = self._encode(text, plain)
            ids.extend(piece)
            labels.extend(piece if learned else [IGNORED] * len(piece))
            parts.extend([part] * len(piece))

        add(family.begin(self.config.prompts.system))
        before = picture + SPATIAL_TOKEN * self.config.num_spatial_tokens + SCALE_TOKEN + family.after_picture
        for number, (question, answer) in enumerate(example.turns):
            head, tail = (family.user if number else family.first_user).split("{}")
            if number and example.apart:
                head, tail = family.first_user.split("{}")
            elif number:
                add(head)
            else:
                add(head + before)
            part = number + 1 if example.apart else 0
            add(question, plain=True)  # words of a user never become special tokens
            add(tail + family.answer)
            if answer is not None:
                add(family.lead + answer, learned=True, plain=True)
                add(family.end, learned=True)
                if not example.apart:
                    add(family.after)
        return _Row(ids, labels, parts)

    def _encode(self, text: str, plain: bool) -> list[int]:
        """Token ids; `plain` words of a user never become special tokens."""
        piece = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=plain)
        if plain and not self._reserved.isdisjoint(piece):
            raise InvalidInputError("holds a token of the model", where="Example.turns", mend="leave it out")
        return piece

    def _id(self, token: str) -> int:
        found = self.tokenizer.convert_tokens_to_ids(token)
        if found is None or found == self.tokenizer.unk_token_id:
            raise CheckpointError(
                f"the tokenizer has no '{token}'", where=self.config.base or "tokenizer", mend="use its own"
            )
        return int(found)


@dataclass(frozen=True)
class _Row:
    """Tokens of a conversation; part 0 is what all questions share, part n the n-th question that stands apart."""

    ids: list[int]
    labels: list[int]
    parts: list[int]


_PICTURE_FIELDS = ("pixel_values", "image_grid_thw", "pixel_attention_mask")


def _padded(rows: Sequence[Sequence[int]], length: int, filler: int, left: bool) -> Int[Tensor, "B L"]:
    fill = [[filler] * (length - len(row)) for row in rows]
    return torch.tensor([[*f, *row] if left else [*row, *f] for f, row in zip(fill, rows, strict=True)])


def _rising(parts: Int[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    """Parts with padding (−1) behind the last of them, so that each row rises."""
    return torch.where(parts < 0, parts.max() + 1, parts)


def _before_last(example: Example) -> Sequence[tuple[str, str | None]]:
    """What was said before the last question; nothing, if the questions stand apart."""
    return () if example.apart else example.turns[:-1]
