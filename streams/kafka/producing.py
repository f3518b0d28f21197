"""The producer of a client, which goes on after a failure, and sending many records in large batches of our own making.

Each batch of an idempotent producer has the next number of its partition. When one fails for good (too large, or the
broker was away for too long) its number never arrives, and the broker refuses all later ones as out of order, for ever.
So the producer is made anew then, with numbers that begin anew.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, KafkaTimeoutError, OutOfOrderSequenceNumber
from aiokafka.producer.message_accumulator import BatchBuilder

from rookery.schemas.errors import SendFailed
from rookery.streams.core.outbox import Destination

# Producers that one record may need: another one may fail meanwhile, on the same partition, and take this with it.
PRODUCERS_MAX = 5


@contextmanager
def sending(target: str) -> Iterator[None]:
    """Raise SendFailed instead of what aiokafka says when a broker dies: a time-out, a node that is not ready. What a
    broker refuses stays as it is."""
    try:
        yield
    except KafkaError as error:
        if not (error.retriable or isinstance(error, KafkaTimeoutError)):
            raise
        raise SendFailed(target, f"{type(error).__name__}: {error}") from error


class Producer:
    """See the head of this module; `kwargs` are aiokafka's."""

    def __init__(self, **kwargs: Any) -> None:
        self._kwargs = kwargs
        self.current = AIOKafkaProducer(**kwargs)
        self._renewing = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Connect; raises KafkaError."""
        await self.current.start()

    async def stop(self) -> None:
        """Send what is buffered and disconnect."""
        await asyncio.gather(self.current.stop(), *self._retiring, return_exceptions=True)

    async def send(self, destination: Destination, key: bytes, value: bytes) -> None:
        """Write a record; returns once the broker has it. Raises KafkaError."""
        for left in reversed(range(PRODUCERS_MAX)):
            producer = self.current
            try:
                await producer.send_and_wait(destination[0], value, key=key, partition=destination[1])
            except OutOfOrderSequenceNumber:  # it was refused, so it may be sent again
                await self.renew(producer)
                if not left:
                    raise
            else:
                return

    async def renew(self, producer: AIOKafkaProducer) -> None:
        """Take another one in the place of this one, unless that was done; what this one has in hand it still sends."""
        async with self._renewing:
            if producer is not self.current:
                return
            fresh = AIOKafkaProducer(**self._kwargs)
            try:
                await fresh.start()
            except BaseException:
                await fresh.stop()
                raise
            self.current = fresh
            retiring = asyncio.create_task(producer.stop())
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)


class Bulk:
    """Batches of one bulk send: one being filled and one in flight per destination, so that order is kept."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer
        self._filling: dict[Destination, BatchBuilder] = {}
        self._flying: dict[Destination, asyncio.Future[Any]] = {}

    def add(self, destination: Destination, key: bytes, value: bytes) -> bool:
        """Put a record into the batch for its destination; False if that is full."""
        builder = self._filling.get(destination)
        if builder is None:
            builder = self._filling[destination] = self._producer.create_batch()
        return builder.append(key=key, value=value, timestamp=None) is not None

    async def send(self, destination: Destination) -> None:
        """Send the batch for a destination, once the one before it is acknowledged."""
        builder = self._filling.pop(destination)
        if (before := self._flying.pop(destination, None)) is not None:
            await before
        builder.close()
        self._flying[destination] = await self._producer.send_batch(builder, destination[0], partition=destination[1])

    async def flush(self) -> None:
        """Send all batches and wait until everything is acknowledged."""
        for destination in list(self._filling):
            await self.send(destination)
        for flying in self._flying.values():
            await flying
