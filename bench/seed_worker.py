"""The worker of the seed table: tells the times of every stretch once all its turns are committed."""

import json
import statistics
import sys
import time
from collections import deque

from bench.workload import Timed
from rookery import Agent, App, handler
from rookery.streams.engine.ownership import Ownership

finished: deque[Timed] = deque()
"""Turns that are not committed yet; with one partition, in the order in which they are."""
latencies: list[float] = []


class Counter(Agent):
    """Counts what is timed."""

    count: int = 0

    @handler
    async def timed(self, msg: Timed) -> None:
        self.count += 1
        finished.append(msg)


app = App(agents=[Counter])


@app.task  # type: ignore[untyped-decorator]
async def measure() -> None:
    """Look at the clock when a batch is acknowledged."""
    engine = app.engine
    committed_batch = engine.committed_batch

    def watched(ownership: Ownership, turns: int) -> None:
        now = time.monotonic()
        for _ in range(turns):
            message = finished.popleft()
            latencies.append(now - message.due)
            if len(latencies) == message.of:
                tell()
        committed_batch(ownership, turns)

    engine.committed_batch = watched  # type: ignore[method-assign]


def tell() -> None:
    """One RESULT line for a stretch."""
    latencies.sort()
    result = {
        "mean_ms": statistics.fmean(latencies) * 1e3,
        "p50_ms": latencies[len(latencies) // 2] * 1e3,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1e3,
        "count": len(latencies),
    }
    latencies.clear()
    print("RESULT " + json.dumps(result), file=sys.__stdout__, flush=True)
