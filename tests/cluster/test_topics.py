"""Topics on a real broker: made, found right, refused when wrong, removed."""

import asyncio
import uuid

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from rookery.ops.settings import Settings
from rookery.schemas.errors import ConfigurationError, WrongTopic
from rookery.streams.kafka import topics

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio]


async def learnt(admin: AIOKafkaAdminClient, topic: str) -> None:
    """The controller has the new policy; the broker that is asked learns it a moment later."""
    asked = [ConfigResource(ConfigResourceType.TOPIC, topic, configs={"cleanup.policy": None})]
    async with asyncio.timeout(20):
        while "delete" not in str(await admin.describe_configs(asked)):  # noqa: ASYNC110 - asks the broker
            await asyncio.sleep(0.05)


async def test_the_life_of_an_application(broker: str, admin: AIOKafkaAdminClient) -> None:
    settings = Settings.load(app_id=f"test-{uuid.uuid4().hex[:8]}", partitions=2, broker=broker)
    kwargs = {"bootstrap_servers": broker}
    with pytest.raises(ConfigurationError, match=r"(?s)inbox\.low: does not exist.*control: does not exist"):
        await topics.ensure(settings, kwargs, make=False)
    try:
        assert set(await topics.ensure(settings, kwargs)) == {spec.name for spec in topics.specs(settings)}
        assert await topics.ensure(settings, kwargs) == []
        async with topics.admin(kwargs) as client:
            spec = topics.replies_spec(settings, "one")
            assert await topics.create(client, [spec]) == [spec.name]
            assert await topics.create(client, [spec]) == []

        journal = f"{settings.app_id}-journal-changelog"
        await admin.alter_configs(
            [ConfigResource(ConfigResourceType.TOPIC, journal, configs={"cleanup.policy": "delete"})]
        )
        await learnt(admin, journal)
        with pytest.raises(WrongTopic, match=r"cleanup\.policy is delete") as wrong:
            await topics.ensure(settings, kwargs)
        assert "--entity-name " + journal in wrong.value.command
        with pytest.raises(ConfigurationError, match="export ROOKERY_PARTITIONS=2"):
            await topics.ensure(Settings.load(app_id=settings.app_id, partitions=3, broker=broker), kwargs)
        offsets = {TopicPartition(f"{settings.app_id}.inbox.low", 0): 0}
        async with AIOKafkaConsumer(**kwargs, group_id=settings.app_id, enable_auto_commit=False) as member:
            member.assign(list(offsets))
            await member.commit(offsets)
        assert settings.app_id in [name for name, *_ in await admin.list_consumer_groups()]
    finally:
        assert len(await topics.remove(settings.app_id, kwargs)) == len(topics.specs(settings)) + 1
    assert settings.app_id not in [name for name, *_ in await admin.list_consumer_groups()]
    assert await topics.remove(settings.app_id, kwargs) == []
