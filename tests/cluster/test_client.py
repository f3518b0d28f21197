"""A client goes on after a message that the broker did not take."""

from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import MessageSizeTooLargeError

from rookery import Client, Priority
from rookery.schemas.address import partition_of
from rookery.streams.core.routing import Topics
from tests.cluster.conftest import PARTITIONS

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio]
LARGE: dict[str, Any] = {"topic_bytes_max": 4_000_000, "batch_bytes_max": 3_800_000, "message_bytes_max": 3_000_000}


@pytest.mark.parametrize("many", [False, True], ids=["tell", "tell_many"])
async def test_a_refused_message_does_not_stop_those_after_it(broker: str, topics: Topics, many: bool) -> None:
    too_large, small = {"text": "x" * 2_000_000}, {"text": "x"}
    async with Client(topics.app_id, broker=broker, **LARGE) as client:
        agent = client.get_agent("A/x")
        await agent.tell(small)  # from here on the broker expects numbers
        refused = client.tell_many([("A/x", too_large, Priority.NORMAL)]) if many else agent.tell(too_large)
        with pytest.raises(MessageSizeTooLargeError):
            await refused
        for _ in range(3):
            await agent.tell(small)
        assert await client.tell_many([("A/x", small, Priority.NORMAL)] * 3) == 3
    tp = TopicPartition(topics.inboxes[Priority.NORMAL], partition_of("A/x", PARTITIONS))
    async with AIOKafkaConsumer(bootstrap_servers=broker) as reader:
        assert (await reader.end_offsets([tp]))[tp] == 7
