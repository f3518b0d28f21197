"""Topics as a stranger sees them: raw aiokafka, read from end to end."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.structs import ConsumerRecord

from tests.chaos.evidence import ClientSend, Evidence, InboxRecord, JournalRow, Letter, Reply
from tests.chaos.wire import LANES, Damaged, lease_of, read_envelope, read_letter, write_envelope
from tests.chaos.workload import REPORT

READ_SECONDS = 300.0
ASK_SECONDS = 20.0


class Names:
    """The names of an application's topics, by the documents."""

    def __init__(self, app_id: str) -> None:
        self.inboxes = [f"{app_id}.inbox.{lane}" for lane in LANES]
        self.journal = f"{app_id}-journal-changelog"
        self.control = f"{app_id}.control"
        self.letters = f"{app_id}.deadletter"
        self.app_id = app_id

    def replies(self, client: str) -> str:
        """The reply topic of a client."""
        return f"{self.app_id}.replies.{client}"


@asynccontextmanager
async def admin(broker: str) -> AsyncIterator[AIOKafkaAdminClient]:
    """An admin client for the block."""
    client = AIOKafkaAdminClient(bootstrap_servers=broker)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def make_replies(broker: str, names: Names, clients: Sequence[str], copies: int) -> None:
    """Make the reply topics of clients."""
    async with admin(broker) as client:
        await client.create_topics([NewTopic(names.replies(name), 1, copies) for name in clients])


async def control(broker: str, names: Names, name: str, value: bytes | None) -> None:
    """Write a record of the control topic, as operators' commands do."""
    async with AIOKafkaProducer(bootstrap_servers=broker, acks="all") as producer:
        await producer.send_and_wait(names.control, value, name.encode(), partition=0)


async def compact_soon(broker: str, topic: str) -> None:
    """Make segments short, so that the log cleaner has work at once."""
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
    from confluent_kafka.admin._resource import ResourceType

    wanted = {"segment.ms": "2000", "min.cleanable.dirty.ratio": "0.01", "max.compaction.lag.ms": "2000"}
    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in wanted.items()]
    client = AdminClient({"bootstrap.servers": broker})
    for future in client.incremental_alter_configs(
        [ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)]
    ).values():
        await asyncio.to_thread(future.result, 20)


@asynccontextmanager
async def consumer(broker: str) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer without a group for the block."""
    made = AIOKafkaConsumer(bootstrap_servers=broker, enable_auto_commit=False, auto_offset_reset="earliest")
    await made.start()
    try:
        yield made
    finally:
        # aiokafka's fetch task may swallow its cancellation, and `stop` then waits for ever; a second one helps.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5.0):
                await made.stop()


async def backlog(reader: AIOKafkaConsumer, client: AIOKafkaAdminClient, names: Names, partitions: int) -> int:
    """Records of the inboxes above the committed offsets of the group."""
    tps = [TopicPartition(topic, number) for topic in names.inboxes for number in range(partitions)]
    ends = await reader.end_offsets(tps)
    committed = await client.list_consumer_group_offsets(names.app_id, partitions=tps)
    return sum(end - max(committed[tp].offset if tp in committed else 0, 0) for tp, end in ends.items())


async def read(broker: str, topic: str) -> dict[int, list[ConsumerRecord]]:
    """All records of a topic up to its present end, by partition. Raises TimeoutError."""
    async with consumer(broker) as reader, asyncio.timeout(READ_SECONDS):
        await reader._client.force_metadata_update()
        partitions = await _partitions(reader, topic)
        tps = [TopicPartition(topic, number) for number in sorted(partitions)]
        ends = await reader.end_offsets(tps)
        reader.assign(tps)
        await reader.seek_to_beginning(*tps)
        found: dict[int, list[ConsumerRecord]] = {tp.partition: [] for tp in tps}
        for tp in tps:  # one after the other: the positions tell when it is done, compaction may have taken the last
            while await reader.position(tp) < ends[tp]:
                for at, records in (await reader.getmany(tp, timeout_ms=500, max_records=10_000)).items():
                    found[at.partition] += [record for record in records if record.offset < ends[at]]
        return found


async def _partitions(reader: AIOKafkaConsumer, topic: str) -> set[int]:
    for _ in range(50):
        await reader._client.add_topic(topic)
        if partitions := reader.partitions_for_topic(topic):
            return set(partitions)
        await asyncio.sleep(0.1)
    raise TimeoutError(f"{topic} does not exist")


def inbox_records(lane: int, found: dict[int, list[ConsumerRecord]]) -> Iterator[InboxRecord]:
    """Decode an inbox."""
    for partition, records in found.items():
        for record in records:
            try:
                message = read_envelope(record.value)
            except Damaged:
                message = None
            yield InboxRecord(lane, partition, record.offset, record.value or b"", message)


def journal_rows(found: dict[int, list[ConsumerRecord]]) -> Iterator[JournalRow]:
    """Decode the frame of journal records."""
    for partition, records in found.items():
        for record in records:
            yield JournalRow(partition, record.offset, record.key, record.value, lease_of(record.headers))


def letters(names: Names, found: dict[int, list[ConsumerRecord]]) -> list[Letter]:
    """Decode dead letters."""
    read_ones = []
    for partition, records in found.items():
        for record in records:
            letter, place = read_letter(record.value), f"{partition}@{record.offset}"
            lane = names.inboxes.index(letter.topic)
            read_ones.append(Letter(lane, letter.partition, letter.offset, letter.value, letter.reason, place))
    return read_ones


def replies(found: dict[int, list[ConsumerRecord]]) -> list[Reply]:
    """Decode replies."""
    answers = []
    for records in found.values():
        for record in records:
            message = read_envelope(record.value)
            answers.append(Reply(message.causation_id, message.id, str(record.offset)))
    return answers


async def collect(
    broker: str,
    names: Names,
    clients: Iterable[str],
    history: Iterable[Mapping[str, Any]],
    books: Mapping[str, Mapping[str, Any] | None],
    compacted: bool = False,
) -> Evidence:
    """Everything there is about an application; `history` is what its generator wrote, `books` what its agents said."""
    inboxes = [await read(broker, topic) for topic in names.inboxes]
    answers = [await read(broker, names.replies(client)) for client in clients]
    return Evidence(
        sends=[ClientSend(*(line[key] for key in ClientSend._fields)) for line in history if "id" in line],
        records=(record for lane, found in enumerate(inboxes) for record in inbox_records(lane, found)),
        journal=journal_rows(await read(broker, names.journal)),
        letters=letters(names, await read(broker, names.letters)),
        replies=[reply for found in answers for reply in replies(found)],
        books=books,
        ends={
            (lane, partition): records[-1].offset + 1
            for lane, found in enumerate(inboxes)
            for partition, records in found.items()
            if records
        },
        compacted=compacted,
    )


async def ask_all(
    broker: str, names: Names, client: str, agents: Sequence[str], times: int
) -> dict[str, dict[str, Any] | None]:
    """Ask every agent for its books, those who are silent up to so many times; None is who stays so."""
    books: dict[str, dict[str, Any] | None] = dict.fromkeys(agents)
    producer = AIOKafkaProducer(bootstrap_servers=broker, acks="all")
    await producer.start()
    try:
        async with consumer(broker) as reader:
            reader.assign([TopicPartition(names.replies(client), 0)])
            for _ in range(times):
                for agent in [agent for agent, book in books.items() if book is None]:
                    await producer.send(names.inboxes[2], _question(client, agent), agent.encode())
                await producer.flush()
                deadline = time.monotonic() + ASK_SECONDS
                while None in books.values() and time.monotonic() < deadline:
                    for records in (await reader.getmany(timeout_ms=500)).values():
                        for message in (read_envelope(record.value) for record in records):
                            books[message.sender] = msgspec.json.decode(message.payload)
    finally:
        await producer.stop()
    return books


def _question(client: str, agent: str) -> bytes:
    return write_envelope(
        sender=f"client:{client}",
        target=agent,
        payload=b"{}",
        timestamp=time.time_ns(),
        priority=2,
        id=uuid.uuid4().hex,
        type=REPORT,
        content_type="application/json",
        reply_to=f"client:{client}",
    )
