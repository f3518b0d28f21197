"""Single messages through workers of our image, on Kafka as two vendors ship it."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from testcontainers.community.kafka import KafkaContainer
from testcontainers.community.redis import RedisContainer
from testcontainers.core.network import Network

from rookery import Client
from tests.containers.kit import CP_KAFKA, KAFKA, WAIT, Crew, eventually, tagged

REDIS_URL = "redis://redis:6379/0"


@pytest.fixture(params=[KAFKA, CP_KAFKA])
def address(request: pytest.FixtureRequest, image: str, network: Network, owner: str, app_id: str) -> Iterator[str]:
    """A worker on a Kafka of this vendor; where clients find that."""
    with ExitStack() as stack:
        if request.param == KAFKA:
            found, bus = request.getfixturevalue("bus").address, "bus:9092"
        else:
            vendor = KafkaContainer(CP_KAFKA, network=network, network_aliases=["cp"], **tagged(owner)).with_kraft()
            vendor.with_envs(
                KAFKA_HEAP_OPTS="-Xms256m -Xmx512m",
                # Leases are transactional ids, whose topic has three copies unless a small cluster is told otherwise.
                KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR="1",
                KAFKA_TRANSACTION_STATE_LOG_MIN_ISR="1",
            )
            stack.callback(vendor.stop)
            vendor.start(timeout=int(WAIT))
            found, bus = vendor.get_bootstrap_server(), "cp:9092"
        crew = stack.enter_context(Crew(image, network, owner, app_id, bus, ROOKERY_PARTITIONS="2"))
        crew.start("node1", module="messages")
        yield found


def test_messages_pass_between_agents_and_strangers_are_answered(address: str, app_id: str) -> None:
    asyncio.run(_article(address, app_id))
    _stranger(address, app_id)


async def _article(address: str, app_id: str) -> None:
    """What the article's unit test says, with its agents in a container."""
    async with Client(app_id, broker=address, partitions=2) as client:
        sender, receiver = client.get_agent("TestAgent/sender"), client.get_agent("TestAgent/receiver")
        await sender.tell({"type": "CALL", "who": "TestAgent/receiver"})
        async with asyncio.timeout(WAIT):
            while (await receiver.state()).last_message != "PING":  # noqa: ASYNC110 - asks another process
                await asyncio.sleep(0.1)


def _stranger(address: str, app_id: str) -> None:
    """A Kafka client, JSON, the address as key, and the topic with the answer; no code of ours."""
    topic = f"{app_id}.replies.stranger"
    kafka: dict[str, str | int | float | bool] = {"bootstrap.servers": address}
    admin = AdminClient(kafka)
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result()
    # librdkafka's own default puts keys elsewhere than Kafka's.
    producer = Producer({**kafka, "partitioner": "murmur2_random"})
    headers: list[tuple[str, str | bytes | None]] = [
        ("content-type", b"application/json"),
        ("type", b"add"),
        ("reply-to", b"stranger"),
    ]
    producer.produce(f"{app_id}.inbox.normal", json.dumps({"n": 7}).encode(), b"Counter/one", headers=headers)
    assert producer.flush(WAIT) == 0
    consumer = Consumer({**kafka, "group.id": "stranger", "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    try:
        answer = eventually(lambda: consumer.poll(1.0), "an answer")
        assert json.loads(answer.value()) == {"count": 7}
    finally:
        consumer.close()


def test_agents_without_locks_go_on_while_redis_is_gone(
    image: str, network: Network, owner: str, app_id: str, request: pytest.FixtureRequest, redis: RedisContainer
) -> None:
    address = request.getfixturevalue("bus").address
    settings = {"ROOKERY_PARTITIONS": "2", "REDIS_URL": REDIS_URL}
    with Crew(image, network, owner, app_id, "bus:9092", **settings) as crew:
        crew.start("node1", module="messages")
        asyncio.run(_without_redis(address, app_id, redis))


async def _without_redis(address: str, app_id: str, redis: RedisContainer) -> None:
    async with Client(app_id, broker=address, partitions=2) as client:
        bank, counter = client.get_agent("Bank/one"), client.get_agent("Counter/one")
        assert await bank.ask({"type": "deposit", "gold": 1, "wait": 5}, WAIT) == 1
        redis.get_wrapped_container().stop(timeout=5)
        waiting = asyncio.create_task(bank.ask({"type": "deposit", "gold": 2, "wait": 5}, 2 * WAIT))
        for count in range(1, 6):
            assert await counter.ask({"type": "add", "n": 1}, WAIT) == {"count": count}
        assert not waiting.done()
        await asyncio.to_thread(redis.get_wrapped_container().start)
        # The turn failed while Redis was away, and was tried again: its deposit counts once.
        assert await waiting == 3
