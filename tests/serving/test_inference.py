"""The worker: order, bounds, time-outs, batches, and that nothing submitted is lost when it stops."""

import asyncio
import threading
import time

import pytest

from traceworld.serving.inference import InferenceWorker
from traceworld.serving.refusals import BusyError, StoppingError, TooSlowError


def run(steps):
    return asyncio.run(asyncio.wait_for(steps, 60))


def held(process=None, **options):
    """A worker whose first call waits until `gate` is set, and the calls it got."""
    gate, calls, entered = threading.Event(), [], threading.Event()

    def work(items):
        calls.append(list(items))
        entered.set()
        assert gate.wait(30)
        return process(items) if process else [10 * item for item in items]

    return work, gate, calls, entered


def test_results_come_to_those_who_asked():
    async def steps():
        worker = InferenceWorker(lambda items: [item + 1 for item in items], max_queue=100)
        results = await asyncio.gather(*[worker.submit(i, 30) for i in range(50)])
        assert results == list(range(1, 51))
        assert await worker.stop(10)

    run(steps())


def test_the_event_loop_stays_free():
    async def steps():
        work, gate, _, entered = held()
        worker = InferenceWorker(work, max_queue=4)
        asked = asyncio.ensure_future(worker.submit(1, 30))
        await asyncio.to_thread(entered.wait, 10)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not asked.done()
        gate.set()
        assert await asked == 10
        await worker.stop(10)

    run(steps())


def test_a_full_queue_refuses_at_once_and_goes_on():
    async def steps():
        work, gate, _, entered = held()
        worker = InferenceWorker(work, max_queue=2)
        running = asyncio.ensure_future(worker.submit(0, 30))
        await asyncio.to_thread(entered.wait, 10)
        waiting = [asyncio.ensure_future(worker.submit(i, 30)) for i in (1, 2)]
        await asyncio.sleep(0)
        assert worker.waiting == 2
        with pytest.raises(BusyError, match="2 requests wait"):
            await worker.submit(3, 30)
        gate.set()
        assert await asyncio.gather(running, *waiting) == [0, 10, 20]
        assert await worker.submit(4, 30) == 40
        await worker.stop(10)

    run(steps())


def test_who_waits_too_long_is_told_and_is_not_worked_for():
    async def steps():
        work, gate, calls, entered = held()
        worker = InferenceWorker(work, max_queue=8)
        running = asyncio.ensure_future(worker.submit(0, 30))
        await asyncio.to_thread(entered.wait, 10)
        with pytest.raises(TooSlowError, match=r"0\.05 s"):
            await worker.submit(1, 0.05)
        gone = asyncio.ensure_future(worker.submit(2, 30, lambda: False))
        last = asyncio.ensure_future(worker.submit(3, 30))
        await asyncio.sleep(0)
        gate.set()
        assert await asyncio.gather(running, last) == [0, 30]
        assert calls == [[0], [3]]
        with pytest.raises(TooSlowError):
            await gone
        await worker.stop(10)

    run(steps())


@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(3), KeyboardInterrupt()])
def test_a_failure_is_the_askers_and_the_worker_lives_on(error):
    def process(items):
        if items[0] == 0:
            raise error
        return items

    async def steps():
        worker = InferenceWorker(process, max_queue=8)
        with pytest.raises(Exception, match=r"bad|SystemExit|KeyboardInterrupt"):
            await worker.submit(0, 30)
        assert await worker.submit(5, 30) == 5
        await worker.stop(10)

    run(steps())


def test_one_of_a_batch_may_fail_alone():
    async def steps():
        worker = InferenceWorker(lambda items: [ValueError("odd") if i % 2 else i for i in items], 8, 8, 0.2)
        results = await asyncio.gather(*[worker.submit(i, 30) for i in range(4)], return_exceptions=True)
        assert results[::2] == [0, 2]
        assert [str(each) for each in results[1::2]] == ["odd", "odd"]
        await worker.stop(10)

    run(steps())


def test_what_is_asked_together_goes_together_up_to_the_bound():
    async def steps():
        work, gate, calls, entered = held()
        worker = InferenceWorker(work, max_queue=16, max_batch=4, window_s=0.0)
        first = asyncio.ensure_future(worker.submit(0, 30))
        await asyncio.to_thread(entered.wait, 10)
        others = [asyncio.ensure_future(worker.submit(i, 30)) for i in range(1, 8)]
        await asyncio.sleep(0)
        gate.set()
        assert await asyncio.gather(first, *others) == [10 * i for i in range(8)]
        assert calls == [[0], [1, 2, 3, 4], [5, 6, 7]]
        await worker.stop(10)

    run(steps())


def test_stopping_finishes_what_was_submitted_and_takes_nothing_new():
    async def steps():
        work, gate, _, entered = held()
        worker = InferenceWorker(work, max_queue=8)
        asked = [asyncio.ensure_future(worker.submit(i, 30)) for i in range(5)]
        await asyncio.to_thread(entered.wait, 10)
        stopping = asyncio.ensure_future(worker.stop(30))
        await asyncio.sleep(0.01)
        with pytest.raises(StoppingError):
            await worker.submit(9, 30)
        gate.set()
        assert await stopping is True
        assert await asyncio.gather(*asked) == [0, 10, 20, 30, 40]

    run(steps())


def test_stopping_gives_up_on_a_stuck_model():
    async def steps():
        work, gate, _, entered = held()
        worker = InferenceWorker(work, max_queue=8)
        asked = asyncio.ensure_future(worker.submit(1, 60))
        await asyncio.to_thread(entered.wait, 10)
        started = time.monotonic()
        assert await worker.stop(0.1) is False
        assert time.monotonic() - started < 10
        gate.set()
        assert await asked == 10

    run(steps())
