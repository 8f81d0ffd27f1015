"""What remote entrants were asked and answered: kept on disk, so that a run can be repeated for nothing, and counted."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from traceworld.errors import DatasetError
from traceworld.traces.atomic import read_json, write_json

OFF = "off"


@dataclass(frozen=True)
class Answer:
    """One answer, or why there is none.

    Attributes:
        text: the model's words.
        failure: "" or what went wrong on the way (`perception.http_json.Reply.failure`, `refusal`, `empty`).
        seconds: the server took (also of an answer kept from an earlier run).
        prompt_tokens, completion_tokens: as the server counts them, 0 if it does not.
        cached: taken from disk.
    """

    text: str = ""
    failure: str = ""
    seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached: bool = False


@dataclass
class Usage:
    """Running totals of an entrant, since they were last taken."""

    answers: int = 0
    cached: int = 0
    seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    mends: Counter[str] = field(default_factory=Counter)

    def add(self, answer: Answer, failure: str, mends: Counter[str]) -> None:
        """Count one answer; `failure` is that of the answer or of reading it."""
        self.answers += 1
        self.cached += answer.cached
        self.seconds += answer.seconds
        self.prompt_tokens += answer.prompt_tokens
        self.completion_tokens += answer.completion_tokens
        self.failures.update([failure] if failure else [])
        self.mends.update(mends)

    def report(self, usd_per_million: tuple[float, float] = (0.0, 0.0)) -> dict[str, Any]:
        """JSON-able: counts, seconds per answer, and dollars where prices (prompt, completion) are known."""
        cost = self.prompt_tokens * usd_per_million[0] + self.completion_tokens * usd_per_million[1]
        return {
            "answers": self.answers,
            "failed": sum(self.failures.values()),
            "failures": dict(sorted(self.failures.items())),
            "mends": dict(sorted(self.mends.items())),
            "cached": self.cached,
            "seconds_per_answer": self.seconds / self.answers if self.answers else None,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cost_usd": cost / 1e6 if any(usd_per_million) else None,
        }


class AnswerCache:
    """Answers on disk, one JSON file per question: a folder, or off.

    The name of a file is a hash of everything that decides the answer: address, model, options, prompt, pictures, seed.
    Failures are not kept. A damaged file is asked again.
    """

    def __init__(self, folder: str = ""):
        self.folder = None if folder == OFF else Path(folder).expanduser() if folder else default_folder()

    def key(self, who: Sequence[Any], prompt: str, pictures: Sequence[bytes], seed: int) -> str:
        """A hash of the question."""
        parts = [json.dumps([*who, seed], sort_keys=True).encode(), prompt.encode(), *pictures]
        return hashlib.blake2b(b"".join(hashlib.blake2b(p).digest() for p in parts), digest_size=20).hexdigest()

    def find(self, key: str) -> Answer | None:
        """The answer kept under a key."""
        if self.folder is None or not self._file(key).exists():
            return None
        try:
            kept = read_json(self._file(key))
            return Answer(
                str(kept["text"]),
                seconds=float(kept["seconds"]),
                prompt_tokens=int(kept["prompt_tokens"]),
                completion_tokens=int(kept["completion_tokens"]),
                cached=True,
            )
        except (DatasetError, KeyError, TypeError, ValueError):
            return None

    def keep(self, key: str, answer: Answer, asked: dict[str, Any]) -> None:
        """Write an answer beside what was asked (`asked`: model, prompt, seed; no pictures, no key).

        Raises:
            DatasetError: the folder cannot be written to.
        """
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        numbers = {name: getattr(answer, name) for name in ("seconds", "prompt_tokens", "completion_tokens")}
        write_json(self._file(key), {"asked": asked, "text": answer.text, **numbers})

    def _file(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}.json"


def default_folder() -> Path:
    """`$XDG_CACHE_HOME/traceworld/answers`, or below `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "traceworld" / "answers"
