"""Small policies and a server in a thread, for tests over real sockets."""

import asyncio
import threading
import time
import zlib
from contextlib import contextmanager

import numpy as np

from traceworld.serving.adapters import METAWORLD
from traceworld.serving.policy_server import PolicyServer, PolicyServerConfig
from traceworld.traces.robot import ActionChunk
from traceworld.traces.types import TracePrediction


def right_actions(images, state, instruction, dim=4, horizon=8):
    """Actions [K,A] that every byte of an observation has a part in: what `Echo` must answer."""
    sums = [int(np.asarray(image, np.uint64).sum()) for image in images]
    rng = np.random.default_rng([zlib.crc32(instruction.encode()), *sums])
    return (rng.uniform(-1, 1, (horizon, dim)) + np.float32(state).sum()).astype(np.float32)


class Echo:
    """A policy without memory: its actions are a function of the observation."""

    name = "echo"
    stateless = True

    def __init__(self, dim=4, seconds=0.0):
        self.dim, self.seconds = dim, seconds

    def reset(self, seed=0):
        pass

    def act(self, observation):
        time.sleep(self.seconds)
        actions = right_actions(observation.images.values(), observation.state, observation.instruction, self.dim)
        uvz = np.zeros((1, 3, 5, 3), np.float32)
        return ActionChunk(actions, TracePrediction(uvz, np.ones((1, 3, 5), bool)), timing={"total": 0.5})


class Counting:
    """A policy that remembers: its actions are how often it was asked in this episode, and the episode's seed."""

    name = "counting"

    def __init__(self):
        self.asked, self.seed, self.steps = 0, None, []

    def reset(self, seed=0):
        self.asked, self.seed = 0, seed

    def act(self, observation):
        self.asked += 1
        self.steps.append(observation.step)
        return ActionChunk(np.full((2, 4), [self.asked, self.seed, observation.step, 0], np.float32))


class Forking(Counting):
    def fork(self):
        return Forking()


class Together(Echo):
    """Answers several at once, as trained policies do; says how many, and hands out traces only if it is told to."""

    stateless = False

    def __init__(self, seconds=0.0):
        super().__init__(seconds=seconds)
        self.predictions, self.sizes, self.told = False, [], []

    def act(self, observation):
        raise AssertionError("is asked for batches only")

    def act_batch(self, observations, seeds):
        self.sizes.append(len(observations))
        self.told.append(self.predictions)
        if any(observation.instruction == "fail" for observation in observations):
            raise ZeroDivisionError("one of them")
        chunks = [Echo.act(self, observation) for observation in observations]
        shown = [chunk.prediction if self.predictions else None for chunk in chunks]
        return [ActionChunk(chunk.actions + seed, seen) for chunk, seed, seen in zip(chunks, seeds, shown, strict=True)]


class Inpainting(Together):
    """Goes on from what will be played meanwhile, as the action expert does; notes it, and which seed it was then told."""

    def __init__(self):
        super().__init__()
        self.seed, self.committed = None, []

    def reset(self, seed=0):
        self.seed = seed

    def act_after(self, observation, committed):
        self.committed.append((self.seed, committed))
        actions = right_actions(observation.images.values(), observation.state, observation.instruction)
        actions[: len(committed)] = committed
        return ActionChunk(actions)


class Gate(Echo):
    """Acts only when it is let, once for all or each time: for tests of what happens meanwhile."""

    def __init__(self, each=False):
        super().__init__()
        self.entered, self.opened, self.acted = threading.Semaphore(0), threading.Event(), 0
        self._one = threading.Semaphore(0) if each else None

    def let_one(self):
        self._one.release()

    def act(self, observation):
        self.entered.release()
        assert self._one.acquire(timeout=30) if self._one else self.opened.wait(30)
        self.acted += 1
        return super().act(observation)


class Failing(Echo):
    def act(self, observation):
        raise ZeroDivisionError("the policy's own fault")


class Running:
    """A server on a thread of its own."""

    def __init__(self, server, loop):
        self.server, self.loop = server, loop
        self.stopped = None

    @property
    def port(self):
        return self.server.port

    @property
    def url(self):
        return f"ws://127.0.0.1:{self.port}"

    def counts(self):
        return self.server.metrics.counts()

    def begin_stop(self):
        """Start the shutdown; the future says whether everything was answered."""
        self.stopped = asyncio.run_coroutine_threadsafe(self.server.stop(), self.loop)
        return self.stopped


@contextmanager
def policy_server(policy=None, adapter=METAWORLD, metadata=None, **options):
    """A running `PolicyServer` on a free port."""
    options = {"port": 0, "shutdown_timeout_s": 10.0, **options}
    made, failed = threading.Event(), []
    running = Running(None, None)

    async def serve():
        running.loop = asyncio.get_running_loop()
        running.end = asyncio.Event()
        try:
            running.server = PolicyServer(policy or Echo(), adapter, PolicyServerConfig(**options), metadata)
            await running.server.start()
        except Exception as error:
            failed.append(error)
            made.set()
            return
        made.set()
        await running.end.wait()
        if running.stopped is None:
            await running.server.stop()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert made.wait(10)
    if failed:
        raise failed[0]
    try:
        yield running
    finally:
        if running.stopped is not None:
            running.stopped.result(20)
        running.loop.call_soon_threadsafe(running.end.set)
        thread.join(20)
        assert not thread.is_alive()
