"""Captions by any server that speaks OpenAI's chat completions (vLLM, SGLang, llama.cpp, Ollama, LM Studio, …)."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np

from traceworld.errors import ConfigError, ExtractionError
from traceworld.perception.caption_text import read_answer
from traceworld.perception.http_json import Patience, Reply, post_json
from traceworld.perception.interfaces import BackendInfo
from traceworld.perception.language_captioner import LanguageCaptioner
from traceworld.traces.atomic import read_json, write_json

KEY_VARIABLE = "OPENAI_API_KEY"
CACHE_VARIABLE = "TRACEWORLD_CAPTION_CACHE"
_WRONG = (400, 401, 403, 404, 405, 422)
"""Answers that no repetition mends: address, key, model or request."""


class RateLimit:
    """At most `per_minute` requests a minute, evenly spaced; 0: no limit. Shared by threads."""

    def __init__(
        self,
        per_minute: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self._gap = 60.0 / per_minute if per_minute > 0 else 0.0
        self._clock, self._sleep = clock, sleep
        self._lock, self._next = threading.Lock(), 0.0

    def wait(self) -> None:
        """Return when the next request may go out."""
        with self._lock:
            now = self._clock()
            start = max(now, self._next)
            self._next = start + self._gap
        if start > now:
            self._sleep(start - now)


class EndpointCaptioner(LanguageCaptioner):
    """Captions over HTTP. Answers are kept on disk by content (model, prompt, pictures, settings), so that captioning
    again costs nothing where nothing has changed.

    Args:
        address: `MODEL@URL`, e.g. `Qwen/Qwen2.5-VL-7B-Instruct@http://localhost:8000/v1`. The key is read from `key_env`
            (default OPENAI_API_KEY) and sent over https or to this machine only, unless `key_env` is named.
        style, overlay: see `LanguageCaptioner`.
        merge_model: another model of the same server for merging (text only).
        longer_side: pixels of the pictures that are sent.
        temperature, max_tokens: sent if given. json: ask for JSON mode.
        per_minute: requests, 0 for no limit.
        timeout_s, deadline_s, retries, backoff_s, jitter: see `http_json.Patience`.
        cache: folder, or `off`; empty: `$TRACEWORLD_CAPTION_CACHE`, else the user's cache folder.
    """

    def __init__(
        self,
        address: str,
        style: str = "structured",
        overlay: bool = True,
        merge_model: str = "",
        longer_side: int = 768,
        temperature: float | int | None = None,
        max_tokens: int = 0,
        json: bool = False,
        per_minute: float | int = 0,
        timeout_s: float | int = 120.0,
        deadline_s: float | int = 600.0,
        retries: int = 4,
        backoff_s: float | int = 1.0,
        jitter: float | int = 0.5,
        key_env: str = "",
        cache: str = "",
        seed: int = 0,
    ):
        super().__init__(style, overlay)
        self._model, self._url = _split(address)
        self._merge_model = merge_model or self._model
        self._longer_side, self._key_env = longer_side, key_env
        self._patience = Patience(float(timeout_s), float(deadline_s), retries, float(backoff_s), float(jitter))
        self._sampling = _given(temperature=temperature, max_tokens=max_tokens or None, seed=seed)
        if json:
            self._sampling["response_format"] = {"type": "json_object"}
        self._limit, self._chance = RateLimit(float(per_minute)), random.Random(seed)
        self._cache = _cache_folder(cache)
        self.info = BackendInfo(
            "captions",
            f"openai:{self._model}",
            "1",
            "terms of the served model",
            licence_class="user",
            weights=self._model,
        )

    def say(self, prompt: str, images: Sequence[np.ndarray], merging: bool) -> str:
        """See `LanguageCaptioner`.

        Raises:
            ConfigError: address, key or model is wrong (400, 401, 403, 404, 405, 422): trying on would not help.
            ExtractionError: no answer in spite of all retries; the clip is not done and is captioned by a later run.
            DatasetError: the cache cannot be written.
        """
        body = self._body(prompt, images, self._merge_model if merging else self._model)
        kept = self._kept(body)
        if kept is not None and kept.is_file():
            return str(read_json(kept)["text"])
        self._limit.wait()
        reply = post_json(f"{self._url}/chat/completions", body, self._headers(), self._patience, self._chance)
        text = self._words(reply)
        if kept is not None and read_answer(text, self._style) is not None:  # an unreadable answer is asked for again
            write_json(kept, {"model": body["model"], "url": self._url, "prompt": prompt, "text": text})
        return text

    def _words(self, reply: Reply) -> str:
        where = f"{self._url} ({self._model})"
        if reply.status in _WRONG:
            raise ConfigError(
                f"refuses with {reply.status}: {self._reason(reply.value)}",
                where=where,
                mend=f"check address, model and the key in {self._key_env or KEY_VARIABLE}",
            )
        if reply.failure and reply.failure != "not_json":
            raise ExtractionError(
                f"no answer after {reply.attempts} attempts: {reply.failure}",
                where=where,
                mend="run again when the server is well; what is captioned already is kept",
            )
        return _content(reply.value)

    def _body(self, prompt: str, images: Sequence[np.ndarray], model: str) -> dict[str, Any]:
        content: Any = [{"type": "text", "text": prompt}]
        for image in images:
            address = f"data:image/jpeg;base64,{base64.b64encode(self._jpeg(image)).decode('ascii')}"
            content.append({"type": "image_url", "image_url": {"url": address}})
        return {
            "model": model,
            "messages": [{"role": "user", "content": content if images else prompt}],
            **self._sampling,
        }

    def _jpeg(self, image: np.ndarray) -> bytes:
        height, width = image.shape[:2]
        share = min(1.0, self._longer_side / max(width, height))
        size = (max(1, round(width * share)), max(1, round(height * share)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if share < 1 else image
        return cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()

    def _kept(self, body: Mapping[str, Any]) -> Path | None:
        if self._cache is None:
            return None
        asked = json.dumps([self._url, body], sort_keys=True)
        key = hashlib.sha256(asked.encode()).hexdigest()
        return self._cache / key[:2] / f"{key}.json"

    def _headers(self) -> dict[str, str]:
        key = os.environ.get(self._key_env or KEY_VARIABLE, "").strip()
        parts = urlsplit(self._url)
        safe = parts.scheme == "https" or parts.hostname in ("localhost", "127.0.0.1", "::1")
        return {"Authorization": f"Bearer {key}"} if key and (safe or self._key_env) else {}

    def _reason(self, value: Any) -> str:
        error = value.get("error", value) if isinstance(value, Mapping) else value
        text = str(error.get("message", error) if isinstance(error, Mapping) else error)
        for secret in self._headers().values():
            text = text.replace(secret.removeprefix("Bearer "), "***")
        return text[:300]


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _split(address: str) -> tuple[str, str]:
    at = min((i for i in (address.find("@http://"), address.find("@https://")) if i > 0), default=-1)
    parts = urlsplit(address[at + 1 :]) if at > 0 else None
    if parts is None or not parts.hostname or parts.username is not None:
        raise ConfigError(
            "is not MODEL@URL without credentials",
            where=f"captions openai:{address.split('@', maxsplit=1)[0]}@…",
            mend=f"e.g. openai:Qwen/Qwen2.5-VL-7B-Instruct@http://localhost:8000/v1, and the key in {KEY_VARIABLE}",
        )
    return address[:at], address[at + 1 :].rstrip("/")


def _cache_folder(option: str) -> Path | None:
    if option == "off":
        return None
    named = option or os.environ.get(CACHE_VARIABLE, "")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "traceworld" / "captions"


def _content(value: Any) -> str:
    """The words of a chat completion, "" if there are none (which then counts as an answer that cannot be read)."""
    try:
        content = value["choices"][0]["message"].get("content") or ""
    except (KeyError, IndexError, TypeError, AttributeError):
        return ""
    if isinstance(content, list):  # parts, as some servers answer
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return str(content)
