"""The worker of bench.live: traces its memory while all agents are live, and again when none is.

Prints one RESULT line: bytes per agent between both, how many were live, how many are left, how many have a state.
"""

import asyncio
import gc
import json
import os
import sys
import tracemalloc
from typing import Any

from bench.workload import Counter
from rookery import App

COUNT = int(os.environ.get("BENCH_COUNT", "0"))

app = App(agents=[Counter])
tracemalloc.start()


def traced() -> int:
    """Bytes in use."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def total(name: str) -> int:
    """Over all partitions."""
    partitions: dict[int, Any] = app.engine.statistics()["partitions"]
    return sum(part.get(name, 0) for part in partitions.values())


@app.task  # type: ignore[untyped-decorator]
async def measure() -> None:
    engine = app.engine
    while engine.counts["committed_turns"] < COUNT or engine.shipper.shipped_count < COUNT:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    await asyncio.sleep(1.0)  # what it took to get here is let go
    live, before = total("live"), traced()
    for partition in engine.running_partitions():
        for mailbox in partition.mailboxes.values():
            mailbox.used_at = float("-inf")
    while total("live"):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    await asyncio.sleep(1.0)
    result = {
        "bytes": (before - traced()) / COUNT,
        "live": live,
        "left": total("live"),
        "agents": total("agents"),
    }
    print("RESULT " + json.dumps(result), file=sys.__stdout__, flush=True)
