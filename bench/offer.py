"""A load generator: sends what fell due in the last moments, in one batch for each partition."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import msgspec
from aiokafka import AIOKafkaProducer

from bench.workload import CLIENT
from rookery.ops.settings import Settings
from rookery.schemas.address import partition_of
from rookery.schemas.envelope import Priority, encode_body, seal

TICK_SECONDS = 0.01

Make = Callable[[float, int], msgspec.Struct]
"""The message that is due at a time (monotonic seconds), for an agent in a partition."""


def spread(addresses: Sequence[str], partitions: int) -> list[str]:
    """As many of the addresses for each partition as the poorest one has, partition by partition in turn."""
    places: list[list[str]] = [[] for _ in range(partitions)]
    for address in addresses:
        places[partition_of(address, partitions)].append(address)
    return [address for row in zip(*places, strict=False) for address in row]


class Offer:
    """Sends to agents in turn, between entering and leaving it; `sent` counts."""

    def __init__(self, settings: Settings, targets: Sequence[str], make: Make, replies: bool) -> None:
        self.sent = 0
        self._topic = f"{settings.app_id}.inbox.normal"
        self._places = [(address, address.encode(), partition_of(address, settings.partitions)) for address in targets]
        self._make = make
        self._reply_to = f"client:{CLIENT}" if replies else ""
        self._nonce = uuid.uuid4().hex[:8]
        self._producer = AIOKafkaProducer(bootstrap_servers=settings.broker, acks="all", enable_idempotence=True)
        self._flying: set[asyncio.Future[Any]] = set()

    async def __aenter__(self) -> Self:
        await self._producer.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        await self._producer.stop()

    async def at_rate(self, rate: float, stop: asyncio.Event) -> None:
        """So many a second whatever becomes of them; each is due at its own moment. Returns when all are acked."""
        began, first = time.monotonic(), self.sent
        while not stop.is_set():
            due = int((time.monotonic() - began) * rate)
            await self._send([began + n / rate for n in range(self.sent - first, due)])
            await asyncio.sleep(TICK_SECONDS)
        await asyncio.gather(*self._flying)

    async def at_most(self, more: Callable[[], int], stop: asyncio.Event) -> None:
        """As many as `more` lets at a time. Returns when all are acked."""
        while not stop.is_set():
            await self._send([time.monotonic()] * more())
            await asyncio.sleep(0)
        await asyncio.gather(*self._flying)

    async def _send(self, dues: Sequence[float]) -> None:
        batches: dict[int, Any] = {}
        for due in dues:
            target, key, partition = self._places[self.sent % len(self._places)]
            message = self._make(due, partition)
            body = encode_body(
                f"client:{CLIENT}", target, msgspec.json.encode(message), time.time_ns(), Priority.NORMAL,
                f"{self._nonce}-{self.sent}", type(message).__name__, "application/json", reply_to=self._reply_to,
            )  # fmt: skip
            batch = batches.get(partition)
            while batch is None or batch.append(key=key, value=seal(body), timestamp=None) is None:
                if batch is not None:
                    await self._ship(batch, partition)
                batch = batches[partition] = self._producer.create_batch()
            self.sent += 1
        for partition, batch in batches.items():
            await self._ship(batch, partition)
        for done in [future for future in self._flying if future.done()]:
            self._flying.discard(done)
            done.result()  # a message that was not taken voids everything

    async def _ship(self, batch: Any, partition: int) -> None:
        batch.close()
        self._flying.add(await self._producer.send_batch(batch, self._topic, partition=partition))
