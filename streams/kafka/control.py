"""The control topic: one compacted partition of named records, shared by an application's workers and operators."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import ConsumerStoppedError

from rookery.streams.kafka.reader import STOP_TIMEOUT, stop_consumer

# A read or write that takes longer has failed; seconds.
TIMEOUT = 20.0
POLL_MS = 200
FOLLOW_MS = 60_000


class Control:
    """The records of one control topic, by name."""

    def __init__(self, topic: str, client_kwargs: Mapping[str, Any]) -> None:
        self._topic = topic
        self._client_kwargs = client_kwargs
        self._followers: set[AIOKafkaConsumer] = set()

    async def close(self) -> None:
        """End whoever follows. A task that is cancelled instead may be gone before its consumer has said goodbye."""
        await asyncio.gather(*(stop_consumer(consumer, STOP_TIMEOUT) for consumer in list(self._followers)))

    async def history(self, name: str) -> list[bytes]:
        """The values of a name that compaction has left, the oldest first.

        Raises KafkaError, or TimeoutError after TIMEOUT seconds.
        """
        found: list[bytes] = []
        for key, value in await self._stored():
            if key == name.encode():
                found = [*found, value] if value is not None else []
        return found

    async def snapshot(self) -> dict[str, bytes]:
        """The newest value of every name. Raises KafkaError, or TimeoutError after TIMEOUT seconds."""
        found: dict[str, bytes] = {}
        for key, value in await self._stored():
            found.pop(key.decode(), None)
            if value is not None:
                found[key.decode()] = value
        return found

    async def _stored(self) -> list[tuple[bytes, bytes | None]]:
        """Keys and values of all records up to the present end, in order."""
        tp = TopicPartition(self._topic, 0)
        found: list[tuple[bytes, bytes | None]] = []
        async with asyncio.timeout(TIMEOUT), AIOKafkaConsumer(**self._client_kwargs, group_id=None) as consumer:
            consumer.assign([tp])
            await consumer.seek_to_beginning(tp)
            end = (await consumer.end_offsets([tp]))[tp]
            while await consumer.position(tp) < end:
                records = (await consumer.getmany(tp, timeout_ms=POLL_MS)).get(tp, ())
                found += [(record.key, record.value) for record in records]
        return found

    async def follow(self) -> AsyncIterator[tuple[str, bytes | None]]:
        """All records, then each that is written, until `close`; None deletes a name. Raises KafkaError."""
        tp = TopicPartition(self._topic, 0)
        consumer = AIOKafkaConsumer(**self._client_kwargs, group_id=None)
        self._followers.add(consumer)
        try:
            await consumer.start()
            consumer.assign([tp])
            await consumer.seek_to_beginning(tp)
            while True:
                for record in (await consumer.getmany(tp, timeout_ms=FOLLOW_MS)).get(tp, ()):
                    yield record.key.decode(), record.value
        except ConsumerStoppedError:
            return
        finally:
            self._followers.discard(consumer)
            await stop_consumer(consumer, STOP_TIMEOUT)

    async def write(self, name: str, value: bytes | None) -> None:
        """Set a name's value; None deletes it. Raises KafkaError, or TimeoutError after TIMEOUT seconds."""
        async with asyncio.timeout(TIMEOUT), AIOKafkaProducer(**self._client_kwargs, acks="all") as producer:
            await producer.send_and_wait(self._topic, value, name.encode(), partition=0)
