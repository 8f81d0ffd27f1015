"""What a server counts, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Callable

from traceworld.extras import require

OUTCOMES = ("answered", "invalid_request", "busy", "timeout", "stopping", "failed", "left")
"""What may come of a request: an answer, one of the refusals (`refusals.word_of`), or a caller who is gone by then."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class ServerMetrics:
    """The figures of one server, in a registry of its own (two servers of one process do not add up).

    Args:
        waiting: gives how many requests wait for the worker.
        connections: gives how many connections are open.
    """

    def __init__(self, waiting: Callable[[], int], connections: Callable[[], int]):
        self._prometheus = prometheus = require("prometheus_client")
        self._registry = registry = prometheus.CollectorRegistry()
        self._requests = prometheus.Counter(
            "traceworld_requests", "Requests by what came of them", ["outcome"], registry=registry
        )
        for outcome in OUTCOMES:
            self._requests.labels(outcome)
        self._refused = prometheus.Counter(
            "traceworld_connections_refused", "Connections refused by reason", ["reason"], registry=registry
        )
        self._inference = prometheus.Histogram(
            "traceworld_inference_seconds", "Seconds in the model", registry=registry, buckets=_SECONDS
        )
        self._total = prometheus.Histogram(
            "traceworld_request_seconds",
            "Seconds from reading a request to its answer",
            registry=registry,
            buckets=_SECONDS,
        )
        prometheus.Gauge("traceworld_queue_length", "Requests that wait", registry=registry).set_function(waiting)
        prometheus.Gauge("traceworld_connections", "Open connections", registry=registry).set_function(connections)
        prometheus.ProcessCollector(registry=registry)

    @property
    def content_type(self) -> str:
        return str(self._prometheus.CONTENT_TYPE_LATEST)

    def count(self, outcome: str) -> None:
        """One more request, by what came of it (one of `OUTCOMES`)."""
        self._requests.labels(outcome).inc()

    def refuse(self, reason: str) -> None:
        """One more connection that was turned away or cut off."""
        self._refused.labels(reason).inc()

    def took(self, inference_s: float, total_s: float) -> None:
        """How long an answered request took."""
        self._inference.observe(inference_s)
        self._total.observe(total_s)

    def counts(self) -> dict[str, int]:
        """Requests so far by outcome."""
        name = "traceworld_requests_total"
        return {each: int(self._registry.get_sample_value(name, {"outcome": each}) or 0) for each in OUTCOMES}

    def render(self) -> bytes:
        """Prometheus' text format."""
        return bytes(self._prometheus.generate_latest(self._registry))
