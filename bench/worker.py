"""The worker of the durable-turn benchmark: a plain `faust -A bench.worker worker`, with a stop watch.

Prints one JSON line when BENCH_COUNT turns are committed and all their messages acknowledged, and stops.
"""

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Sequence

from bench.workload import Counter
from rookery import App
from rookery.streams.core.partition import Partition
from rookery.streams.log import Record

COUNT = int(os.environ.get("BENCH_COUNT", "0"))

app = App(agents=[Counter])


@app.task  # type: ignore[untyped-decorator]
async def measure() -> None:
    """Clock from the first fetch to the last broker ack."""
    engine = app.engine
    started = 0.0
    cpu = 0.0
    take = engine.inbound.take

    def watched(partition: Partition, lane: int, records: Sequence[Record]) -> None:
        nonlocal started, cpu
        started, cpu = time.perf_counter(), time.process_time()
        engine.inbound.take = take  # type: ignore[method-assign]
        take(partition, lane, records)

    engine.inbound.take = watched  # type: ignore[method-assign]
    while engine.counts["committed_turns"] < COUNT or engine.shipper.shipped_count < COUNT:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    total = sum(o.partition.sequence for o in engine._owned.values() if o.partition is not None)
    result = {
        "count": engine.counts["committed_turns"],
        "shipped": engine.shipper.shipped_count,
        "seconds": seconds,
        "per_s": COUNT / seconds,
        "cpu_us_per_turn": cpu / COUNT * 1e6,
        "turns_per_batch": COUNT / engine.counts["commit_batches"],
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "sequence": total,
    }
    print("RESULT " + json.dumps(result), file=sys.__stdout__, flush=True)  # Faust redirects sys.stdout to its log
