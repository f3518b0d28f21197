"""An edge on a Kafka with an authorizer: what `topics acls --role edge` prints is enough, and nothing is too much."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import nats
import pytest
import pytest_asyncio
from confluent_kafka.admin import AdminClient

from rookery import Client
from rookery.ops.settings import Settings
from rookery.schemas.errors import NotAuthorized
from rookery.streams.kafka.acls import Acl, needed
from rookery.streams.nats.edge import Edge
from tests.cluster.authorizer import Authorizer, application, printed
from tests.cluster.crew import crew
from tests.cluster.nats_kit import NATS_SERVER, EdgeProcess, NatsServer
from tests.cluster.redis_kit import free_port
from tests.cluster.secure_kafka import LIMITED, SecureKafka
from tests.cluster.test_security import environ

pytestmark = [
    pytest.mark.long,
    pytest.mark.kafka,
    pytest.mark.slow,
    pytest.mark.skipif(NATS_SERVER is None, reason="there is no nats-server: apt-get install nats-server"),
]


@pytest.fixture(scope="module")
def app_id(secure: SecureKafka) -> Iterator[str]:
    with application(secure, nats_out=True) as name:
        yield name


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    started = NatsServer(tmp_path / "server")
    yield started
    started.stop()


@pytest_asyncio.fixture
async def outside(server: NatsServer) -> AsyncIterator[Any]:
    """A plain NATS client."""
    client = await nats.connect(server.url)
    yield client
    await client.close()


def edge_process(secure: SecureKafka, app_id: str, url: str, folder: Path) -> EdgeProcess:
    return EdgeProcess(app_id, secure.sasl, url, folder, environ(secure.login(LIMITED)))


def reply_topics(secure: SecureKafka, app_id: str) -> list[str]:
    found = AdminClient({"bootstrap.servers": secure.plain}).list_topics(timeout=30).topics
    return [name for name in found if name.startswith(f"{app_id}.replies.")]


@pytest.mark.asyncio
async def test_an_edge_carries_both_ways_with_what_is_printed_for_it(
    secure: SecureKafka, authorizer: Authorizer, app_id: str, server: NatsServer, outside: Any, tmp_path: Path
) -> None:
    """Asks, tells and their answers in both directions, and a dead letter; agents and clients may do everything."""
    forms = await asyncio.to_thread(printed, app_id, "edge", "--json", ROOKERY_NATS_OUT="true")
    authorizer.give(json.loads(forms))

    async def answer(msg: Any) -> None:
        await msg.respond(b'{"answer": 42}')

    async def ask(body: dict[str, Any]) -> Any:
        return json.loads((await outside.request("agents.Desk/a", json.dumps(body).encode(), timeout=60)).data)

    with crew(app_id, secure.plain, tmp_path) as start:
        await start("worker", "nats_app").until("Worker ready")
        edge = edge_process(secure, app_id, server.url, tmp_path / "edge")
        try:
            await edge.ready()
            await outside.subscribe("oracle", cb=answer)
            news = await outside.subscribe("news")
            assert await ask({"type": "add", "by": 2}) == {"n": 2}
            assert await ask({"type": "shout", "subject": "news", "count": 1}) == {"n": 3}
            assert json.loads((await news.next_msg(timeout=30)).data)["number"] == 0
            assert await ask({"type": "consult", "subject": "oracle", "question": "what"}) == {"answer": 42}
            async with Client(app_id, broker=secure.plain, nats_out=True) as client:
                assert await client.get_agent("nats/oracle").ask({"question": "what"}) == {"answer": 42}
                await client.get_agent("nats/a..b").tell({"no": "subject"})
                deadline = time.monotonic() + 30
                while [found.content.reason async for found in client.dead_letters()] != ["invalid-subject"]:
                    assert time.monotonic() < deadline, "no dead letter"
                    await asyncio.sleep(0.1)
            assert len(reply_topics(secure, app_id)) == 1
            await edge.leave()
        finally:
            edge.kill()
    assert reply_topics(secure, app_id) == []
    assert "uthoriz" not in edge.log.read_text()


def edge_rights() -> list[Acl]:
    """One for each operation of each resource, the inboxes once."""
    every = [acl for acl in needed("APP", "edge", nats_out=True) if acl.name not in {"APP.inbox.low", "APP.inbox.high"}]
    return [acl._replace(operations=(operation,)) for acl in every for operation in acl.operations]


@pytest.mark.parametrize("right", edge_rights(), ids=lambda right: f"{right.operations[0]} {right.name}")
def test_without_one_of_its_rights_an_edge_says_which(
    secure: SecureKafka, authorizer: Authorizer, app_id: str, right: Acl
) -> None:
    authorizer.give([acl.form(f"User:{LIMITED}") for acl in needed(app_id, "edge", nats_out=True)])
    name = right.name.replace("APP", app_id)
    authorizer.take({**right.form(f"User:{LIMITED}"), "name": name})

    async def start() -> None:
        settings = Settings.load(
            app_id=app_id, nats_url="nats://127.0.0.1:1", nats_out=True, web_port=free_port(), **secure.login(LIMITED)
        )
        await Edge(settings).run(asyncio.Event())

    with pytest.raises(NotAuthorized, match=f"access to {right.operations[0]} on {right.resource} {name}"):
        asyncio.run(start())


def test_an_edge_without_a_right_ends_and_names_it(
    secure: SecureKafka, authorizer: Authorizer, app_id: str, tmp_path: Path
) -> None:
    acls = [acl for acl in needed(app_id, "edge", nats_out=True) if acl.resource != "group"]
    authorizer.give([acl.form(f"User:{LIMITED}") for acl in acls])
    edge = edge_process(secure, app_id, "nats://127.0.0.1:1", tmp_path / "edge")
    try:
        assert edge.process.wait(120) == 1
    finally:
        edge.kill()
    text = edge.log.read_text()
    assert f"Error: the broker refuses access to READ on group {app_id}.nats: `faust" in text
    assert "Traceback" not in text
