"""`KafkaLog`: the engine's `Log` port on a real Kafka.

Two plain producers, so that a slow target of the outbox never holds up the journal: aiokafka has one request in flight
per broker and producer. Both carry identities of our own (`batches`): the journal's come from leases, the outbox's from
InitProducerId without a transactional id, one more for a target after a failure there, since its sequence is unknown
then. A repeat can follow such a failure; receivers drop it by its source's sequence.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaError, UnknownTopicOrPartitionError

from rookery.schemas.errors import NotBound, WrongTopic
from rookery.schemas.journal import LEASE_HEADER, lease_number
from rookery.schemas.partition_errors import LeaseLost
from rookery.streams.core.routing import Topics
from rookery.streams.kafka import lease
from rookery.streams.kafka.batches import (
    Identity,
    SequencedBatch,
    deliver,
    fetch_identity,
    plain_producer,
    stop_producer,
)
from rookery.streams.kafka.fencetest import check_fence
from rookery.streams.kafka.reader import STOP_TIMEOUT, Readers, ReadFailed, stop_consumer
from rookery.streams.kafka.topicids import topic_ids
from rookery.streams.log import Followed, JournalRecord, Lease, NoSuchTopic, Record, ShipFailed

# Longer than a leader takes to move in a rolling restart, so that this costs no recovery; seconds.
APPEND_TIMEOUT = 20.0
# A missing reply topic is asked for again after this; seconds. A client that is slow to make its topic loses no more.
MISSING_REMEMBERED = 5.0
# Before that, again after each of these: not every broker knows yet of a topic that was made just now.
LOOKS = 0.05, 0.2, 0.75
# Bound of what is remembered about targets: identities and missing topics; old ones are dropped first.
TARGETS_MAX = 10_000

CLUSTER_LOG = logging.getLogger("aiokafka.cluster")


class Group(Protocol):
    """The consumer group membership that feeds the engine; the Faust consumer."""

    def fetch_from(self, topic: str, partition: int, offset: int) -> None:
        """Fetch the partition from `offset` on."""
        ...

    def pause(self, topic: str, partition: int) -> None:
        """Stop fetching the partition."""
        ...

    def resume(self, topic: str, partition: int) -> None:
        """Fetch the partition again."""
        ...

    async def confirm(self, topic: str, partition: int) -> bool:
        """Have the broker confirm the assignment of the partition, bounded by the session timeout."""
        ...


class _DepartedClients(logging.Filter):
    """Keeps aiokafka from calling it an error that a client has left with its reply topic."""

    def __init__(self, topics: Topics) -> None:
        super().__init__()
        self._topics = topics

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is worth a line."""
        args = record.args
        of_a_client = isinstance(args, tuple) and bool(args) and self._topics.is_replies(str(args[0]))
        return not of_a_client or "not authorized" in str(record.msg)


class KafkaLog:
    """The log of one worker: leases, journals, inboxes and the outbox; between `start()` and `stop()`.

    `client_kwargs` are aiokafka's: bootstrap servers and security. `append_timeout` in seconds bounds an append, a
    shipped batch, and a read without progress.
    """

    def __init__(
        self, topics: Topics, client_kwargs: Mapping[str, Any], *, append_timeout: float = APPEND_TIMEOUT
    ) -> None:
        self._topics = topics
        self._client_kwargs = client_kwargs
        self._timeout = append_timeout
        self._group: Group | None = None
        self._journal: AIOKafkaProducer | None = None
        self._outbox: AIOKafkaProducer | None = None
        self._lookup: AIOKafkaConsumer | None = None
        self._readers = Readers(client_kwargs, patience=append_timeout)
        self._identities: dict[tuple[str, int], Identity] = {}
        self._quiet = _DepartedClients(topics)
        self._missing: dict[str, float] = {}  # topic -> when to look again, monotonic seconds
        self._asking = asyncio.Lock()

    async def start(self) -> None:
        """Connect; raises KafkaConnectionError when no broker answers."""
        CLUSTER_LOG.addFilter(self._quiet)
        # Half of the bound for a request, so that one try can fail and be repeated within it.
        self._journal = plain_producer(self._client_kwargs, self._timeout / 2)
        self._outbox = plain_producer(self._client_kwargs, self._timeout / 2)
        self._lookup = AIOKafkaConsumer(
            **self._client_kwargs, group_id=None, request_timeout_ms=int(self._timeout * 1000), retry_backoff_ms=50
        )
        try:
            await asyncio.gather(self._journal.start(), self._outbox.start(), self._lookup.start())
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Disconnect. What was not acknowledged within the bound stays unknown."""
        stopping = [self._readers.close()]
        stopping += [stop_producer(p, STOP_TIMEOUT) for p in (self._journal, self._outbox) if p is not None]
        if self._lookup is not None:
            stopping.append(stop_consumer(self._lookup, STOP_TIMEOUT))
        self._journal = self._outbox = self._lookup = None
        await asyncio.gather(*stopping)
        CLUSTER_LOG.removeFilter(self._quiet)

    def attach(self, group: Group) -> None:
        """Name the consumer that `seek`, `pause`, `resume` and `confirm_assignment` speak to."""
        self._group = group

    async def check_fence(self) -> None:
        """Prove that this broker fences; see `fencetest`."""
        servers = str(self._client_kwargs["bootstrap_servers"])
        await check_fence(_running(self._journal), self._topics.app_id, self._topics.control, servers, self._timeout)

    # --- journal ------------------------------------------------------------------------------------------------------

    async def acquire(self, partition: int) -> Lease:
        """Take a new lease on a journal partition; raises LeaseLost when the broker gives none in time."""
        producer = _running(self._journal)
        try:
            await self._know(producer.client, self._topics.journal, partition)
        except KafkaError as error:
            raise LeaseLost(partition, str(error)) from error
        return await lease.acquire(
            producer, self._topics.app_id, self._topics.journal, partition, self._timeout, self._timeout
        )

    async def journal_end(self, partition: int) -> int:
        """The journal partition's end offset, asked from the broker now."""
        return (await self._bounds((self._topics.journal,), partition))[0][1]

    async def journal_id(self) -> bytes:
        """The topic id of the journal: another one when it is made again."""
        ((journal_id, _),) = await topic_ids(_running(self._journal).client, (self._topics.journal,))
        return journal_id

    async def journal_start(self, partition: int) -> int:
        """The journal partition's log start, asked from the broker now."""
        return (await self._bounds((self._topics.journal,), partition))[0][0]

    async def read_journal(self, partition: int, start: int, stop: int) -> AsyncIterator[Sequence[JournalRecord]]:
        """See `Log.read_journal`; raises ReadFailed when there is no progress within the bound."""
        async for records in self._readers.read(self._topics.journal, partition, start, stop):
            yield _journal_records(records)

    async def follow_journals(self, offsets: Mapping[int, int]) -> AsyncGenerator[Followed]:
        """See `Log.follow_journals`; raises ReadFailed when the brokers don't answer."""
        async with aclosing(self._readers.follow(self._topics.journal, offsets)) as following:
            async for partition, records, position, end in following:
                yield Followed(partition, _journal_records(records), position, end)

    # --- inboxes ------------------------------------------------------------------------------------------------------

    async def inbox_bounds(self, partition: int) -> Sequence[tuple[int, int]]:
        """(log start, end offset) of the partition in each of the three inboxes, by lane."""
        return await self._bounds(self._topics.inboxes, partition)

    async def incarnations(self) -> Sequence[bytes]:
        """The topic ids of the inboxes.

        Raises NoSuchTopic, and WrongTopic when one has other partitions than the journal.
        """
        client = _running(self._journal).client
        try:
            *inboxes, (_, partitions) = await topic_ids(client, (*self._topics.inboxes, self._topics.journal))
        except UnknownTopicOrPartitionError as error:
            raise NoSuchTopic(error.args[0]) from None
        for topic, (_, count) in zip(self._topics.inboxes, inboxes, strict=True):
            if count != partitions:
                raise WrongTopic(topic, f"has {count} partitions now, the journal has {partitions}")
        return [topic_id for topic_id, _ in inboxes]

    async def read_inbox(self, partition: int, lane: int, start: int, stop: int) -> AsyncIterator[Sequence[Record]]:
        """See `Log.read_inbox`; what retention has deleted is left out."""
        async for records in self._readers.read(self._topics.inboxes[lane], partition, start, stop):
            yield records

    async def _bounds(self, topics: Sequence[str], partition: int) -> list[tuple[int, int]]:
        lookup = _running(self._lookup)
        tps = [TopicPartition(topic, partition) for topic in topics]
        try:
            starts, ends = await asyncio.gather(lookup.beginning_offsets(tps), lookup.end_offsets(tps))
        except KafkaError as error:
            raise ReadFailed(topics[0], partition, f"{type(error).__name__}: {error}") from error
        return [(starts[tp], ends[tp]) for tp in tps]

    # --- outbox -------------------------------------------------------------------------------------------------------

    async def ship(self, topic: str, partition: int, messages: Sequence[tuple[bytes | None, bytes]]) -> None:
        """See `Log.ship`; returns or raises within the bound."""
        producer = _running(self._outbox)
        target = topic, partition
        identity: Identity | None = None
        try:
            await self._require(producer, topic, partition)
            identity = self._identities.pop(target, None)
            if identity is None:
                identity = await fetch_identity(producer, None, self._timeout)
            batch = SequencedBatch(identity, messages, [])
            await deliver(producer, topic, partition, batch, self._timeout)
        except (KafkaError, TimeoutError) as error:
            producer.client.force_metadata_update()
            raise ShipFailed(f"{topic}-{partition}: {type(error).__name__}: {error}") from error
        identity.advance(len(messages))
        # Put back only now: after a failure, or a cancelled call, the sequence is unknown and the target gets a new id.
        if len(self._identities) >= TARGETS_MAX:
            del self._identities[next(iter(self._identities))]
        self._identities[target] = identity

    async def _require(self, producer: AIOKafkaProducer, topic: str, partition: int) -> None:
        if _known(producer.client, topic, partition):
            return
        if self._missing.get(topic, 0.0) > time.monotonic():
            raise NoSuchTopic(topic)
        for wait in LOOKS:
            if await self._know(producer.client, topic, partition):
                return
            await asyncio.sleep(wait)
        if await self._know(producer.client, topic, partition):
            return
        if len(self._missing) >= TARGETS_MAX:
            self._missing.clear()
        self._missing[topic] = time.monotonic() + MISSING_REMEMBERED
        raise NoSuchTopic(topic)

    async def _know(self, client: Any, topic: str, partition: int) -> bool:
        """Make a client know the topic's leaders; False when a broker says that there is no such topic or partition.

        Raises KafkaConnectionError when none says anything. One question at a time: an answer that is under way was not
        asked for topics that were added since, and must not make them missing.
        """
        async with self._asking:
            if _known(client, topic, partition):
                return True
            client._topics.add(topic)
            for _ in range(2):  # the first answer may be under way already
                if not await client.force_metadata_update():
                    raise KafkaConnectionError(f"no broker says where {topic} is")
                if _known(client, topic, partition):
                    return True
            # Topics of clients that have left: else every later refresh asks for them.
            for gone in [name for name in client._topics if client.cluster.partitions_for_topic(name) is None]:
                client._topics.discard(gone)
            return False

    # --- group --------------------------------------------------------------------------------------------------------

    def seek(self, partition: int, lane: int, offset: int) -> None:
        """Fetch that inbox partition from `offset` on."""
        self._membership().fetch_from(self._topics.inboxes[lane], partition, offset)

    def pause(self, partition: int, lane: int) -> None:
        """Stop fetching that inbox partition."""
        self._membership().pause(self._topics.inboxes[lane], partition)

    def resume(self, partition: int, lane: int) -> None:
        """Fetch that inbox partition again."""
        self._membership().resume(self._topics.inboxes[lane], partition)

    async def confirm_assignment(self, partition: int) -> bool:
        """See `Log.confirm_assignment`."""
        return await self._membership().confirm(self._topics.inboxes[0], partition)

    def _membership(self) -> Group:
        if self._group is None:
            raise NotBound("fetching from an inbox")
        return self._group


def _running(client: Any) -> Any:
    if client is None:
        raise NotBound("the log")
    return client


def _known(client: Any, topic: str, partition: int) -> bool:
    # A topic that is not in the client's set is in its metadata only until the next refresh.
    return topic in client._topics and partition in (client.cluster.partitions_for_topic(topic) or ())


def _journal_records(records: Sequence[Any]) -> list[JournalRecord]:
    found: list[JournalRecord] = []
    headers: Sequence[tuple[str, bytes]] = ()
    lease: int | None = None
    for record in records:
        if record.headers != headers:  # as a rule those of the record before
            headers = record.headers
            lease = _lease_number(headers)
        found.append(JournalRecord(record.offset, record.key, record.value, lease))
    return found


def _lease_number(headers: Sequence[tuple[str, bytes]]) -> int | None:
    for name, value in headers:
        if name == LEASE_HEADER:
            return lease_number(value)
    return None
