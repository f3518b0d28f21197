"""Fencing tokens: the offsets at which holders of locks are noted in the fence topic.

An offset is never given twice and never smaller than before, whatever becomes of Redis and of the holders: not when
records are compacted away, not when a retried append lands twice (its holder has the later offset). Only deleting the
topic starts anew; don't.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

from rookery.schemas.address import partition_of
from rookery.schemas.lock_errors import NoFence
from rookery.streams.kafka.batches import plain_producer, stop_producer
from rookery.streams.kafka.topics import FENCE_PARTITIONS

TIMEOUT: Final = 10.0
"""Seconds that one append may take, the connection at the first one included."""


class KafkaFence:
    """The source of tokens of one application (a `FenceSource`); connects at its first use."""

    def __init__(self, topic: str, client_kwargs: Mapping[str, Any], *, timeout: float = TIMEOUT) -> None:
        self.topic = topic
        self._client_kwargs = client_kwargs
        self._timeout = timeout
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()

    async def __call__(self, name: str, holder: str) -> int:
        """The offset at which `holder` is noted as the holder of `name`; raises NoFence."""
        # Always over the first partitions: one more would have smaller offsets for the locks that move there.
        partition = partition_of(name, FENCE_PARTITIONS)
        try:
            async with asyncio.timeout(self._timeout):
                producer = self._producer or await self._start()
                metadata = await producer.send_and_wait(
                    self.topic, holder.encode(), key=name.encode(), partition=partition
                )
        except UnknownTopicOrPartitionError:
            raise NoFence(name, f"topic {self.topic} does not exist: `faust -A <app> topics create`") from None
        except (KafkaError, TimeoutError) as error:
            raise NoFence(name, f"{type(error).__name__}: {error}") from error
        if metadata.offset < 0:
            raise NoFence(name, "the broker did not say where it noted the holder")
        return int(metadata.offset)

    async def _start(self) -> AIOKafkaProducer:
        async with self._starting:
            if self._producer is None:
                # Not idempotent: an append that lands twice does no harm, an idempotent one may not tell its offset.
                producer = plain_producer(self._client_kwargs, self._timeout)
                try:
                    await producer.start()
                except BaseException:
                    await producer.stop()
                    raise
                self._producer = producer
            return self._producer

    async def stop(self) -> None:
        """Disconnect."""
        if self._producer is not None:
            await stop_producer(self._producer, self._timeout)
            self._producer = None
