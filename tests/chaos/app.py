"""The application that the workers of a run are: the clerks, with failpoints, and one mechanism off if a run says so.

Every half second, and when it owns more or less than before, a worker writes a line on itself to `<worker>.jsonl` in
the run's folder.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

from tests.chaos import failpoints, mutations

FOLDER, WORKER = Path(os.environ["CHAOS_FOLDER"]), os.environ["CHAOS_WORKER"]
LINE_SECONDS = 0.5

points = failpoints.Failpoints(FOLDER, WORKER)
failpoints.install(points)
failpoints.reroute(json.loads(os.environ.get("CHAOS_LINKS", "{}")))
mutations.switch_off(os.environ.get("CHAOS_OFF", ""))

from rookery import App  # noqa: E402 - what it binds at import must be patched before
from rookery.streams.kafka import topics  # noqa: E402
from tests.chaos.interpreter import Clerk  # noqa: E402

points.poll()
if os.environ.get("CHAOS_COMPACTION"):
    topics.COMPACTION_LAG_MS = 0  # the policy that protects stale records from it is off: the fence has to do
app = App(agents=[Clerk])


@app.task  # type: ignore[untyped-decorator]
async def watch() -> None:
    """Take up what is armed, and write lines."""
    with (FOLDER / f"{WORKER}.jsonl").open("a") as file:
        lag, due, owned, since = 0.0, time.monotonic(), -1, 0.0
        while True:
            began = time.monotonic()
            points.poll()
            await asyncio.sleep(failpoints.POLL)
            now = time.monotonic()
            lag = max(lag, now - began - failpoints.POLL)
            engine = app.engine_service.running
            running = [] if engine is None else engine.running_partitions()
            before, owned = owned, len(running)
            if owned != before:
                since = now
            elif now < due:
                continue
            statistics = app.engine_service.statistics
            line = {
                "pid": os.getpid(),
                "t": now,
                "wall": time.time(),
                "lag": round(lag, 3),
                "owned": owned,
                "since": since,  # it owns so many
                "parked": sum(partition.ledgers.parked_count for partition in running),
                "retries": statistics.get("shipping", {}).get("retries", 0),
                "lock_errors": statistics.get("locks", {}).get("errors", 0),
                "locked": statistics.get("locks", {}).get("acquired", 0),
                "shipped": statistics.get("shipping", {}).get("shipped", 0),
                **{key: value for key, value in statistics.items() if isinstance(value, int)},
            }
            file.write(json.dumps(line) + "\n")
            file.flush()
            lag, due = 0.0, now + LINE_SECONDS
