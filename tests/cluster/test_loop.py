"""uvloop under aiokafka, on a real broker."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
import uvloop
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

from rookery.streams.kafka.loop import choose_loop  # noqa: F401 - it makes aiokafka and uvloop agree

pytestmark = pytest.mark.kafka


def test_a_connection_that_broke_a_moment_ago_is_an_error_that_aiokafka_knows(broker: str) -> None:
    """Any other would end the task that keeps its metadata fresh: a worker stood still after a broker was killed."""

    async def send() -> None:
        conn = await connect(broker)
        assert (await conn.send(MetadataRequest(None))).brokers
        conn._writer.transport.abort()
        await asyncio.sleep(0)  # it is closed now, and who reads from it has not heard of that yet
        with pytest.raises(KafkaConnectionError, match="the handler is closed"):
            await conn.send(MetadataRequest(None))
        assert not conn.connected()

    run(send())


def test_so_is_it_in_the_middle_of_a_login(broker: str) -> None:
    async def send() -> None:
        conn = await connect(broker)
        conn._writer.transport.abort()
        await asyncio.sleep(0)
        with pytest.raises(KafkaConnectionError, match="the handler is closed"):
            await conn._send_sasl_token(b"token")

    run(send())


def test_an_error_of_a_request_is_none_of_the_connection(broker: str) -> None:
    class Unknown(MetadataRequest):  # type: ignore[misc]  # untyped
        def prepare(self, *_: object) -> Any:
            raise NotImplementedError("no such version")

    async def send() -> None:
        conn = await connect(broker)
        with pytest.raises(NotImplementedError):
            await conn.send(Unknown(None))
        assert (await conn.send(MetadataRequest(None))).brokers
        conn.close()

    run(send())


async def connect(broker: str) -> Any:
    """One of aiokafka's connections."""
    host, _, port = broker.rpartition(":")
    return await create_conn(host, int(port))


def run(task: Coroutine[Any, Any, None]) -> None:
    """On uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(task)
