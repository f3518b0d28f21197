"""The fleet as the group's coordinator knows it: one request, and nothing that workers would have to publish.

What members said when they joined, and what the leader answered, is kept by the broker with the group. So it is never
older than the last rebalance, and a dead worker vanishes from it with its session.
"""

import asyncio
import logging
import time
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocol
from aiokafka.errors import for_code

from rookery.streams.core.fleet import Fleet, Standing, decode_fleet, decode_standing

log = logging.getLogger(__name__)

# Weights change once in 30 s at most; seconds.
REFRESH, TIMEOUT = 10.0, 10.0


class _Metadata(msgspec.Struct):
    """What is ours in the metadata of the assignor."""

    standing: str = ""
    fleet: str = ""


async def read_fleet(admin: AIOKafkaAdminClient, app_id: str) -> tuple[Fleet, dict[str, Standing]] | None:
    """The newest fleet of an application, and the standings of its members; None without workers, or while they are
    being assigned. Raises KafkaError."""
    found: Any = (await admin.describe_consumer_groups([app_id]))[0].groups[0]
    code, _, _, _, _, members = found[:6]
    if code:
        raise for_code(code)(f"describing group {app_id}")
    fleet, standings = Fleet(), {}
    for member in members:
        joined, assigned = member[-2:]
        if not joined or not assigned:
            return None
        user_data = ConsumerProtocol.ASSIGNMENT.decode(assigned).user_data
        answer = msgspec.json.decode(zlib.decompress(user_data), type=_Metadata)
        newest = decode_fleet(answer.fleet)
        fleet = max(fleet, newest, key=lambda one: one.generation)
        said = msgspec.json.decode(ConsumerProtocol.METADATA.decode(joined).user_data, type=_Metadata)
        standings[str(member[0])] = decode_standing(said.standing)
    return (fleet, standings) if members else None


class FleetWatch:
    """Reads the fleet again now and then while agents are spawned, and not otherwise."""

    def __init__(
        self, app_id: str, admin: Callable[[], Awaitable[AIOKafkaAdminClient]], know: Callable[[Fleet], None]
    ) -> None:
        """`know` is told each fleet that was read."""
        self._app_id = app_id
        self._admin = admin
        self._know = know
        self._asked_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    def touch(self) -> None:
        """An agent is spawned: read the fleet, in the background, unless that was just done."""
        now = time.monotonic()
        if now - self._asked_at >= REFRESH and (self._reading is None or self._reading.done()):
            self._asked_at = now
            self._reading = asyncio.create_task(self._read(), name="rookery-fleet")

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(TIMEOUT):
                found = await read_fleet(await self._admin(), self._app_id)
            if found is not None:
                self._know(found[0])
        except Exception as error:  # any id will do
            log.info("agents are spawned without regard to weights: the fleet can't be read: %s", error)

    async def close(self) -> None:
        """Read no more."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
