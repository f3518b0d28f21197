"""A worker of bench.fleet: five times a second it tells in a RESULT line what it owns and how far it is.

With BENCH_GATE nothing is fetched before the file of that name is there.
"""

import asyncio
import json
import os
import sys
import time
from pathlib import Path

from bench.gate import Gate, running
from bench.workload import Counter
from rookery import App
from rookery.streams.engine.ownership import Ownership

GATE = os.environ.get("BENCH_GATE")
REPORT_SECONDS = 0.2

app = App(agents=[Counter])


@app.task  # type: ignore[untyped-decorator]
async def measure() -> None:
    engine = app.engine
    gate = Gate(engine) if GATE else None
    committed_batch = engine.committed_batch
    last = 0.0

    def watched(ownership: Ownership, turns: int) -> None:
        nonlocal last
        last = time.monotonic()
        committed_batch(ownership, turns)

    engine.committed_batch = watched  # type: ignore[method-assign]
    told = 0.0
    while True:
        if gate is not None and await asyncio.to_thread(Path(str(GATE)).exists):
            gate.open()
            gate = None
        if time.monotonic() - told >= REPORT_SECONDS:
            told = time.monotonic()
            result = {"at": told, "owned": running(engine), "count": engine.counts["committed_turns"], "last": last}
            print("RESULT " + json.dumps(result), file=sys.__stdout__, flush=True)
        await asyncio.sleep(0.01 if gate else REPORT_SECONDS)
