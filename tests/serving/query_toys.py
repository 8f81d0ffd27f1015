"""Predictors that answer queries, and the query server in a thread, for tests over real sockets."""

import asyncio
import threading
from contextlib import contextmanager

import numpy as np

from traceworld.models.baselines.anchors import anchor_uvz
from traceworld.serving.http_app import listen, make_server
from traceworld.serving.query_app import QueryServerConfig, build_query_app
from traceworld.traces.types import TracePrediction


class Speaker:
    """Says what it was shown; fails on the question `fail`; waits at `gate`."""

    name = "speaker"

    def __init__(self, words="[(500, 500, 1.000), (600, 500, 1.100)]"):
        self.words, self.seen, self.gate, self.entered = words, [], threading.Event(), threading.Semaphore(0)
        self.gate.set()

    def answer(self, image, question, *, K=None, depth_m=None, seed=0):
        self.entered.release()
        assert self.gate.wait(60)
        self.seen.append({"image": image, "text": question, "K": K, "depth_m": depth_m, "seed": seed})
        if question == "fail":
            raise ZeroDivisionError("the predictor's own fault")
        return self.words

    def predict(self, observation, num_samples=1, seed=0):
        raise AssertionError("a predictor that speaks is asked for words")


class Slide:
    """Points right of the middle move right by `by` per step and away by 0.1 m; the third of four steps is the last valid one."""

    name = "slide"

    def __init__(self, by=0.1):
        self.by, self.seen = by, []

    def predict(self, observation, num_samples=1, seed=0):
        self.seen.append(observation)
        uv = observation.keypoints_uv.astype(np.float32)
        step = np.zeros((len(uv), 4, 3), np.float32)
        moving = (uv[:, 0] > 0)[:, None]
        step[..., 0] = moving * uv[:, :1] * self.by * np.arange(1, 5)  # farther right, faster
        step[..., 2] = moving * 0.1 * np.arange(1, 5)
        valid = np.ones((1, len(uv), 4), bool)
        valid[..., 3] = False
        return TracePrediction((anchor_uvz(observation)[:, None] + step)[None], valid)


@contextmanager
def query_server(predictor, **options):
    """(url, service) of a running server."""
    config = QueryServerConfig(**{"port": 0, "shutdown_timeout_s": 20.0, **options})
    app = build_query_app(predictor, config)
    server, sock = make_server(app, config), listen(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[sock])), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}", app.state.service
    finally:
        if hasattr(predictor, "gate"):
            predictor.gate.set()
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()
