"""Why no broker took us: one that is down is not taken for one that wants a password."""

from __future__ import annotations

import asyncio
import socket

import pytest

from rookery.schemas.errors import BrokerUnreachable, NotAuthenticated, RookeryError
from rookery.streams.kafka import security


async def explained(port: int) -> RookeryError:
    return await security.explain({"bootstrap_servers": f"127.0.0.1:{port}"})


def test_a_server_that_is_down() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found = asyncio.run(explained(free.getsockname()[1]))  # bound, and nobody listens
    assert isinstance(found, BrokerUnreachable)
    assert "ROOKERY_BROKER=host:port" in str(found)


def test_a_host_that_does_not_answer_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(host: str, port: int) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(security, "EXPLAIN_TIMEOUT", 0.05)
    monkeypatch.setattr(asyncio, "open_connection", never)
    found = asyncio.run(explained(9))
    assert isinstance(found, BrokerUnreachable)
    assert "no connection comes about" in str(found)


@pytest.mark.parametrize(("closes", "why"), [(True, "it closed the connection"), (False, "did not answer")])
def test_a_server_that_takes_the_connection_and_no_more(
    closes: bool, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = asyncio.Event()

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not closes:
            await done.wait()
        writer.close()

    async def main() -> RookeryError:
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        async with server:
            found = await explained(server.sockets[0].getsockname()[1])
            done.set()
            await asyncio.sleep(0.05)
            return found

    monkeypatch.setattr(security, "EXPLAIN_TIMEOUT", 0.5)
    found = asyncio.run(main())
    assert isinstance(found, NotAuthenticated)
    assert why in str(found)
    assert "if it is not just starting or stopping, check" in str(found)
