"""Places where a worker can be made to die, freeze or stall: patches around the product, loaded by the chaos app alone.

A point is armed by a file, `<worker>.arm` in the run's folder, with {"point": name, "do": "kill" or "freeze",
"after": passages}; it is looked for at start and every `POLL` seconds. What fired is noted, on disk, before it happens.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rookery.streams.core.fold import JournalFold
from rookery.streams.core.partition import Partition
from rookery.streams.engine.inbound import Inbound
from rookery.streams.kafka.consumer import Consumer
from rookery.streams.kafka.lease import KafkaLease
from rookery.streams.kafka.log import KafkaLog

POLL = 0.1
# A batch is on its way to the broker for about so long; seconds.
UNDER_WAY = 0.002

DECODED, APPENDING, UNDER_WAY_APPEND, APPENDED, ACKED, SHIPPED, COMMITTING, CLAIMING, CLAIMED, FOLDED = POINTS = (
    "decoded",  # records were fetched, read and put into mailboxes
    "appending",  # a commit batch was built
    "under-way",  # it was handed to the producer
    "appended",  # the broker has acknowledged it, nobody has looked at that yet
    "acked",  # it is accepted, its messages are not on their way
    "shipped",  # a batch of the outbox was acknowledged, nobody has looked at that yet
    "committing",  # offsets are about to be committed to the group
    "claiming",  # a lease was acquired, its claim is not written
    "claimed",  # it is, the journal is not read
    "folded",  # the journal is read
)


class Failpoints:
    """What is armed in this process."""

    def __init__(self, folder: Path, worker: str) -> None:
        self._folder, self._arm_file = folder, folder / f"{worker}.arm"
        self._point, self._do, self._left = "", "", 0
        self.clock_offset = 0.0

    def poll(self) -> None:
        """Take up what was armed since."""
        try:
            order = json.loads(self._arm_file.read_text())
        except (OSError, ValueError):
            return
        self._arm_file.unlink()
        if order["do"] == "stall":
            self._note("stall")
            time.sleep(order["after"])
        elif order["do"] == "clock":
            self._note("clock")
            self.clock_offset = order["after"]
        else:
            self._point, self._do, self._left = order["point"], order["do"], order["after"]

    def hit(self, point: str) -> None:
        """The process passes a point."""
        if point != self._point:
            return
        self._left -= 1
        if self._left > 0:
            return
        self._point = ""
        self._note(point)
        os.kill(os.getpid(), signal.SIGSTOP if self._do == "freeze" else signal.SIGKILL)

    def soon(self, point: str, delay: float) -> None:
        """The process passes a point a moment later."""
        if point == self._point:
            asyncio.get_running_loop().call_later(delay, self.hit, point)

    def _note(self, point: str) -> None:
        with (self._folder / "fired.jsonl").open("a") as file:
            file.write(json.dumps({"pid": os.getpid(), "point": point, "t": time.monotonic()}) + "\n")
            file.flush()
            os.fsync(file.fileno())


def around(owner: type, name: str, before: Callable[..., None] | None, after: Callable[..., None] | None) -> None:
    """Wrap a plain or an async method."""
    inner = getattr(owner, name)
    if asyncio.iscoroutinefunction(inner):

        @functools.wraps(inner)
        async def waiting(*args: Any, **kwargs: Any) -> Any:
            if before is not None:
                before(*args, **kwargs)
            result = await inner(*args, **kwargs)
            if after is not None:
                after(*args, **kwargs)
            return result

        setattr(owner, name, waiting)
        return

    @functools.wraps(inner)
    def plain(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before(*args, **kwargs)
        result = inner(*args, **kwargs)
        if after is not None:
            after(*args, **kwargs)
        return result

    setattr(owner, name, plain)


def install(points: Failpoints) -> None:
    """Put the points into the product's methods, and a clock that can jump under everything."""
    hit = points.hit

    def before_append(lease: KafkaLease, records: object, number: int | None) -> None:
        hit(CLAIMING if number is None else APPENDING)
        if number is not None:
            points.soon(UNDER_WAY_APPEND, UNDER_WAY)

    def after_append(lease: KafkaLease, records: object, number: int | None) -> None:
        hit(CLAIMED if number is None else APPENDED)

    around(Inbound, "take", None, lambda *args: hit(DECODED))
    around(KafkaLease, "append", before_append, after_append)
    around(Partition, "acked", None, lambda *args: hit(ACKED))
    around(KafkaLog, "ship", None, lambda *args: hit(SHIPPED))
    around(Consumer, "commit", lambda *args, **kwargs: hit(COMMITTING), None)
    around(JournalFold, "recovered", None, lambda *args: hit(FOLDED))

    wall, wall_ns = time.time, time.time_ns
    time.time = lambda: wall() + points.clock_offset
    time.time_ns = lambda: wall_ns() + int(points.clock_offset * 1e9)


def reroute(links: dict[str, int]) -> None:
    """Connections to these servers go to ports of this machine instead: see `proxy`."""
    connect = asyncio.BaseEventLoop.create_connection

    async def rerouted(self: Any, factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        return await connect(self, factory, host, links.get(f"{host}:{port}", port), **options)

    asyncio.BaseEventLoop.create_connection = rerouted  # type: ignore[assignment,method-assign]
