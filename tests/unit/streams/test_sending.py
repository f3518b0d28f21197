"""What a client raises when a broker dies under it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    NodeNotReadyError,
)

from rookery import Client, SendFailed


class Dying:
    """In the place of a Caller or an admin connection."""

    def __init__(self, error: KafkaError) -> None:
        self._error = error

    async def tell(self, *args: Any, **kwargs: Any) -> None:
        raise self._error

    ask = tell


async def sent(client: Client, how: str) -> None:
    agent = client.get_agent("Order/1")
    await (agent.tell({"a": 1}) if how == "tell" else agent.ask({"a": 1}))


@pytest.mark.parametrize("how", ["tell", "ask"])
@pytest.mark.parametrize("error", [KafkaTimeoutError(), NodeNotReadyError("node 1"), KafkaConnectionError("gone")])
def test_a_broker_that_dies_is_a_typed_error(error: KafkaError, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client("orders", broker="127.0.0.1:1")
    monkeypatch.setattr(client, "_caller", Dying(error))
    monkeypatch.setattr(client, "_replies", object())
    with pytest.raises(SendFailed, match=r"what was sent to Order/1 may not have arrived: .*send it again") as raised:
        asyncio.run(sent(client, how))
    assert raised.value.__cause__ is error
    assert raised.value.retriable


def test_a_reply_topic_that_can_not_be_made_is_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def administer() -> None:
        raise NodeNotReadyError("node 1")

    client = Client("orders", broker="127.0.0.1:1")
    monkeypatch.setattr(client, "_caller", type("Caller", (), {"reply_topic": "r"})())
    monkeypatch.setattr(client, "_administer", administer)
    with pytest.raises(SendFailed):
        asyncio.run(sent(client, "ask"))


def test_many(monkeypatch: pytest.MonkeyPatch) -> None:
    renewed = []

    class Producer:
        current = "dying"

        async def renew(self, producer: Any) -> None:
            renewed.append(producer)

    class Bulk:
        def __init__(self, producer: Any) -> None: ...

        async def flush(self) -> None:
            raise KafkaTimeoutError

    client = Client("orders", broker="127.0.0.1:1")
    monkeypatch.setattr(client, "_producer", Producer())
    monkeypatch.setattr("rookery.streams.client.Bulk", Bulk)
    with pytest.raises(SendFailed):
        asyncio.run(client.tell_many([]))
    assert renewed == ["dying"]


def test_what_a_broker_refuses_is_not_sent_again_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client("orders", broker="127.0.0.1:1")
    monkeypatch.setattr(client, "_caller", Dying(MessageSizeTooLargeError()))
    with pytest.raises(MessageSizeTooLargeError):
        asyncio.run(sent(client, "tell"))
