"""How soon a worker is there."""

from __future__ import annotations

import time
from functools import partial

from bench.harness import Figures, Harness
from bench.processes import application, worker
from bench.workload import names, prefill, records


async def _start(h: Harness) -> Figures:
    async with application(h.broker, 12) as settings:
        await prefill(h.broker, f"{settings.app_id}.inbox.normal", records(1, 12, names(1)), 12)
        began = time.perf_counter()
        async with worker(settings, "bench.worker", BENCH_COUNT=1, BENCH_REPLIES=1) as running:
            await running.result()
            return {"seconds": time.perf_counter() - began}


async def start(h: Harness) -> None:
    """From starting `faust worker` to its first turn committed and replied: 12 partitions, empty journals."""
    runs = await h.interleaved({"start": partial(_start, h)})
    h.record("start_s", [run["seconds"] for run in runs["start"]])
