"""What the start-up check says of brokers that can't answer it."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import GroupCoordinatorNotAvailableError

from rookery.schemas.errors import ConfigurationError
from rookery.streams.kafka import fencetest


def test_brokers_without_a_coordinator_are_told_which_setting_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    async def add_topic(name: str) -> None:
        pass

    async def nobody(*args: Any) -> None:
        raise GroupCoordinatorNotAvailableError

    monkeypatch.setattr(fencetest, "fetch_identity", nobody)
    producer = cast("AIOKafkaProducer", SimpleNamespace(client=SimpleNamespace(add_topic=add_topic)))
    with pytest.raises(ConfigurationError, match=r"transaction\.state\.log\.replication\.factor"):
        asyncio.run(fencetest.check_fence(producer, "shop", "shop.control", "k:9092", 1.0))
