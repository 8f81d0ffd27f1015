"""The baseline of memory: what happened in the most similar window of a corpus happens again (`nearest-example:CORPUS`).

A window of the corpus is a small picture, the words of its instruction, and keypoints with their displacements. For a question
the windows are ranked by

    1 − cos(picture, picture') + 1 − cos(words, words') + mean over keypoints of |uv − uv'| of the nearest keypoint there,

and sample s is the s-th: each keypoint makes the displacement of the nearest keypoint of that one window, so that the points
of a sample move together. Depth, history and intrinsics are not looked at, and nothing is drawn at prediction.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, UInt8

from traceworld.errors import InvalidInputError
from traceworld.models.baselines.anchors import anchor_uvz
from traceworld.traces.batching import resize_picture
from traceworld.traces.types import Clock, Observation, TracePrediction
from traceworld.traces.windows import WindowConfig, WindowSet

THUMBNAIL = (24, 18)
"""Width and height of the pictures that are compared."""
_WORD_BUCKETS = 4096
_SHORTLIST = 64
"""Windows nearest in picture and words, among which the place of the keypoints decides too."""


@dataclass(frozen=True, eq=False)
class Examples:
    """The windows [W] of a corpus, keypoints padded to M.

    Attributes:
        picture, words: [W,·] unit vectors.
        uv: [W,M,2] places, NaN where padded. offset: [W,M,H,3] displacements, held after their last known step.
    """

    picture: Float32[np.ndarray, "W p"]
    words: Float32[np.ndarray, "W q"]
    uv: Float32[np.ndarray, "W M 2"]
    offset: Float32[np.ndarray, "W M H 3"]


class NearestExample:
    """Retrieval from stored clips.

    Args:
        corpus: clip stores. Read when the first question comes, on the clock and step of that question.
        max_windows: so many windows of it, drawn by `seed`.
        max_keypoints: of each window.
        horizon: steps to predict.
    """

    num_parameters = 0
    takes = ()

    def __init__(
        self,
        corpus: str | Path | Sequence[str | Path],
        *,
        max_windows: int = 2000,
        max_keypoints: int = 64,
        horizon: int = 32,
        seed: int = 0,
    ):
        self.corpus = [corpus] if isinstance(corpus, (str, Path)) else list(corpus)
        self.name = "nearest-example"
        self.max_windows, self.max_keypoints, self.horizon, self.seed = max_windows, max_keypoints, horizon, seed
        self.clip_ids: frozenset[str] = frozenset()
        """Clips that examples are from, as soon as there are any."""
        self._examples: dict[tuple[Clock, float], Examples] = {}

    def predict(self, observation: Observation, num_samples: int = 1, seed: int = 0) -> TracePrediction:
        """[S,N,H,3]: sample s from the s-th nearest window (the last one again where the corpus has fewer), all valid.

        Raises:
            InvalidInputError: no keypoints.
            DatasetError: the corpus cannot be read or has no window on this clock.
        """
        anchor = anchor_uvz(observation)
        examples = self.examples(observation.clock, observation.step)
        uvz = anchor[:, None] + nearest_offsets(examples, observation, num_samples)
        return TracePrediction(
            uvz=uvz.astype(np.float32),
            valid=np.ones(uvz.shape[:3], bool),
            valid_prob=np.ones(uvz.shape[:3], np.float32),
            clock=observation.clock,
            step=observation.step,
        )

    def examples(self, clock: Clock, step: float) -> Examples:
        """The corpus' windows on a clock. Raises DatasetError."""
        if (clock, step) not in self._examples:
            self._examples[clock, step] = self._read(clock, step)
        return self._examples[clock, step]

    def _read(self, clock: Clock, step: float) -> Examples:
        # Importing it makes RGB-D folders readable (perception.clip_media).
        import traceworld.perception.sources  # noqa: F401

        config = WindowConfig(history=0, horizon=self.horizon, clock=clock, step=step, max_keypoints=self.max_keypoints)
        windows = WindowSet(
            self.corpus, config, seed=self.seed, image_size=THUMBNAIL, s_delta=(1.0, 1.0, 1.0), augment=False
        )
        order = np.random.default_rng([self.seed, 5]).permutation(len(windows))[: self.max_windows]
        samples = [windows.sample(int(i)) for i in np.sort(order)]
        self.clip_ids |= {sample["clip_id"] for sample in samples}
        most = max(len(sample["anchor_uvz"]) for sample in samples)
        uv = np.full((len(samples), most, 2), np.nan, np.float32)
        offset = np.zeros((len(samples), most, self.horizon, 3), np.float32)
        for row, sample in enumerate(samples):
            count = len(sample["anchor_uvz"])
            uv[row, :count] = sample["anchor_uvz"][:, :2]
            offset[row, :count] = held(sample["future"], sample["future_valid"])
        return Examples(
            picture=np.stack([picture_vector(sample["image"]) for sample in samples]),
            words=np.stack([word_vector(sample["instruction"]) for sample in samples]),
            uv=uv,
            offset=offset,
        )


def nearest_offsets(examples: Examples, observation: Observation, num_samples: int) -> Float32[np.ndarray, "S N H 3"]:
    """Displacements of an observation's keypoints in its nearest examples, nearest first (see the module)."""
    uv = observation.keypoints_uv
    if uv is None:
        raise InvalidInputError("no keypoints", where="Observation.keypoints_uv", mend="say which points are asked for")
    picture = picture_vector(resize_picture(observation.image, THUMBNAIL))
    alike = 2.0 - examples.picture @ picture - examples.words @ word_vector(observation.instruction)
    short = np.argsort(alike, kind="stable")[: max(_SHORTLIST, num_samples)]
    distance = np.linalg.norm(examples.uv[short][:, None] - uv[None, :, None], axis=-1)  # [W,N,M]
    nearest = np.nanargmin(distance, axis=2)
    place = np.take_along_axis(distance, nearest[..., None], axis=2)[..., 0].mean(1)
    rank = np.argsort(alike[short] + place, kind="stable")
    chosen = rank[np.minimum(np.arange(num_samples), len(rank) - 1)]
    return examples.offset[short[chosen][:, None], nearest[chosen]]


def held(future: Float[np.ndarray, "N H 3"], valid: np.ndarray) -> Float32[np.ndarray, "N H 3"]:
    """Each step that is not valid takes the last valid one before it (the anchor, zero, if there is none)."""
    path = np.concatenate([np.zeros((len(future), 1, 3)), future], axis=1)
    step = np.where(valid, np.arange(1, future.shape[1] + 1), 0)
    last = np.maximum.accumulate(step, axis=1)
    return np.take_along_axis(path, last[..., None], axis=1).astype(np.float32)


def picture_vector(image: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, " p"]:
    """A thumbnail as a unit vector, its mean colour taken out."""
    values = image.astype(np.float32) - image.reshape(-1, 3).mean(0, dtype=np.float32)
    return _unit(values.reshape(-1))


def word_vector(text: str) -> Float32[np.ndarray, " q"]:
    """Hashed counts of the words as a unit vector."""
    counts = np.zeros(_WORD_BUCKETS, np.float32)
    for word in re.findall(r"\w+", text.lower()):
        counts[int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "big") % _WORD_BUCKETS] += 1
    return _unit(counts)


def _unit(values: np.ndarray) -> np.ndarray:
    length = float(np.linalg.norm(values))
    return values / length if length > 0 else values
