"""What tests ask for: an admin client of the real Kafka, an application of their own, a Redis of their own."""

import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from rookery.streams.core.routing import Topics
from rookery.streams.kafka import topics as admin_topics
from tests.cluster.authorizer import Authorizer
from tests.cluster.crew import Sender
from tests.cluster.nats_world import World, nats_world
from tests.cluster.redis_kit import RedisServer, locks_of, servers
from tests.cluster.secure_kafka import SecureKafka, secure_kafka

PARTITIONS = 2


@pytest_asyncio.fixture
async def admin(broker: str) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=broker)
    await client.start()
    yield client
    await client.close()


@pytest_asyncio.fixture
async def topics(admin: AIOKafkaAdminClient) -> AsyncIterator[Topics]:
    """Names of a fresh application whose journal and inboxes exist."""
    names = Topics(f"test-{uuid.uuid4().hex[:8]}")
    journal = {"cleanup.policy": "compact", "message.timestamp.type": "LogAppendTime"}
    new = [NewTopic(names.journal, PARTITIONS, 1, topic_configs=journal)]
    new += [NewTopic(name, PARTITIONS, 1) for name in names.inboxes]
    await admin.create_topics(new)
    yield names
    await admin.delete_topics([topic.name for topic in new])


@pytest_asyncio.fixture
async def app_id(broker: str) -> AsyncIterator[str]:
    name = f"test-{uuid.uuid4().hex[:8]}"
    yield name
    await admin_topics.remove(name, {"bootstrap_servers": broker})


@pytest_asyncio.fixture
async def send(broker: str, app_id: str) -> AsyncIterator[Sender]:
    async with AIOKafkaProducer(bootstrap_servers=broker) as producer:
        yield Sender(producer, Topics(app_id))


@pytest.fixture(scope="session")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """A Kafka of its own with TLS, passwords and an authorizer."""
    with secure_kafka(tmp_path_factory.mktemp("secure")) as started:
        yield started


@pytest.fixture
def authorizer(secure: SecureKafka) -> Authorizer:
    """Of that Kafka; nobody has any rights."""
    found = Authorizer(secure.plain)
    found.take_all()
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """Of a module of NATS tests."""
    async with nats_world(tmp_path_factory.mktemp("nats")) as world:
        yield world


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis of the module's own: its tests empty it."""
    own = servers(tmp_path_factory.mktemp("redis"))
    yield next(own)()
    own.close()


@pytest_asyncio.fixture
async def client(server: RedisServer) -> AsyncIterator[Any]:
    """A client of the module's Redis, which is empty."""
    async with locks_of(server.url) as (client, _, _):
        await client.flushall()
        yield client
