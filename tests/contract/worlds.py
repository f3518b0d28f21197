"""Where the contract suite runs: a world is what a scenario may touch, a driver opens one."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from rookery import AgentManager, Client, Priority
from rookery.schemas.address import partition_of
from rookery.schemas.deadletter import DeadLetter, decode_dead_letter
from rookery.testing import Kit, run
from tests.contract.fleet import FLEET

# What a plain Kafka client puts on a record.
Headers = Sequence[tuple[str, bytes]]
# A real worker has so long for what a scenario waits for, in seconds.
PATIENCE = 20.0


class World(Protocol):
    """A running application with the agents of `fleet`, as seen from outside."""

    @property
    def manager(self) -> AgentManager:
        """Bound to the application."""

    def fresh(self, agent_type: str) -> str:
        """An address that nobody has used."""

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Return once all is quiet and the condition holds; fails if it does not come true."""

    async def write(
        self, target: str, value: bytes, headers: Headers = (), priority: Priority = Priority.NORMAL
    ) -> None:
        """Produce one record as a client does that knows nothing of us."""

    async def replies(self, client: str, count: int) -> list[bytes]:
        """The first `count` records of a plain client's reply topic."""

    async def open_replies(self, client: str) -> None:
        """Make the reply topic of a plain client."""

    async def dead_letters(self, target: str, count: int) -> list[DeadLetter]:
        """The dead letters with this record key, once there are `count`."""


class Driver(Protocol):
    """Runs scenarios in worlds of one kind."""

    def world(self) -> AbstractAsyncContextManager[World]:
        """A world for one scenario."""

    def run(self, scenario: Callable[[], Any]) -> None:
        """Run the coroutine that `scenario` makes on this driver's kind of loop."""


# -- the in-memory log, virtual time ----------------------------------------------------------------------------------


class MemoryWorld:
    """The test kit."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self.manager = kit.manager

    def fresh(self, agent_type: str) -> str:
        return f"{agent_type}/a"

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        await self._kit.settle()
        assert await holds()

    async def write(
        self, target: str, value: bytes, headers: Headers = (), priority: Priority = Priority.NORMAL
    ) -> None:
        log = self._kit.log
        log.append(
            log.topics.inboxes[priority], partition_of(target, log.partitions), [(target.encode(), value)], headers
        )

    async def open_replies(self, client: str) -> None:
        """Topics of the in-memory log need no making."""

    async def replies(self, client: str, count: int) -> list[bytes]:
        await self._kit.settle()
        records = self._kit.log.records(self._kit.log.topics.replies(client), 0)
        assert len(records) >= count
        return [record.value or b"" for record in records][:count]

    async def dead_letters(self, target: str, count: int) -> list[DeadLetter]:
        await self._kit.settle()
        letters = [letter for letter in self._kit.dead_letters() if letter.key == target.encode()]
        assert len(letters) >= count
        return letters


class MemoryDriver:
    """A kit of its own for each scenario."""

    @asynccontextmanager
    async def world(self) -> AsyncIterator[MemoryWorld]:
        async with Kit(*FLEET) as kit:
            yield MemoryWorld(kit)

    def run(self, scenario: Callable[[], Any]) -> None:
        run(scenario())


# -- a real worker on a real Kafka ------------------------------------------------------------------------------------


class KafkaWorld:
    """A client of a worker that runs elsewhere; plain records go through librdkafka."""

    def __init__(self, client: Client, broker: str) -> None:
        self._topics, self._broker = client.topics, broker
        self.manager = AgentManager(client)

    def fresh(self, agent_type: str) -> str:
        return f"{agent_type}/{uuid.uuid4().hex}"

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not await holds():  # noqa: ASYNC110 - what it waits for is in another process
                await asyncio.sleep(0.1)

    async def write(
        self, target: str, value: bytes, headers: Headers = (), priority: Priority = Priority.NORMAL
    ) -> None:
        from confluent_kafka import Producer

        producer = Producer({"bootstrap.servers": self._broker, "partitioner": "murmur2_random"})
        producer.produce(self._topics.inboxes[priority], value, target, headers=list(headers))
        assert await asyncio.to_thread(producer.flush, 10) == 0

    async def open_replies(self, client: str) -> None:
        from confluent_kafka.admin import AdminClient
        from confluent_kafka.cimpl import NewTopic

        admin, topic = AdminClient({"bootstrap.servers": self._broker}), self._topics.replies(client)
        made = admin.create_topics([NewTopic(topic, 1, 1)])
        await asyncio.to_thread(made[topic].result)

    async def replies(self, client: str, count: int) -> list[bytes]:
        return (await asyncio.to_thread(self._read, self._topics.replies(client), lambda found: len(found) >= count))[
            :count
        ]

    async def dead_letters(self, target: str, count: int) -> list[DeadLetter]:
        def of_target(values: list[bytes]) -> list[DeadLetter]:
            return [letter for letter in map(decode_dead_letter, values) if letter.key == target.encode()]

        topic = self._topics.deadletter
        return of_target(await asyncio.to_thread(self._read, topic, lambda found: len(of_target(found)) >= count))

    def _read(self, topic: str, enough: Callable[[list[bytes]], bool]) -> list[bytes]:
        """The values of a topic from its start on, until there are enough."""
        from confluent_kafka import Consumer

        group = {"group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest", "enable.auto.commit": False}
        consumer = Consumer({"bootstrap.servers": self._broker, **group})
        consumer.subscribe([topic])
        found: list[bytes] = []
        try:
            for _ in range(int(PATIENCE / 0.1)):
                record = consumer.poll(0.1)
                if record is not None and record.error() is None:
                    found.append(record.value() or b"")
                if enough(found):
                    return found
        finally:
            consumer.close()
        raise AssertionError(f"{topic} has only {len(found)} records after {PATIENCE:g} s")


class KafkaDriver:
    """One worker process for all scenarios; each has agents of its own."""

    def __init__(self, app_id: str, broker: str, log: Path) -> None:
        self.app_id, self.broker, self.log = app_id, broker, log

    @asynccontextmanager
    async def world(self) -> AsyncIterator[KafkaWorld]:
        async with Client(self.app_id, agents=FLEET, broker=self.broker) as client:
            yield KafkaWorld(client, self.broker)

    def run(self, scenario: Callable[[], Any]) -> None:
        asyncio.run(scenario())
