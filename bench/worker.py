"""The worker under measurement: a plain `faust -A bench.worker worker`, with a stop watch.

Prints one RESULT line when BENCH_COUNT turns are committed and BENCH_REPLIES messages acknowledged. With BENCH_GATE=1
nothing is fetched before all partitions are recovered.
"""

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Sequence

from bench.gate import Gate
from bench.machine import cpu_seconds
from bench.workload import Counter
from rookery import App
from rookery.streams.core.partition import Partition
from rookery.streams.log import Record

COUNT = int(os.environ.get("BENCH_COUNT", "0"))
REPLIES = int(os.environ.get("BENCH_REPLIES", "0"))
GATE = os.environ.get("BENCH_GATE") == "1"
BROKER_PID = int(os.environ.get("BENCH_BROKER_PID", "0"))

app = App(agents=[Counter])


@app.task  # type: ignore[untyped-decorator]
async def measure() -> None:
    """Clock from the first fetch to the last broker ack."""
    if not COUNT:
        return
    engine = app.engine
    gate = Gate(engine) if GATE else None
    started = cpu = broker = 0.0
    take = engine.inbound.take

    def watched(partition: Partition, lane: int, records: Sequence[Record]) -> None:
        nonlocal started, cpu, broker
        if gate is not None and not gate.is_open:
            return
        started, cpu, broker = time.perf_counter(), time.process_time(), cpu_seconds(BROKER_PID)
        engine.inbound.take = take  # type: ignore[method-assign]
        take(partition, lane, records)

    engine.inbound.take = watched  # type: ignore[method-assign]
    if gate is not None:
        await gate.recovered(app.settings.partitions)
        gate.open()
    while engine.counts["committed_turns"] < COUNT or engine.shipper.shipped_count < REPLIES:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    result = {
        "per_s": COUNT / seconds,
        "seconds": seconds,
        "count": engine.counts["committed_turns"],
        "cpu_us": cpu / COUNT * 1e6,
        "broker_cpu_us": (cpu_seconds(BROKER_PID) - broker) / COUNT * 1e6,
        "turns_per_batch": COUNT / engine.counts["commit_batches"],
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print("RESULT " + json.dumps(result), file=sys.__stdout__, flush=True)  # Faust redirects sys.stdout to its log
