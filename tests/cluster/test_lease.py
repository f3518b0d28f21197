"""Leases on a real broker: what fences, what does not, and what an append answers."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError, OutOfOrderSequenceNumber, ProducerFenced

from rookery.schemas.partition_errors import LeaseLost
from rookery.streams.core.routing import Topics
from rookery.streams.kafka import batches, lease

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio]

ONE = [(b"a", b"1")]


@pytest_asyncio.fixture
async def producer(broker: str, topics: Topics) -> AsyncIterator[AIOKafkaProducer]:
    client = batches.plain_producer({"bootstrap_servers": broker}, 10)
    await client.start()
    await client.client.add_topic(topics.journal)
    yield client
    await client.stop()


async def take(producer: AIOKafkaProducer, topics: Topics, partition: int = 0) -> lease.KafkaLease:
    return await lease.acquire(producer, topics.app_id, topics.journal, partition, timeout=20, append_timeout=10)


async def test_the_newer_lease_fences_the_older_with_its_first_append_and_only_there(
    producer: AIOKafkaProducer, topics: Topics
) -> None:
    old, neighbour = await take(producer, topics), await take(producer, topics, 1)
    assert await old.append([(b"~claim", b"A")], None) == 0
    assert await neighbour.append([(b"~claim", b"A")], None) == 0
    assert await old.append([(b"a", b"1"), (b"b", None)], 0) == 1

    new = await take(producer, topics)
    assert await old.append(ONE, 0) == 3, "not fenced before the newer one has appended"
    assert await new.append([(b"~claim", b"B")], None) == 4
    with pytest.raises(LeaseLost, match="fenced by a newer lease") as lost:
        await old.append(ONE, 0)
    assert isinstance(lost.value.__cause__, ProducerFenced)
    with pytest.raises(LeaseLost, match="fenced"):
        await old.append(ONE, 0)

    assert await neighbour.append(ONE, 0) == 1
    assert await new.append(ONE, 4) == 5


async def test_many_leases_are_taken_and_claimed_together(producer: AIOKafkaProducer, topics: Topics) -> None:
    for generation in range(3):
        leases = await asyncio.gather(*(take(producer, topics, n) for n in (0, 1)))
        assert {one.epoch[1] for one in leases} == {generation}
        assert await asyncio.gather(*(one.append([(b"~claim", b"x")], None) for one in leases)) == [generation] * 2


async def test_a_refused_batch_kills_the_lease_and_a_new_one_goes_on(
    producer: AIOKafkaProducer, topics: Topics
) -> None:
    broken = await take(producer, topics)
    with pytest.raises(LeaseLost, match=r"max\.message\.bytes") as lost:
        await broken.append([(b"a", bytes(3_000_000))], None)
    assert isinstance(lost.value.__cause__, MessageSizeTooLargeError)
    with pytest.raises(LeaseLost, match=r"max\.message\.bytes"):
        await broken.append(ONE, None)

    gap = await take(producer, topics)
    assert await gap.append(ONE, None) == 0
    gap._identity.advance(1)
    with pytest.raises(LeaseLost, match="OutOfOrderSequence") as lost:
        await gap.append(ONE, 0)
    assert isinstance(lost.value.__cause__, OutOfOrderSequenceNumber)
    assert await (await take(producer, topics)).append(ONE, None) == 1


async def test_a_cancelled_append_kills_the_lease(producer: AIOKafkaProducer, topics: Topics) -> None:
    taken = await take(producer, topics)
    await taken.append(ONE, None)
    running = asyncio.create_task(taken.append(ONE, 0))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    with pytest.raises(LeaseLost, match="did not end"):
        await taken.append(ONE, 0)


async def test_the_sequence_wraps_to_zero(producer: AIOKafkaProducer, topics: Topics) -> None:
    taken = await take(producer, topics)
    taken._identity.sequence = 2**31 - 3  # a broker that has no state of a producer takes any sequence
    pair = [(b"a", b"1"), (b"b", b"2")]
    assert [await taken.append(pair, None) for _ in range(3)] == [0, 2, 4]
    assert taken._identity.sequence == 3
    taken._identity.sequence = 9
    with pytest.raises(LeaseLost, match="OutOfOrderSequence"):
        await taken.append(pair, None)


async def test_a_broker_that_does_not_answer_costs_no_more_than_the_bound(
    producer: AIOKafkaProducer, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = await lease.acquire(producer, topics.app_id, topics.journal, 0, timeout=20, append_timeout=0.2)

    async def silence(*_: object) -> None:
        await asyncio.sleep(1)

    monkeypatch.setattr(producer._sender, "_send_produce_req", silence)
    with pytest.raises(LeaseLost, match="unknown"):
        await taken.append(ONE, None)
    monkeypatch.setattr(producer.client, "coordinator_lookup", silence)
    with pytest.raises(LeaseLost, match=r"no producer id within 0\.2 s"):
        await lease.acquire(producer, topics.app_id, topics.journal, 0, timeout=0.2, append_timeout=1)
    producer._message_accumulator.fail_all(ProducerFenced())
