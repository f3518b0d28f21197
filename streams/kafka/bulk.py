"""Sending many records at once, in large batches of our own making."""

import asyncio
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder

from rookery.streams.core.outbox import Destination


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
