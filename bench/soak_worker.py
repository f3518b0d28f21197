"""The worker of bench.soak: twice a second it tells what happened since, in a RESULT line.

Times from the intended send to the ack of the commit batch go into buckets, each two per cent wider than the last.
"""

import asyncio
import gc
import json
import sys
import time
from collections import Counter as Counts
from collections import defaultdict, deque

import psutil

from bench.gate import running
from bench.workload import Counter, Paced, Total, bucket
from rookery import App, handler
from rookery.streams.engine.ownership import Ownership

REPORT_SECONDS = 0.5

finished: defaultdict[int, deque[float]] = defaultdict(deque)
"""By partition, when messages were due whose turns are not committed yet, in the order in which they will be."""


class Soaked(Counter):
    """Counts what is paced."""

    @handler
    async def paced(self, msg: Paced) -> Total:
        self.count += 1
        finished[msg.partition].append(msg.due)
        return Total(self.count)


class Pauses:
    """How long the garbage collector held everything up."""

    def __init__(self) -> None:
        self.longest = self.total = 0.0
        self._began = 0.0
        gc.callbacks.append(self._called)

    def _called(self, phase: str, _: object) -> None:
        if phase == "start":
            self._began = time.perf_counter()
            return
        took = time.perf_counter() - self._began
        self.longest, self.total = max(self.longest, took), self.total + took


app = App(agents=[Soaked])


@app.task  # type: ignore[untyped-decorator]
async def measure() -> None:
    engine, pauses, process = app.engine, Pauses(), psutil.Process()
    committed_batch = engine.committed_batch
    buckets: Counts[int] = Counts()

    def watched(ownership: Ownership, turns: int) -> None:
        now, waiting = time.monotonic(), finished[ownership.number]
        for _ in range(min(turns, len(waiting))):
            buckets[bucket(now - waiting.popleft())] += 1
        committed_batch(ownership, turns)

    engine.committed_batch = watched  # type: ignore[method-assign]
    while True:
        await asyncio.sleep(REPORT_SECONDS)
        result = {
            "at": time.monotonic(),
            "owned": running(engine),
            "count": engine.counts["committed_turns"],
            "cpu_s": time.process_time(),
            "rss_mb": process.memory_info().rss / 1e6,
            "gc_longest_ms": pauses.longest * 1e3,
            "gc_s": pauses.total,
            "buckets": buckets,
        }
        print("RESULT " + json.dumps(result), file=sys.__stdout__, flush=True)
        buckets.clear()
        pauses.longest = 0.0
