"""A NATS that trusts nobody: TLS, and users who show a JWT and a key, as nsc hands them out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import nats
import pytest

from rookery import Client
from rookery.ops.settings import Settings
from rookery.streams.nats import connect
from rookery.streams.nats.errors import NatsUnavailable
from tests.certificates import Authority
from tests.cluster.crew import crew, eventually
from tests.cluster.nats_jwt import Realm
from tests.cluster.nats_kit import NATS_SERVER, EdgeProcess, NatsServer

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.slow,
    pytest.mark.asyncio,
    pytest.mark.skipif(NATS_SERVER is None, reason="there is no nats-server: apt-get install nats-server"),
]


@pytest.fixture(scope="module")
def realm() -> Realm:
    return Realm()


@pytest.fixture(scope="module")
def server(realm: Realm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """Knows users by the JWTs of a realm."""
    started = NatsServer(tmp_path_factory.mktemp("nats") / "server", authorization=realm.authorization)
    yield started
    started.stop()


def address(server: NatsServer) -> str:
    return f"nats://127.0.0.1:{server.port}"


def written(folder: Path, text: str) -> str:
    """The name of a file of credentials that says so."""
    path = folder / "edge.creds"
    path.write_text(text)
    return str(path)


async def test_an_edge_and_a_client_get_in_with_their_credentials(
    broker: str, app_id: str, realm: Realm, server: NatsServer, tmp_path: Path
) -> None:
    credentials = realm.credentials()
    file = written(tmp_path, credentials)
    edge = EdgeProcess(app_id, broker, address(server), tmp_path / "edge", {"ROOKERY_NATS_CREDENTIALS_FILE": file})
    with crew(app_id, broker, tmp_path) as start:
        await start("worker", "nats_app").until("Worker ready")
        outside = await nats.connect(address(server), user_credentials=file)
        try:
            await edge.ready()
            news = await outside.subscribe("news")
            async with Client(app_id, broker=address(server), nats_credentials_file=file) as client:
                desk = client.get_agent("Desk/a")
                assert await desk.ask({"type": "shout", "subject": "news", "count": 1}) == {"n": 1}
            assert json.loads((await news.next_msg(timeout=30)).data)["number"] == 0
            await edge.leave()
        finally:
            edge.kill()
            await outside.close()
    seed = credentials.splitlines()[5]
    assert seed.startswith("SU")
    assert seed not in edge.log.read_text()


def link(server: NatsServer, file: str) -> connect.Link:
    url = address(server)
    return connect.Link(Settings.load(app_id="app", nats_url=url, nats_credentials_file=file), "tests", url)


async def test_a_user_of_somebody_else_is_refused(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reset may hide the refusal: the server closes at once, and what we still sent is not read by anybody."""
    monkeypatch.setattr(connect, "CONNECT_PATIENCE", 3.0)
    with pytest.raises(NatsUnavailable, match="Authorization Violation"):
        await link(server, written(tmp_path, Realm().credentials())).open()


# nats-py leaves the socket of a try that failed to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_renewed_credentials_are_taken_at_the_next_connection(
    realm: Realm, server: NatsServer, tmp_path: Path
) -> None:
    """The server refuses the first user by then; a file that is just being written only takes another try."""
    file = written(tmp_path, realm.credentials(seconds=3))
    connection = link(server, file)
    await connection.open()
    server.stop()
    written(tmp_path, "")
    await asyncio.sleep(3)
    server.start()
    await eventually(lambda: "has no user's JWT" in connection.last_error, "it has looked at the empty file", 20)
    written(tmp_path, realm.credentials())
    await eventually(lambda: connection.is_up, "connected again", 20)
    assert await connection.stream_of("any") is None
    await connection.close()


async def test_a_connection_whose_user_runs_out_ends_and_says_so(
    realm: Realm, server: NatsServer, tmp_path: Path
) -> None:
    connection = link(server, written(tmp_path, realm.credentials(seconds=2)))
    await connection.open()
    async with asyncio.timeout(20):
        await connection.closed
    assert "xpired" in connection.last_error


async def test_tls_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("server")
    server = NatsServer(tmp_path / "tls", f'tls {{ cert_file: "{files.certificate}", key_file: "{files.key}" }}')
    url = server.url.replace("nats:", "tls:")
    try:
        settings = Settings.load(app_id="app", nats_url=url, nats_ca_file=authority.ca_file)
        checked = connect.Link(settings, "tests", url)
        await checked.open()
        assert await checked.stream_of("any") is None
        await checked.close()
        monkeypatch.setattr(connect, "CONNECT_PATIENCE", 0.5)
        with pytest.raises(NatsUnavailable, match="certificate verify failed"):
            await connect.Link(Settings.load(app_id="app", nats_url=url), "tests", url).open()
    finally:
        server.stop()
