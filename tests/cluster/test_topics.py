"""Topics on a real broker: made, found right, refused when wrong, removed."""

import uuid

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from rookery.ops.settings import Settings
from rookery.schemas.errors import ConfigurationError, WrongTopic
from rookery.streams.kafka import topics

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio]


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
        with pytest.raises(WrongTopic, match=r"cleanup\.policy is delete") as wrong:
            await topics.ensure(settings, kwargs)
        assert "--entity-name " + journal in wrong.value.command
        with pytest.raises(ConfigurationError, match="export ROOKERY_PARTITIONS=2"):
            await topics.ensure(Settings.load(app_id=settings.app_id, partitions=3, broker=broker), kwargs)
    finally:
        assert len(await topics.remove(settings.app_id, kwargs)) == 9
    assert await topics.remove(settings.app_id, kwargs) == []
