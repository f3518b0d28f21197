"""The `Log` port on a real broker: reading stretches, shipping, and what happens to targets that fail."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.errors import KafkaConnectionError

from rookery.schemas.errors import NotBound
from rookery.schemas.partition_errors import LeaseLost
from rookery.streams.core.routing import Topics
from rookery.streams.kafka.log import KafkaLog
from rookery.streams.kafka.reader import ReadFailed
from rookery.streams.log import Append, JournalRecord, NoSuchTopic, OutsideJournal, ShipFailed

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio]


@pytest_asyncio.fixture
async def log(broker: str, topics: Topics) -> AsyncIterator[KafkaLog]:
    port = KafkaLog(topics, {"bootstrap_servers": broker})
    await port.start()
    yield port
    await port.stop()


async def journal(log: KafkaLog, partition: int, start: int, stop: int) -> list[JournalRecord]:
    return [record async for batch in log.read_journal(partition, start, stop) for record in batch]


async def inbox(log: KafkaLog, lane: int, start: int, stop: int) -> list[tuple[int, bytes | None]]:
    return [(r.offset, r.value) async for batch in log.read_inbox(0, lane, start, stop) for r in batch]


async def test_a_journal_is_read_as_it_was_written(log: KafkaLog) -> None:
    assert await log.journal_end(0) == await log.journal_start(0) == 0
    assert await journal(log, 0, 0, 0) == []
    lease = await log.acquire(0)
    claim = await lease.append([(b"~claim", b"A")], None)
    assert await lease.append([(b"a", b"1"), (b"b", None)], claim) == 1
    assert await log.journal_end(0) == 3
    assert await log.journal_end(1) == 0
    assert await journal(log, 0, 0, 3) == [(0, b"~claim", b"A", None), (1, b"a", b"1", 0), (2, b"b", None, 0)]
    assert await journal(log, 0, 1, 2) == [(1, b"a", b"1", 0)]


async def test_long_stretches_come_in_bounded_batches(log: KafkaLog) -> None:
    lease = await log.acquire(0)
    batch: list[Append] = [(b"Agent/%d" % n, b"x" * 200) for n in range(3_000)]
    for _ in range(4):
        await lease.append(batch, 7)
    sizes, offsets = [], []
    async for records in log.read_journal(0, 0, 12_000):
        sizes.append(len(records))
        offsets += [record.offset for record in records]
    assert offsets == list(range(12_000))
    assert max(sizes) <= 5_000
    assert await asyncio.gather(*(journal(log, 0, n, n + 1) for n in range(0, 12_000, 1_000))) == [
        [(n, *batch[n % 3_000], 7)] for n in range(0, 12_000, 1_000)
    ]


async def test_compaction_leaves_holes_and_reading_ends_all_the_same(
    broker: str, admin: AIOKafkaAdminClient, topics: Topics
) -> None:
    names = Topics(f"{topics.app_id}-holes")
    eager = {"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.01",
             "min.compaction.lag.ms": "0", "delete.retention.ms": "0"}  # fmt: skip
    await admin.create_topics([NewTopic(names.journal, 1, 1, topic_configs=eager)])
    log = KafkaLog(names, {"bootstrap_servers": broker})
    await log.start()
    try:
        lease = await log.acquire(0)
        for n in range(6):
            await lease.append([(b"same", b"%d" % n), (b"other", b"%d" % n)], None)
            await asyncio.sleep(0.11)  # a new segment each time; only closed ones are compacted
        deadline = time.monotonic() + 45
        while (left := await journal(log, 0, 0, 10))[0].offset == 0 and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
        assert left[0].offset > 0, "the broker did not compact in time"
        # Everything before the last closed segment is gone, so the record at stop - 1 is, too.
        assert await journal(log, 0, 0, left[0].offset) == []
        assert [r.offset for r in await journal(log, 0, 0, 12)][-2:] == [10, 11]
    finally:
        await log.stop()
        await admin.delete_topics([names.journal])


async def test_what_retention_deleted_is_left_out(log: KafkaLog, admin: AIOKafkaAdminClient, topics: Topics) -> None:
    await log.ship(topics.inboxes[1], 0, [(b"k", b"%d" % n) for n in range(10)])
    await admin.delete_records({TopicPartition(topics.inboxes[1], 0): RecordsToDelete(before_offset=4)})
    assert await log.inbox_bounds(0) == [(0, 0), (4, 10), (0, 0)]
    assert await inbox(log, 1, 2, 6) == [(4, b"4"), (5, b"5")]


async def test_a_log_that_ends_before_the_stretch_is_an_error(broker: str, topics: Topics) -> None:
    log = KafkaLog(topics, {"bootstrap_servers": broker}, append_timeout=1.0)
    await log.start()
    try:
        with pytest.raises(ReadFailed, match="ends before offset 5"):
            await inbox(log, 0, 5, 6)
        with pytest.raises(ReadFailed, match="no progress at offset 0 of 6 for 1 s"):
            await inbox(log, 0, 0, 6)
    finally:
        await log.stop()


async def test_shipped_messages_arrive_in_order_and_once(log: KafkaLog, topics: Topics) -> None:
    for start in range(0, 50, 10):
        await log.ship(topics.inboxes[2], 0, [(b"k", b"%d" % n) for n in range(start, start + 10)])
    await log.ship(topics.inboxes[2], 0, [(None, b"50")])
    assert await inbox(log, 2, 0, 51) == [(n, b"%d" % n) for n in range(51)]


async def test_topics_that_are_new_to_a_worker_are_not_missing_when_many_ask_at_once(
    log: KafkaLog, topics: Topics
) -> None:
    """Each question to the cluster may be under way while others ask for more topics."""

    async def ship(topic: str, partition: int, delay: float) -> None:
        await asyncio.sleep(delay)
        await log.ship(topic, partition, [(b"k", b"v")])

    targets = [(topic, partition) for topic in (*topics.inboxes, topics.journal) for partition in range(2)]
    await asyncio.gather(*(ship(topic, number, 0.0004 * place) for place, (topic, number) in enumerate(targets)))


async def test_nothing_is_missing_while_no_broker_says_so(broker: str, topics: Topics) -> None:
    """A worker that is cut off must not take a client for gone: its replies would be dropped."""
    log = KafkaLog(topics, {"bootstrap_servers": broker}, append_timeout=2.0)
    await log.start()
    try:
        assert log._outbox is not None
        log._outbox.client._get_conn = nobody
        with pytest.raises(ShipFailed):
            await log.ship(topics.replies("someone"), 0, [(b"k", b"v")])
    finally:
        await log.stop()


async def nobody(*_: object, **__: object) -> None:
    """No connection to any broker."""


async def test_a_missing_topic_is_remembered_and_found_later(
    log: KafkaLog, admin: AIOKafkaAdminClient, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rookery.streams.kafka.log.MISSING_REMEMBERED", 3.0)
    replies = topics.replies(uuid.uuid4().hex)
    with pytest.raises(NoSuchTopic):
        await log.ship(replies, 0, [(b"k", b"v")])
    started = time.monotonic()
    for _ in range(100):
        with pytest.raises(NoSuchTopic):
            await log.ship(replies, 0, [(b"k", b"v")])
    assert time.monotonic() - started < 2.0, "asked the cluster each time"
    await admin.create_topics([NewTopic(replies, 1, 1)])
    await asyncio.sleep(3.0)
    await log.ship(replies, 0, [(b"k", b"v")])
    with pytest.raises(NoSuchTopic):
        await log.ship(replies, 1, [(b"k", b"v")])

    await admin.delete_topics([replies])
    while replies in await admin.list_topics():  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    started = time.monotonic()
    with pytest.raises((NoSuchTopic, ShipFailed)):
        await log.ship(replies, 0, [(b"k", b"v")])
    with pytest.raises(NoSuchTopic):
        await log.ship(replies, 0, [(b"k", b"v")])
    assert time.monotonic() - started < 5.0, "waited for a topic that is gone"
    await log.ship(topics.inboxes[0], 0, [(b"k", b"v")])


async def test_a_topic_that_is_being_made_is_not_missing(
    log: KafkaLog, admin: AIOKafkaAdminClient, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client asks as soon as it has made its topic for replies; the broker that is asked may hear of that later."""
    monkeypatch.setattr("rookery.streams.kafka.log.LOOKS", (1.0,) * 20)
    replies = topics.replies(uuid.uuid4().hex)
    shipping = asyncio.create_task(log.ship(replies, 0, [(b"k", b"v")]))
    await asyncio.sleep(0.3)
    assert not shipping.done()
    await admin.create_topics([NewTopic(replies, 1, 1)])
    await shipping
    await admin.delete_topics([replies])


async def test_a_failed_target_goes_on_with_a_new_identity_and_others_never_notice(
    log: KafkaLog, topics: Topics
) -> None:
    low, high = topics.inboxes[0], topics.inboxes[2]
    await log.ship(low, 0, [(b"k", b"0")])
    await log.ship(high, 0, [(b"k", b"0")])
    with pytest.raises(ShipFailed, match="MessageSizeTooLarge"):
        await log.ship(low, 0, [(b"k", bytes(3_000_000))])
    await log.ship(low, 0, [(b"k", b"1")])
    await log.ship(high, 0, [(b"k", b"1")])
    assert await inbox(log, 0, 0, 2) == await inbox(log, 2, 0, 2) == [(0, b"0"), (1, b"1")]


async def test_shipping_is_bounded_when_the_broker_is_silent(
    broker: str, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = KafkaLog(topics, {"bootstrap_servers": broker}, append_timeout=0.4)
    await log.start()
    await log.ship(topics.inboxes[0], 0, [(b"k", b"0")])
    assert log._outbox is not None

    async def silence(*_: object) -> None:
        await asyncio.sleep(1)

    with monkeypatch.context() as patched:
        patched.setattr(log._outbox._sender, "_send_produce_req", silence)
        with pytest.raises(ShipFailed, match="TimeoutError"):
            await log.ship(topics.inboxes[0], 0, [(b"k", b"1")])
    started = time.monotonic()
    await log.stop()
    assert time.monotonic() - started < 2.0


async def test_no_broker_is_an_error_at_start_and_a_stopped_log_says_so(topics: Topics) -> None:
    log = KafkaLog(topics, {"bootstrap_servers": "127.0.0.1:1"})
    with pytest.raises(KafkaConnectionError):
        await log.start()
    with pytest.raises(NotBound):
        await log.ship(topics.inboxes[0], 0, [(b"k", b"v")])
    with pytest.raises(NotBound):
        log.seek(0, 0, 0)


async def test_what_a_consumer_of_another_kind_sees(log: KafkaLog, broker: str, topics: Topics) -> None:
    lease = await log.acquire(1)
    await lease.append([(b"~claim", b"x")], None)
    await lease.append([(b"a", b"1")], 258)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=broker, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    consumer.assign([TopicPartition(topics.journal, 1)])
    await consumer.start()
    try:
        claim, record = [await asyncio.wait_for(consumer.getone(), 10) for _ in range(2)]
    finally:
        await consumer.stop()
    assert claim.headers == ()
    assert record.headers == (("l", bytes([0, 0, 0, 0, 0, 0, 1, 2])),)
    assert record.timestamp_type == 1, "the journal's clock is the broker's"


async def test_a_second_worker_takes_over(log: KafkaLog, broker: str, topics: Topics) -> None:
    other = KafkaLog(topics, {"bootstrap_servers": broker})
    await other.start()
    try:
        first = await log.acquire(0)
        await first.append([(b"~claim", b"A")], None)
        second = await other.acquire(0)
        assert await second.append([(b"~claim", b"B")], None) == 1
        with pytest.raises(LeaseLost):
            await first.append([(b"a", b"1")], 0)
        assert await log.journal_end(0) == 2
    finally:
        await other.stop()


async def test_journals_are_followed_from_where_one_stands(log: KafkaLog) -> None:
    leases = [await log.acquire(number) for number in range(2)]
    for lease in leases:
        await lease.append([(b"a", b"1"), (b"b", b"2"), (b"c", b"3")], 7)
    found: dict[int, list[JournalRecord]] = {0: [], 1: []}
    ends = {}
    async with asyncio.timeout(60), aclosing(log.follow_journals({0: 0, 1: 2})) as following:
        async for number, records, position, end in following:
            found[number] += records
            assert position <= end
            ends[number] = position, end
            if ends == {0: (3, 3), 1: (3, 3)}:
                await leases[1].append([(b"d", None)], 7)
            if ends.get(1) == (4, 4):
                break
    assert found[0] == [(0, b"a", b"1", 7), (1, b"b", b"2", 7), (2, b"c", b"3", 7)]
    assert found[1] == [(2, b"c", b"3", 7), (3, b"d", None, 7)]


async def test_following_from_beyond_the_end_is_an_error(log: KafkaLog) -> None:
    lease = await log.acquire(0)
    await lease.append([(b"a", b"1")], 7)
    async with asyncio.timeout(60), aclosing(log.follow_journals({0: 5, 1: 0})) as following:
        with pytest.raises(OutsideJournal) as raised:
            _ = [followed async for followed in following]
    assert (raised.value.partition, raised.value.position, raised.value.start) == (0, 5, 0)
