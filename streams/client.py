"""Client: how any Python program talks to agents on Kafka.

    async with Client("flights") as client:
        plane = client.get_agent("Plane/N14228")
        await plane.tell(Departure(...))
        print(await plane.state())

A client produces to the inbox topics and reads a reply topic of its own, made at its first ask and removed at its end.
With a broker of `nats://` it talks through the NATS edge instead, which carries tell and ask.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError
from aiokafka.structs import OffsetAndMetadata

from rookery.agents import Agent, AgentHandle, AgentManager
from rookery.agents.binding import Reply, bind, unbind
from rookery.agents.effects import Outgoing
from rookery.agents.types import AgentType, Registry
from rookery.ops import locks
from rookery.ops.settings import Settings
from rookery.ops.settings_rules import NATS
from rookery.schemas import payload as codecs
from rookery.schemas.envelope import Priority
from rookery.schemas.errors import NotOwned, WrongTopic
from rookery.streams.calls import Caller
from rookery.streams.core.outbox import Destination
from rookery.streams.core.placement import Placement
from rookery.streams.core.routing import Router, Topics
from rookery.streams.engine.engine import Engine
from rookery.streams.kafka import security, topics
from rookery.streams.kafka.batches import COORDINATOR_NOT_READY
from rookery.streams.kafka.deadletters import DeadLetterBox, Letter, Selection
from rookery.streams.kafka.fence import KafkaFence
from rookery.streams.kafka.fleets import FleetWatch
from rookery.streams.kafka.producing import Bulk, Producer, sending
from rookery.streams.nats.errors import NotOverNats

if TYPE_CHECKING:
    from rookery.streams.nats.caller import NatsCaller

log = logging.getLogger(__name__)

# A produce request that is not answered by then has failed; milliseconds.
REQUEST_TIMEOUT_MS = 30_000
COORDINATOR_TIMEOUT = 15.0  # seconds to wait for a broker that has no coordinator for groups yet


class Client:
    """A connection of one program to one application. Use as an async context manager."""

    def __init__(
        self,
        app_id: str,
        *,
        agents: Iterable[type[Agent]] = (),
        name: str | None = None,
        engine: Engine | None = None,
        settings: Settings | None = None,
        **overrides: Any,
    ) -> None:
        """`agents` are the classes that may be spawned; `name` is unique among living clients (default: a fresh one).

        `overrides` beat the environment, such as `broker="..."`; or give `settings` whole. Inside a worker `engine`
        lets handles read the state of agents that live there. Raises ConfigurationError.
        """
        self.settings = settings or Settings.load(app_id=app_id, **overrides)
        self.registry = Registry()
        for cls in agents:
            self.registry.add(cls)
        self.name = name or uuid.uuid4().hex
        self.topics = Topics(app_id)
        self._engine = engine
        self._edge = _over_nats(self.settings, self.name) if self.settings.broker.startswith(NATS) else None
        self._kafka_kwargs: dict[str, Any] = {}
        if self._edge is None:
            self._kafka_kwargs = {**security.client_kwargs(self.settings), "client_id": f"{app_id}-client-{self.name}"}
        self._producer: Producer | None = None
        self._admin: AIOKafkaAdminClient | None = None
        self._admin_opening = asyncio.Lock()
        self._meter: AIOKafkaConsumer | None = None
        self._caller: Caller | None = None
        self._fleet = FleetWatch(app_id, self._administer, lambda fleet: self.placement.know(fleet))  # noqa: PLW0108 - not there yet
        self._replies: asyncio.Task[None] | None = None
        self._replies_open = asyncio.Lock()
        self._fence: KafkaFence | None = None
        self._locks: locks.LockService | None = None

    # -- life ---------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Connect and bind: `AgentManager()` works from here on.

        Raises WrongTopic if the application has no topics, BrokerUnreachable, NotAuthenticated or NotAuthorized;
        through NATS NatsUnavailable.
        """
        if self._edge is not None:
            await self._edge.connect()
            bind(self)
            return self
        self._producer = Producer(
            **self._kafka,
            acks="all",
            enable_idempotence=True,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            max_request_size=self.settings.topic_bytes_max,
            max_batch_size=262_144,
        )
        try:
            async with security.explained(self._kafka):
                await self._producer.start()
                partitions = await self._partition_count()
        except BaseException:
            await self._producer.stop()
            raise
        self._caller = Caller(
            self.name,
            Router(self.topics, partitions, self.settings.nats_out),
            self.produce,
            now_ns=time.time_ns,
            new_id=lambda: uuid.uuid4().hex,
            ask_timeout=self.settings.ask_timeout,
            message_bytes_max=self.settings.message_bytes_max,
        )
        self._fence = KafkaFence(self.topics.fence, self._kafka)
        if self.settings.redis_url is not None:  # not at the first lock, since it takes a while
            locks.redis_py()
        self._locks = locks.LockService(
            self.topics.app_id, lambda: locks.redis_py().connect_by(self.settings), self._fence
        )
        locks.bind(self._locks)
        bind(self)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Send what is buffered, remove the reply topic, disconnect."""
        unbind(self)
        if self._edge is not None:
            await self._edge.close()
        if self._locks is not None and self._fence is not None:
            locks.unbind(self._locks)
            await self._locks.close()
            await self._fence.stop()
        await self._fleet.close()
        if self._replies is not None:
            self._replies.cancel()
            await asyncio.gather(self._replies, return_exceptions=True)
        if self._producer is not None:
            await self._producer.stop()
        if self._meter is not None:
            await self._meter.stop()
        if self._admin is not None:
            if self._replies is not None and self._caller is not None:
                try:
                    await self._admin.delete_topics([self._caller.reply_topic])
                except Exception as error:
                    log.warning("could not remove the reply topic %s: %s", self._caller.reply_topic, error)
            await self._admin.close()

    async def _partition_count(self) -> int:
        topic = self.topics.inboxes[Priority.NORMAL]
        try:
            return len(await asyncio.wait_for(self._started.current.partitions_for(topic), 10.0))
        except (UnknownTopicOrPartitionError, TimeoutError):
            raise WrongTopic(
                topic, "it does not exist", "start a worker of the application, or `faust -A <app> topics create`"
            ) from None

    # -- talking ------------------------------------------------------------------------------------------------------

    def get_agent(self, address: str) -> AgentHandle:
        """A handle on an agent; nothing is sent. Raises InvalidAddress."""
        return AgentManager(self).get_agent(address)

    async def tell(self, *args: Any, **kwargs: Any) -> None:
        """See `Connection.tell`; raises SendFailed when no broker confirms it."""
        with sending(args[0]):
            await (self._edge or self._call).tell(*args, **kwargs)

    async def ask(self, *args: Any, **kwargs: Any) -> Reply:
        """See `Connection.ask`; raises SendFailed when no broker confirms it."""
        if self._edge is not None:
            return await self._edge.ask(*args, **kwargs)
        with sending(args[0]):
            if self._replies is None:
                await self.open_replies()
            return await self._call.ask(*args, **kwargs)

    async def tell_many(self, messages: Iterable[tuple[str, Any, Priority]]) -> int:
        """Send many (target, message, priority) in order, in large batches; returns their count once all are stored.

        Order is kept per target and priority. Raises what `tell` raises; what was sent before stays sent.
        """
        producer = self._started.current
        bulk = Bulk(producer)
        count = 0
        with sending("many agents"):
            try:
                for target, message, priority in messages:
                    destination, key, value = self._call.encode(target, *codecs.encode(message), priority=priority)
                    if not bulk.add(destination, key, value):
                        await bulk.send(destination)
                        bulk.add(destination, key, value)
                    count += 1
                    if count % 256 == 0:
                        await asyncio.sleep(0)
                await bulk.flush()
            except KafkaError:  # a batch may be missing now
                await self._started.renew(producer)
                raise
        return count

    async def backlog(self) -> dict[Priority, int]:
        """Records in the inboxes that are not handled yet, by priority, as far as workers have committed."""
        ends, committed = await self._offsets()
        backlog = dict.fromkeys(Priority, 0)
        for tp, end in ends.items():
            backlog[Priority(self.topics.inboxes.index(tp.topic))] += end - committed.get(tp, 0)
        return backlog

    async def handled(self) -> int:
        """Records of the inboxes that are handled, as far as workers have committed."""
        _, committed = await self._offsets()
        return sum(committed.values())

    async def dead_letters(
        self,
        *,
        reasons: Iterable[str] = (),
        types: Iterable[str] = (),
        agent_types: Iterable[str] = (),
        agent: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
        replayed: bool | None = None,
    ) -> AsyncGenerator[Letter]:
        """The application's dead letters that are there now, partition by partition, the oldest first.

        All that is given must hold: a code in `reasons`, a message type, a class of agents, an address or a glob such
        as `Order/*`, when it died, whether it was sent again. Raises ReadFailed, and WrongTopic without such a topic.
        """
        wanted = Selection(
            frozenset(reasons),
            frozenset(types),
            frozenset(agent_types),
            agent,
            since_ms=None if since is None else round(since.timestamp() * 1000),
            until_ms=None if until is None else round(until.timestamp() * 1000),
            replayed=replayed,
        )
        async with (
            DeadLetterBox(self.topics.app_id, self._kafka) as box,
            aclosing(box.letters(wanted)) as letters,
        ):
            async for letter in letters:
                yield letter

    # -- what a Connection has besides --------------------------------------------------------------------------------

    def committed(self, address: str) -> tuple[AgentType, bytes | None]:
        """See `Connection.committed`; only inside the worker that owns the agent."""
        if self._engine is None:
            raise NotOwned(address)
        return self._engine.committed_state(address)

    def register(self, cls: type[Agent]) -> None:
        """See `Connection.register`: outside of a worker any class may be used, the worker decides."""
        if self._engine is not None:
            self._engine.registry.get(AgentType.of(cls).name)

    def new_agent_id(self) -> str:
        """A fresh uuid4 in hex, of an agent that will live on the worker whose turn it is by the weights of the fleet;
        of any, as long as the fleet is not known."""
        if self._edge is not None:
            return uuid.uuid4().hex
        if self._engine is None:
            self._fleet.touch()
        return self._call.new_agent_id()

    @property
    def placement(self) -> Placement:
        """Where agents are spawned; a worker tells its own client about the fleet."""
        return self._call.placement

    def now_ns(self) -> int:
        """Nanoseconds since the epoch."""
        return time.time_ns()

    @property
    def lock_statistics(self) -> dict[str, Any]:
        """Counts of locks, permits and limits of this process; empty before it is started."""
        return {} if self._locks is None else self._locks.statistics()

    @property
    def partitions(self) -> int:
        """Of each inbox."""
        return self._call.partitions

    @property
    def late_count(self) -> int:
        """Replies that came after their ask had given up, or twice."""
        return self._call.late_count

    async def answer(self, reply: Outgoing) -> None:
        """See `Caller.answer`; what carries requests on needs it."""
        await self._call.answer(reply)

    async def produce(self, destination: Destination, key: bytes, value: bytes) -> None:
        """Write a record as it is; returns once the broker has it. Raises KafkaError."""
        await self._started.send(destination, key, value)

    # -- inside -------------------------------------------------------------------------------------------------------

    @property
    def _kafka(self) -> dict[str, Any]:
        if self._edge is not None:
            raise NotOverNats
        return self._kafka_kwargs

    @property
    def _call(self) -> Caller:
        if self._edge is not None:
            raise NotOverNats
        if self._caller is None:
            raise RuntimeError("the client is not started: use it in `async with Client(...) as client`")
        return self._caller

    @property
    def _started(self) -> Producer:
        if self._edge is not None:
            raise NotOverNats
        if self._producer is None:
            raise RuntimeError("the client is not started: use it in `async with Client(...) as client`")
        return self._producer

    async def _administer(self) -> AIOKafkaAdminClient:
        async with self._admin_opening:  # one that two open at once is closed by nobody
            if self._admin is None:
                admin = AIOKafkaAdminClient(**self._kafka)
                try:
                    await admin.start()
                except BaseException:
                    await admin.close()
                    raise
                self._admin = admin
        return self._admin

    async def open_replies(self) -> None:
        """Make the reply topic and read it; else the first ask does so. Raises NotAuthorized, KafkaError."""
        async with self._replies_open:
            if self._replies is not None:
                return
            topic = self._call.reply_topic
            admin = await self._administer()
            await topics.create(admin, [topics.replies_spec(self.settings, self.name)])
            consumer = AIOKafkaConsumer(**self._kafka, auto_offset_reset="earliest", enable_auto_commit=False)
            await consumer.start()
            consumer.assign([TopicPartition(topic, 0)])
            self._replies = asyncio.create_task(self._read_replies(consumer), name="rookery-replies")

    async def _read_replies(self, consumer: AIOKafkaConsumer) -> None:
        try:
            while True:
                for records in (await consumer.getmany(timeout_ms=1_000)).values():
                    for record in records:
                        if record.value is not None:
                            self._call.received(record.value)
        finally:
            await consumer.stop()

    async def _offsets(self) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        """End and committed offsets of all inbox partitions."""
        if self._meter is None:
            meter = AIOKafkaConsumer(**self._kafka, enable_auto_commit=False)
            await meter.start()
            self._meter = meter
        partitions = range(self.partitions)
        tps = [TopicPartition(topic, number) for topic in self.topics.inboxes for number in partitions]
        ends = await self._meter.end_offsets(tps)
        committed = await self._committed_offsets(tps)
        return ends, {tp: max(meta.offset, 0) for tp, meta in committed.items()}

    async def _committed_offsets(self, tps: list[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        """What the group has committed; a new broker needs a moment until it has a coordinator for groups."""
        admin = await self._administer()
        give_up = time.monotonic() + COORDINATOR_TIMEOUT
        while True:
            try:
                found: dict[TopicPartition, OffsetAndMetadata] = await admin.list_consumer_group_offsets(
                    self.settings.app_id, partitions=tps
                )
            except COORDINATOR_NOT_READY:
                if time.monotonic() > give_up:
                    raise
                await asyncio.sleep(0.1)
            else:
                return found


def _over_nats(settings: Settings, name: str) -> "NatsCaller":
    from rookery.streams.nats.caller import NatsCaller  # and nats-py with it

    return NatsCaller(settings, name)
