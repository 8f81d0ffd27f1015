"""A small predictor and the prediction server in a thread, for tests over real sockets."""

import asyncio
import threading
from contextlib import contextmanager

import numpy as np

from traceworld.serving.http_app import listen, make_server
from traceworld.serving.predict_app import PredictServerConfig, build_app
from traceworld.traces.types import TracePrediction


class Flow:
    """Its traces are a function of everything in the observation; fails on the instruction `fail`; waits at `gate`."""

    name = "flow"

    def __init__(self):
        self.seen, self.gate, self.entered = [], threading.Event(), threading.Semaphore(0)
        self.gate.set()

    @staticmethod
    def right(observation, num_samples, seed):
        rng = np.random.default_rng(
            [seed, int(observation.image.astype(np.uint64).sum()), len(observation.instruction)]
        )
        N = len(observation.keypoints_uv)
        uvz = rng.uniform(-1, 1, (num_samples, N, 4, 3)).astype(np.float32)
        uvz[..., :2] += observation.keypoints_uv[None, :, None].astype(np.float32)
        return TracePrediction(
            uvz,
            rng.random((num_samples, N, 4)) > 0.3,
            clock=observation.clock,
            step=observation.step,
            timing={"total": 0.25},
        )

    def predict(self, observation, num_samples=1, seed=0):
        self.entered.release()
        assert self.gate.wait(30)
        self.seen.append(observation)
        if observation.instruction == "fail":
            raise ZeroDivisionError("the predictor's own fault")
        return self.right(observation, num_samples, seed)


class FlowOfMany(Flow):
    """Takes several observations in one call."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def predict_many(self, observations, num_samples, seeds):
        self.entered.release()
        assert self.gate.wait(30)
        self.sizes.append((len(observations), num_samples))
        if any(observation.instruction == "fail" for observation in observations):
            raise ZeroDivisionError("one of them")
        return [self.right(o, num_samples, seed) for o, seed in zip(observations, seeds, strict=True)]


@contextmanager
def predict_server(predictor, **options):
    """(url, service) of a running server."""
    config = PredictServerConfig(**{"port": 0, "shutdown_timeout_s": 10.0, **options})
    app = build_app(predictor, config)
    server, sock = make_server(app, config), listen(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[sock])), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}", app.state.service
    finally:
        predictor.gate.set()
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
