"""Commands that serve: serve policy, serve predict, serve query."""

from __future__ import annotations

import dataclasses
import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg, subcommand

from traceworld.commands.printing import emit, tree
from traceworld.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Server:
    """What all servers can be told."""

    host: str = "127.0.0.1"
    """0.0.0.0 is reachable from everywhere: give a key then."""
    port: int
    """0: any free one."""
    api_key_file: Path | None = None
    """A file with the key that clients must show. Default: the variable TRACEWORLD_API_KEY, else none."""
    device: str = "cpu"
    max_connections: int = 128
    max_queue: int = 64
    """Requests that may wait for the model; one more is refused."""
    max_megabytes: float
    """Of one request."""
    timeout: float
    """Seconds from a request to its answer."""
    shutdown_timeout: float
    """Seconds that requests may still take after SIGTERM."""
    json: bool = False
    """Print the address, and in the end the counts, as lines of JSON."""

    def _limits(self) -> dict[str, Any]:
        """The fields that the configs of all servers have."""
        from traceworld.serving.keys import find_key

        return {
            "host": self.host,
            "port": self.port,
            "api_key": _key_for(self.host, find_key(self.api_key_file)),
            "max_connections": self.max_connections,
            "max_queue": self.max_queue,
            "inference_timeout_s": self.timeout,
            "shutdown_timeout_s": self.shutdown_timeout,
        }

    def _ready(self, url: str) -> None:
        _say_ready(url, self.json)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServePolicy(_Server):
    """Serve a policy over openpi's websocket protocol; `openpi-client` and `traceworld-client` drive it."""

    policy: str
    """A policy's name or a checkpoint folder."""
    adapter: Literal["libero", "droid", "aloha", "metaworld", "lerobot"] = "metaworld"
    """Keys and sizes of observations and actions. lerobot: those of the dataset that the policy learned from."""
    prompt: str | None = None
    """The instruction of requests without one."""
    steps_per_request: int = 1
    """Actions of a chunk that clients play before they ask again (for clients that do not say their step)."""
    max_batch: int = 8
    """Requests that go to the policy in one call, if it can take several."""
    port: int = 8000
    max_megabytes: float = 16.0
    timeout: float = 30.0
    shutdown_timeout: float = 30.0

    def run(self) -> int:
        from traceworld.policies.registry import load_policy
        from traceworld.serving.adapters import adapter_for
        from traceworld.serving.codec import CodecLimits
        from traceworld.serving.policy_server import PolicyServerConfig, serve_policy

        config = PolicyServerConfig(
            default_prompt=self.prompt,
            steps_per_request=self.steps_per_request,
            limits=CodecLimits(max_bytes=_bytes(self.max_megabytes)),
            max_batch=self.max_batch,
            **self._limits(),
        )
        policy = load_policy(self.policy, device=self.device)
        _say_counts(serve_policy(policy, adapter_for(self.adapter, policy), config, ready=self._ready), self.json)
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServePredict(_Server):
    """Serve a trace predictor over HTTP (JSON or multipart; /openapi.json says how)."""

    model: str = "mu0-nano"
    """A model's name, address or checkpoint folder."""
    max_batch: int = 8
    """Questions that go to the model together."""
    window_ms: float = 5.0
    """How long the first of a batch waits for others."""
    port: int = 8001
    max_megabytes: float = 32.0
    timeout: float = 60.0
    shutdown_timeout: float = 60.0

    def run(self) -> int:
        _require_http("python_multipart")
        from traceworld.models.predictor import load_predictor
        from traceworld.serving.predict_app import PredictServerConfig, serve_predict

        config = PredictServerConfig(
            max_request_bytes=_bytes(self.max_megabytes),
            max_batch=self.max_batch,
            window_s=self.window_ms / 1000,
            **self._limits(),
        )
        predictor = load_predictor(self.model, device=self.device)
        _say_counts(serve_predict(predictor, config, ready=self._ready), self.json)
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeQuery(_Server):
    """Answer questions about pictures as RoboTracer's and RoboRefer's servers do (POST /query); `robotracer:URL` asks it."""

    model: str = "mu0-nano"
    """A model's name, address or checkpoint folder: a RoboTracer answers in its words, any other with its trace in words."""
    folder: Path | None = None
    """Files below it may be named in requests (image_paths). Default: none may."""
    port: int = 25547
    max_megabytes: float = 32.0
    timeout: float = 120.0
    shutdown_timeout: float = 120.0

    def run(self) -> int:
        _require_http()
        from traceworld.models.predictor import load_predictor
        from traceworld.serving.query_app import QueryServerConfig, serve_query

        limits = self._limits()
        config = QueryServerConfig(folder=self.folder, max_request_bytes=_bytes(self.max_megabytes), **limits)
        predictor = load_predictor(self.model, device=self.device)
        _say_counts(serve_query(predictor, config, ready=self._ready), self.json)
        return 0


@dataclasses.dataclass(frozen=True)
class Serve:
    """Servers."""

    command: Annotated[
        Annotated[ServePolicy, subcommand("policy", prefix_name=False)]
        | Annotated[ServePredict, subcommand("predict", prefix_name=False)]
        | Annotated[ServeQuery, subcommand("query", prefix_name=False)],
        arg(name=""),
    ]

    def run(self) -> int:
        return self.command.run()


def _require_http(*more: str) -> None:
    from traceworld.extras import require

    for module in ("fastapi", "uvicorn", *more):
        require(module)


def _key_for(host: str, key: str | None) -> str | None:
    from traceworld.serving.keys import KEY_VARIABLE, is_loopback

    if key is None and not is_loopback(host):
        sys.stderr.write(f"warning: whoever reaches {host} may ask; set {KEY_VARIABLE} or --api-key-file\n")
    return key


def _bytes(megabytes: float) -> int:
    if not 0.001 <= megabytes <= 4096:
        raise ConfigError(f"{megabytes:g}", where="max_megabytes", mend="give 0.001 to 4096")
    return round(megabytes * 2**20)


def _say_ready(url: str, as_json: bool) -> None:
    if as_json:
        _say_line({"url": url})
    else:
        emit(f"{url}  (Ctrl-C stops)", False)
    sys.stdout.flush()


def _say_counts(counts: dict[str, int], as_json: bool) -> None:
    if as_json:
        _say_line({"requests": counts})
    else:
        emit(counts, False, tree("requests", counts))


def _say_line(value: dict[str, Any]) -> None:
    sys.stdout.write(jsonlib.dumps(value) + "\n")
