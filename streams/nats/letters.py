"""Dead letters of the edge: what can't go on, with its original bytes, beside those of the workers."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from aiokafka.errors import KafkaError

from rookery.schemas.address import partition_of
from rookery.schemas.deadletter import encode_dead_letter
from rookery.schemas.envelope import Received
from rookery.schemas.errors import RookeryError
from rookery.streams.client import Client

log = logging.getLogger(__name__)

AGAIN_FIRST, AGAIN_MAX = 0.2, 5.0  # seconds between tries


class Letters:
    """Writes and counts them."""

    def __init__(self, client: Client, partitions: int) -> None:
        """`partitions` of the dead-letter topic, which are those of the inboxes."""
        self._client, self._partitions = client, partitions
        self.count = 0

    async def write(
        self, topic: str, partition: int, record: Any, envelope: Received | None, why: RookeryError
    ) -> None:
        """Return once Kafka has the letter, however long that takes; `topic` and `partition` say where it came from."""
        letter = encode_dead_letter(
            record,
            topic=topic,
            partition=partition,
            envelope=envelope,
            reason=why.reason,
            error=f"{type(why).__name__}: {why}",
            app_id=self._client.topics.app_id,
        )
        key = record.key or b""
        destination = (self._client.topics.deadletter, partition_of(key, self._partitions))
        again = AGAIN_FIRST
        while True:
            try:
                await self._client.produce(destination, key, letter)
            except KafkaError as error:
                log.warning("a dead letter can't be written, again in %.1f s: %s", again, error)
                await asyncio.sleep(again)
                again = min(again * 2, AGAIN_MAX)
            else:
                self.count += 1
                return
