"""Any vision-language model behind an OpenAI-compatible chat endpoint as a trace predictor: `openai:MODEL@URL`."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from jaxtyping import Float

from traceworld.errors import ConfigError
from traceworld.models.baselines.anchors import anchor_uvz
from traceworld.models.remote.address import parse_address, read_options
from traceworld.models.remote.answers import Answer, AnswerCache, Usage
from traceworld.models.remote.drawing import base64_text, coloured_depth, depth_range, enlarged, numbered, png
from traceworld.models.remote.parsing import Waypoints, read_waypoints
from traceworld.models.remote.prompts import IMAGE, METRIC, SPACES, question, thousandths, waypoint_steps
from traceworld.perception.http_json import Patience, Reply, post_json
from traceworld.traces.types import Observation, TracePrediction

KEY_VARIABLE = "OPENAI_API_KEY"
HOPELESS = 10
"""After so many answers in a row lost to time-outs or connections, the rest fail at once instead of after their deadline."""
_OPTIONAL_FIELDS = ("seed", "temperature", "response_format", "max_tokens")
_LOST = ("timeout", "connection")


@dataclass(frozen=True)
class VlmOptions:
    """Options of an address (`openai:MODEL@URL#space=metric&waypoints=8`).

    Attributes:
        space: `image` (u, v; scored in 2D) or `metric` (u, v and change of depth in metres).
        waypoints: asked for per keypoint, evenly over the horizon (a straight line between them).
        horizon: steps to predict.
        temperature, max_tokens: sent if given. json: ask for JSON mode.
        timeout_s, deadline_s, retries, backoff_s: `perception.http_json.Patience`.
        parallel: samples asked for at the same time.
        longer_side: pixels of the picture that is sent.
        key_env: environment variable that holds the key; named, the key is sent wherever the address points, else only over
            https or to this machine.
        cache: folder of kept answers, or `off`; empty: the user's cache folder.
        usd_in, usd_out: price of a million tokens, to have the cost in the report.
    """

    space: str = IMAGE
    waypoints: int = 32
    horizon: int = 32
    temperature: float | None = None
    max_tokens: int = 0
    json: int = 0
    timeout_s: float = 120.0
    deadline_s: float = 300.0
    retries: int = 3
    backoff_s: float = 1.0
    parallel: int = 4
    longer_side: int = 768
    key_env: str = ""
    cache: str = ""
    usd_in: float = 0.0
    usd_out: float = 0.0

    def __post_init__(self):
        if self.space not in SPACES:
            raise ConfigError(f"'{self.space}' is unknown", where="space", mend=" or ".join(SPACES))
        if min(self.waypoints, self.horizon, self.parallel) < 1 or self.retries < 0:
            raise ConfigError("waypoints, horizon and parallel are at least 1, retries at least 0", where="options")
        if min(self.timeout_s, self.deadline_s) <= 0 or self.backoff_s < 0:
            raise ConfigError("time-outs are positive", where="timeout_s, deadline_s")

    @property
    def patience(self) -> Patience:
        return Patience(self.timeout_s, self.deadline_s, self.retries, self.backoff_s)


class VlmPredictor:
    """A model prompted for waypoints of numbered keypoints; one request per sample.

    An answer that never comes or holds no waypoints counts as a failure and is scored as "nothing moves", so that an entrant
    gains nothing by not answering; what of an answer had to be mended is counted too (`usage`).

    Args:
        model: as the server calls it. url: the API's root, e.g. `https://api.openai.com/v1`.
    """

    num_parameters = None

    def __init__(self, model: str, url: str, options: VlmOptions | None = None):
        self.model_name, self.url, self.options = model, url, options or VlmOptions()
        self.gives_depth = self.options.space == METRIC
        self.takes = ("depth", "history", "intrinsics") if self.gives_depth else ("depth", "history")
        self.name = f"openai:{model}" + (" metric" if self.gives_depth else "")
        self._cache, self._usage = AnswerCache(self.options.cache), Usage()
        self._lost_in_a_row, self._served = 0, False
        self._refused_fields: tuple[str, ...] = ()

    @classmethod
    def from_address(cls, text: str) -> VlmPredictor:
        """From `openai:MODEL@URL#option=value&…`. Raises ConfigError."""
        address = parse_address(text)
        return cls(address.model, address.url, read_options(VlmOptions, address.options, f"openai:{address.model}"))

    def predict(self, observation: Observation, num_samples: int = 1, seed: int = 0) -> TracePrediction:
        """S answers as traces, all steps valid; without depth z counts from where a point is now.

        Raises:
            InvalidInputError: no keypoints.
            ConfigError: the endpoint, the model or the key is wrong: the server has answered nothing yet and refuses the
                plainest request (400, 401, 403, 404, 405, 422).
            DatasetError: the answer cache cannot be written.
        """
        started = time.perf_counter()
        anchor = anchor_uvz(observation)
        horizon = self.options.horizon
        steps = waypoint_steps(horizon, min(self.options.waypoints, horizon))
        prompt, pictures = self._question(observation, steps)
        with ThreadPoolExecutor(min(self.options.parallel, num_samples)) as threads:
            asked = [threads.submit(self._ask, prompt, pictures, (seed + s) % 2**31) for s in range(num_samples)]
            answers = [each.result() for each in asked]
        traces = []
        for answer in answers:
            said = read_waypoints(answer.text, thousandths(anchor[:, :2].astype(float)), len(steps))
            failure = answer.failure or said.failure
            self._usage.add(answer, failure, Counter() if failure else said.mends)
            traces.append(follow(anchor, said, steps, horizon, self.gives_depth))
        uvz = np.stack(traces).astype(np.float32)
        return TracePrediction(
            uvz=uvz,
            valid=np.ones(uvz.shape[:3], bool),
            clock=observation.clock,
            step=observation.step,
            text=answers[0].text or None,
            timing={"total": time.perf_counter() - started},
        )

    def usage(self) -> dict[str, Any]:
        """Answers, failures, mends, tokens, seconds and cost since the last call."""
        taken, self._usage = self._usage, Usage()
        return taken.report((self.options.usd_in, self.options.usd_out))

    def _question(self, observation: Observation, steps: Sequence[int]) -> tuple[str, list[bytes]]:
        assert observation.keypoints_uv is not None
        side = self.options.longer_side
        pictures = [png(numbered(enlarged(observation.image, side), observation.keypoints_uv))]
        near_far = None if observation.depth_m is None else depth_range(observation.depth_m)
        if observation.depth_m is not None and near_far is not None:
            pictures.append(png(coloured_depth(observation.depth_m, near_far)))
        return question(observation, self.options.space, steps, near_far), pictures

    def _ask(self, prompt: str, pictures: Sequence[bytes], seed: int) -> Answer:
        """One sample: from the cache, or from the server (then kept)."""
        key = self._cache.key([self.url, self.model_name, self._sampling(seed)], prompt, pictures, seed)
        kept = self._cache.find(key)
        if kept is not None:
            return kept
        if self._lost_in_a_row >= HOPELESS:
            return Answer(failure="gave_up")
        reply = self._post(self._body(prompt, pictures, seed))
        self._lost_in_a_row = self._lost_in_a_row + 1 if reply.failure in _LOST else 0
        self._served |= not reply.failure
        answer = read_reply(reply)
        if not answer.failure:
            self._cache.keep(key, answer, {"model": self.model_name, "url": self.url, "prompt": prompt, "seed": seed})
        return answer

    def _post(self, body: dict[str, Any]) -> Reply:
        """Ask; a server that refuses the request as such is asked again without the fields that not every server knows."""
        url, headers = f"{self.url}/chat/completions", self._headers()
        plain = {name: value for name, value in body.items() if name not in self._refused_fields}
        reply = post_json(url, plain, headers, self.options.patience)
        optional = tuple(name for name in _OPTIONAL_FIELDS if name in plain)
        if reply.status in (400, 422) and optional:
            plainer = {name: value for name, value in plain.items() if name not in optional}
            reply = post_json(url, plainer, headers, self.options.patience)
            if not reply.failure:
                self._refused_fields += optional
        # Before anything was answered the address is wrong; later one request was, which is a failure like others.
        if reply.status in (400, 401, 403, 404, 405, 422) and not self._served and not _blocked(reply.value):
            raise ConfigError(
                f"refuses the request with {reply.status}: {_said(reply.value, headers)}",
                where=url,
                mend=f"check address, model '{self.model_name}' and the key in {self.options.key_env or KEY_VARIABLE}",
            )
        return reply

    def _sampling(self, seed: int) -> dict[str, Any]:
        options = self.options
        fields: dict[str, Any] = {"seed": seed}
        if options.temperature is not None:
            fields["temperature"] = options.temperature
        if options.max_tokens:
            fields["max_tokens"] = options.max_tokens
        if options.json:
            fields["response_format"] = {"type": "json_object"}
        return fields

    def _body(self, prompt: str, pictures: Sequence[bytes], seed: int) -> dict[str, Any]:
        urls = [f"data:image/png;base64,{base64_text(picture)}" for picture in pictures]
        content = [{"type": "text", "text": prompt}, *({"type": "image_url", "image_url": {"url": u}} for u in urls)]
        return {"model": self.model_name, "messages": [{"role": "user", "content": content}], **self._sampling(seed)}

    def _headers(self) -> dict[str, str]:
        key = os.environ.get(self.options.key_env or KEY_VARIABLE, "").strip()
        parts = urlsplit(self.url)
        safe = parts.scheme == "https" or parts.hostname in ("localhost", "127.0.0.1", "::1")
        return {"Authorization": f"Bearer {key}"} if key and (safe or self.options.key_env) else {}


def read_reply(reply: Reply) -> Answer:
    """The words and counts of a chat completion; a refusal or a blocked answer is a failure."""
    if reply.failure:
        return Answer(failure="refusal" if _blocked(reply.value) else reply.failure, seconds=reply.seconds)
    value = reply.value if isinstance(reply.value, Mapping) else {}
    usage = value.get("usage")
    counted = usage if isinstance(usage, Mapping) else {}
    answer = Answer(
        seconds=reply.seconds,
        prompt_tokens=_whole(counted.get("prompt_tokens")),
        completion_tokens=_whole(counted.get("completion_tokens")),
    )
    try:
        choice = value["choices"][0]
        message = choice["message"]
        content = message.get("content") or ""
        if isinstance(content, list):  # parts, as some servers answer
            content = "".join(str(part.get("text", "")) for part in content)
        refused = bool(message.get("refusal")) or choice.get("finish_reason") == "content_filter"
    except (KeyError, IndexError, TypeError, AttributeError):
        return replace(answer, failure="not_a_completion")
    failure = "refusal" if refused else "" if str(content).strip() else "empty"
    return replace(answer, text=str(content), failure=failure)


def follow(
    anchor: Float[np.ndarray, "N 3"], said: Waypoints, steps: Sequence[int], horizon: int, with_depth: bool
) -> Float[np.ndarray, "N H 3"]:
    """Traces through the waypoints, straight between them, starting at the anchor; unanswered keypoints stay."""
    offset = np.zeros((len(anchor), len(steps) + 1, 3))
    offset[:, 1:, :2] = said.values[..., :2] / 500 - 1 - anchor[:, None, :2]
    if with_depth:
        offset[:, 1:, 2] = said.values[..., 2]
    offset *= said.answered[:, None, None]
    at = np.interp(np.arange(1, horizon + 1), [0, *steps], np.arange(len(steps) + 1))
    low = np.minimum(np.floor(at).astype(int), len(steps) - 1)
    share = (at - low)[:, None]
    return anchor[:, None] + (1 - share) * offset[:, low] + share * offset[:, low + 1]


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def _blocked(value: Any) -> bool:
    """An error answer that is a refusal of the content."""
    error = value.get("error") if isinstance(value, Mapping) else None
    return isinstance(error, Mapping) and str(error.get("code")).startswith(("content_filter", "content_policy"))


def _said(value: Any, headers: Mapping[str, str]) -> str:
    """The server's reason, short, and without the key should it repeat it."""
    error = value.get("error", value) if isinstance(value, Mapping) else value
    text = str(error.get("message", error) if isinstance(error, Mapping) else error)
    for secret in headers.values():
        text = text.replace(secret.removeprefix("Bearer "), "***")
    return text[:300]
