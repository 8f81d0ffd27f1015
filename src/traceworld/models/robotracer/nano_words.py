"""The tokenizer of `robotracer-nano`: words of tables and their things, whole coordinates, and bytes for all the rest.

A coordinate is one token, with the punctuation before it: `[(245`, `, 145`, `, 1.84)`, `, (250`. A point costs three tokens, so a trace
of eight points takes 26. u and v come in steps of `UV_STEP` thousandths, d in centimetres (`coarse`); other numbers are spelled
out of bytes, so every text can be said and read back as it was.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from traceworld.errors import ConfigError
from traceworld.extras import require
from traceworld.sim.tableware import COLORS, WARES

UV_STEP = 5
"""Thousandths of the picture between two tokens of u or v: half of one percent."""
MAX_UV, MAX_D_CM = 1000, 499
SPECIAL = ("<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>")
PAD = "<|endoftext|>"
_SENTENCES = """
    trace system user assistant Point to Locate in the picture Where is Mark one point on it Move Put Place Shift Stack
    so that ends its centre ending higher lower by two centres apart going around passing and down up straight towards away
    from camera left right front behind back of in on top directly under below above inside next beside near between first
    second third fourth fifth farthest nearest highest lowest leftmost rightmost large small larger smaller largest smallest
    closest object one thing things table counter shelf stand partition wall floor side step Step scene Referring Measuring
    Scale think answer metres cm
"""
_PIECES = r"\[\(\d+|, \(\d+|, \d\.\d\d\)|, \d+(?=[,)])|\s?[A-Za-z]+|[\s\S]"
_POINT = re.compile(r"\((-?\d+(?:\.\d+)?), (-?\d+(?:\.\d+)?)(?:, (\d+(?:\.\d+)?))?\)")


def words() -> list[str]:
    """Every word with a token of its own, in a fixed order."""
    materials = sorted({material for ware in WARES.values() for material in ware.materials})
    return list(dict.fromkeys([*_SENTENCES.split(), *WARES, *COLORS, *materials]))


def coordinates() -> dict[str, list[tuple[str, float]]]:
    """Tokens of coordinates by role, each with its place in [0,1] of its role's range."""
    uv = range(0, MAX_UV + 1, UV_STEP)
    return {
        "first_u": [(f"[({n}", n / MAX_UV) for n in uv],
        "u": [(f", ({n}", n / MAX_UV) for n in uv],
        "v": [(f", {n}", n / MAX_UV) for n in uv],
        "d": [(f", {cm // 100}.{cm % 100:02d})", cm / MAX_D_CM) for cm in range(MAX_D_CM + 1)],
    }


def coordinate_ids(tokenizer: Any, role: str) -> tuple[Int[Tensor, " N"], Float[Tensor, " N"]]:
    """(ids of the tokens of a role of `coordinates`, their places in [0,1]).

    Raises:
        ConfigError: the tokenizer is another one.
    """
    said = coordinates()[role]
    ids = tokenizer.convert_tokens_to_ids([_spelled(text) for text, _ in said])
    if None in ids or len(set(ids)) < len(ids):
        raise ConfigError("has no token for each coordinate", where="tokenizer", mend="take nano_tokenizer()")
    return torch.tensor(ids), torch.tensor([place for _, place in said])


def coarse(text: str) -> str:
    """A text with the numbers of its points rounded to what has a token.

    Points outside of the picture are moved to its edge; a depth keeps at least one centimetre.
    """

    def rounded(match: re.Match[str]) -> str:
        u, v = (min(MAX_UV, max(0, UV_STEP * round(float(match[i]) / UV_STEP))) for i in (1, 2))
        if match[3] is None:
            return f"({u}, {v})"
        return f"({u}, {v}, {min(MAX_D_CM, max(1, round(100 * float(match[3])))) / 100:.2f})"

    return _POINT.sub(rounded, text)


def nano_tokenizer() -> Any:
    """The tokenizer, a `PreTrainedTokenizerFast`; always the same."""
    parts, transformers = require("tokenizers"), require("transformers")
    alphabet = sorted(parts.pre_tokenizers.ByteLevel.alphabet())
    own = [*words(), *(f" {word}" for word in words())]
    own += [token for role in coordinates().values() for token, _ in role]
    pieces = dict.fromkeys([*alphabet, *map(_spelled, own)])
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    inner = parts.Tokenizer(
        parts.models.WordPiece(vocab=vocabulary, unk_token=alphabet[0], continuing_subword_prefix="")
    )
    inner.pre_tokenizer = parts.pre_tokenizers.Sequence(
        [parts.pre_tokenizers.Split(parts.Regex(_PIECES), "isolated"), _bytes()]
    )
    inner.decoder = parts.decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token=PAD)
    special = [transformers.AddedToken(text, special=True, normalized=False) for text in SPECIAL]
    tokenizer.add_tokens(special, special_tokens=True)
    return tokenizer


@torch.no_grad()
def order_coordinates(embedding: Float[Tensor, "V C"], tokenizer: Any, size: float, waves: int = 16) -> None:
    """Start the embeddings of coordinates so that near numbers are alike: waves of their value, in place.

    Untrained, a thousand numbers are a thousand unrelated words, and each would have to be met many times before a model says it
    where it belongs. With waves, what is learned of one is learned of its neighbours, and input and output (which are tied) know
    their order from the first step. The first 2·`waves` dimensions hold the value, a few others the role; the rest stay as they are.

    Args:
        embedding: rows of the tokenizer's tokens, changed in place.
        size: amplitude of each wave.
    """
    for number, role in enumerate(coordinates()):
        ids, value = coordinate_ids(tokenizer, role)
        embedding[ids, : 2 * waves] = (size * waves_of(value, waves)).to(embedding.dtype)
        embedding[ids, 2 * waves + number] += 4 * size


@torch.no_grad()
def order_places(positions: Float[Tensor, "P C"], size: float, waves: int = 16) -> None:
    """Start the position embeddings of a square of patches, row by row, with the waves of their u and v, in place.

    What is seen at a patch then carries its place in the very form in which coordinates are said (`order_coordinates`): to point at
    something, a model has to find it and copy.

    Args:
        positions: P is a square number; at least 4·`waves` wide. size: amplitude of each wave.
    """
    side = math.isqrt(len(positions))
    v, u = torch.meshgrid(*[(torch.arange(side) + 0.5) / side] * 2, indexing="ij")
    places = torch.cat([waves_of(u.flatten(), waves), waves_of(v.flatten(), waves)], dim=1)
    positions[:, : 4 * waves] = (size * places).to(positions.dtype)


def waves_of(value: Float[Tensor, " N"], waves: int) -> Float[Tensor, "N W"]:
    """Cosines, then sines of numbers in [0,1]: from half a wave over the range, each a quarter shorter than the one before."""
    frequencies = torch.tensor([0.5 * 1.25**k for k in range(waves)])
    angle = 2 * math.pi * value[:, None] * frequencies
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def _bytes() -> Any:
    return require("tokenizers").pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def _spelled(text: str) -> str:
    """A text in the letters that stand for its bytes inside the tokenizer."""
    return "".join(piece for piece, _ in _bytes().pre_tokenize_str(text))
