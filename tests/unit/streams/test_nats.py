"""The NATS edge without servers: subjects and headers, what is refused before anything is sent, settings."""

import asyncio
import datetime as dt
import os
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest
from aiokafka.errors import KafkaTimeoutError, MessageSizeTooLargeError
from hypothesis import given
from hypothesis import strategies as st

from rookery import Agent, App, Client, Priority
from rookery.ops.settings import Settings
from rookery.schemas.address import check
from rookery.schemas.envelope import Envelope
from rookery.schemas.errors import (
    ConfigurationError,
    InvalidAddress,
    InvalidAgent,
    MessageTooLarge,
    SendFailed,
    Undecodable,
)
from rookery.streams.core.routing import Router, Topics
from rookery.streams.kafka import acls
from rookery.streams.nats import connect
from rookery.streams.nats.edge import Edge
from rookery.streams.nats.errors import InvalidSubject
from rookery.streams.nats.inbound import Inbound
from rookery.streams.nats.letters import Letters
from rookery.streams.nats.messages import Incoming, address_of, headers_of, read, subject_of, target_subject

KEYS = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=40)


def is_address(text: str) -> bool:
    try:
        check(text)
    except InvalidAddress:
        return False
    return True


@given(KEYS)
def test_each_address_has_a_subject_that_leads_back_to_it(key: str) -> None:
    address = f"Some.Type/{key}"
    if is_address(address):
        subject = subject_of("a.b", address)
        assert address_of("a.b", subject) == address
        assert subject.isascii()
        assert subject.startswith("a.b.")
        rest = subject.removeprefix("a.b.")
        assert not {" ", ".", "*", ">", "\t"}.intersection(rest), "a token of its own, and no wildcard"


@pytest.mark.parametrize(
    ("subject", "address"),
    [
        ("agents.Carrier/UA", "Carrier/UA"),
        ("agents.Carrier/a.b", "Carrier/a.b"),
        ("agents.pkg.Type/x", "pkg.Type/x"),
        ("agents.Carrier/a%2Fb%25%20", "Carrier/a/b% "),
        ("agents.0123456789ab4def8123456789abcdef", "0123456789ab4def8123456789abcdef"),
    ],
)
def test_a_subject_is_the_address_itself_where_it_can_be(subject: str, address: str) -> None:
    assert address_of("agents", subject) == address


@pytest.mark.parametrize("subject", ["agents.Carrier", "agents.Carrier/", "agents.A/%", "agents.A/%zz", "agents.A/%C3",
                                     "agents.A/%00", "agents.1/x", "agents.nats/x"])  # fmt: skip
def test_what_is_no_address_is_refused(subject: str) -> None:
    with pytest.raises(InvalidAddress):
        address_of("agents", subject)


def incoming(data: bytes = b"{}", /, **headers: str) -> Incoming:
    return read("agents", "agents.A/x", {name.replace("_", "-"): value for name, value in headers.items()}, data)


def test_a_bare_message_is_json_of_normal_priority() -> None:
    found = incoming(b'{"type": "PING"}')
    assert (found.target, found.type, found.content_type) == ("A/x", "PING", "application/json")
    assert (found.priority, found.id, found.sender, found.deadline_ns) == (Priority.NORMAL, "", None, 0)
    assert (found.timeout, found.stored_only, found.headers) == (None, False, {})


def test_headers_are_read_whatever_their_case_and_the_rest_goes_on() -> None:
    found = incoming(
        Priority="low", ID="a", Deadline_MS="5", Timeout_Ms="1500", Reply="stored", X_Mine="1", Nats_Foo="2"
    )
    assert (found.priority, found.id, found.deadline_ns, found.timeout) == (Priority.LOW, "a", 5_000_000, 1.5)
    assert found.stored_only
    assert found.headers == {"x-mine": "1"}
    assert incoming(Nats_Msg_Id="b").id == "b"
    assert incoming(Nats_Msg_Id="b", id="a").id == "a"


@pytest.mark.parametrize(
    ("data", "headers", "kind", "content_type"),
    [
        (b"\xff", {}, "bytes", "application/octet-stream"),
        (b"plain", {"type": "Note"}, "Note", "application/octet-stream"),
        (b"[1]", {}, "", "application/json"),
        (b"\x08\x01", {"type": "P", "content_type": "application/x-protobuf"}, "P", "application/x-protobuf"),
        (b"{", {"content_type": "application/octet-stream"}, "bytes", "application/octet-stream"),
    ],
)
def test_a_body_is_what_it_is(data: bytes, headers: dict[str, str], kind: str, content_type: str) -> None:
    found = incoming(data, **headers)
    assert (found.type, found.content_type) == (kind, content_type)


@pytest.mark.parametrize(
    "headers",
    [
        {"priority": "urgent"},
        {"reply": "maybe"},
        {"deadline_ms": "-1"},
        {"deadline_ms": "99999999999999999999"},
        {"deadline_ms": "9999999999999"},
        {"timeout_ms": "3600001"},
        {"timeout_ms": "1e3"},
        {"sender": "\udcff"},
    ],
)
def test_headers_that_say_nonsense_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(Undecodable):
        incoming(**headers)


def test_what_is_called_json_has_to_be_json() -> None:
    with pytest.raises(Undecodable):
        incoming(b"{", content_type="application/json; charset=utf-8")


@pytest.mark.parametrize("subject", ["a", "a.b-c_D/1", "ünï.x"])
def test_agents_may_publish_to_plain_subjects(subject: str) -> None:
    assert target_subject(Envelope(target=f"nats/{subject}")) == subject


@pytest.mark.parametrize("subject", ["a b", "a\u2003b", ".a", "a.", "a..b", "*", "a.>", "$JS.API.x", "_INBOX.x"])
def test_agents_may_not_publish_elsewhere(subject: str) -> None:
    with pytest.raises(InvalidSubject):
        target_subject(Envelope(target=f"nats/{subject}"))


def test_a_subscriber_sees_what_an_envelope_says() -> None:
    envelope = Envelope(
        id="i", type="T", content_type="application/json", sender="A/x", priority="HIGH", deadline=5_000_000,
        correlation_id="c", headers={"traceparent": "00", "not: a name": "x", "ü": "y"},
    )  # fmt: skip
    assert headers_of(envelope) == {
        "Nats-Msg-Id": "i", "type": "T", "content-type": "application/json", "sender": "A/x", "priority": "high",
        "deadline-ms": "5", "correlation-id": "c", "traceparent": "00",
    }  # fmt: skip


def test_only_with_the_setting_there_is_a_way_out() -> None:
    (topic, _), key = Router(Topics("app"), 4, nats_out=True).inbox("nats/a.b", Priority.HIGH)
    assert (topic, key) == ("app.nats", b"nats/a.b")
    (topic, _), _ = Router(Topics("app"), 4).inbox("nats/a.b", Priority.HIGH)
    assert topic == "app.inbox.high"
    (topic, _), _ = Router(Topics("app"), 4, nats_out=True).inbox("natsy/a", Priority.LOW)
    assert topic == "app.inbox.low"


def test_no_agent_class_may_stand_for_nats() -> None:
    with pytest.raises(InvalidAgent, match="stands for subjects of NATS"):

        class Taken(Agent):
            agent_type = "nats"


def test_a_worker_refuses_nats_and_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROOKERY_BROKER", raising=False)
    monkeypatch.setenv("BUS_ADDRESS", "nats://n:4222")
    with pytest.raises(ConfigurationError, match=r"kafka://host:port.*ROOKERY_NATS_URL"):
        App("app")
    with pytest.raises(ConfigurationError, match="kafka://"):
        Edge(Settings.load(app_id="app", nats_url="nats://n:4222"))


@pytest.mark.slow  # a process of its own
def test_an_edge_tells_all_bad_settings_at_once() -> None:
    variables = {
        **os.environ,
        "ROOKERY_APP_ID": "app",
        "ROOKERY_NATS_URL": "http://secret@n",
        "ROOKERY_NATS_PREFIX": "a.>",
        "ROOKERY_NATS_IN_FLIGHT": "0",
    }
    done = subprocess.run(
        [sys.executable, "-m", "rookery.streams.nats"], env=variables, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.count("\n  - nats_") == 3
    assert "secret" not in done.stderr
    with pytest.raises(ConfigurationError, match="nats_url"):
        Edge(Settings.load(app_id="app"))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"nats_url": "nats://n", "nats_ca_file": "/no/file"}, "TLS needs a nats_url with tls://"),
        ({"nats_url": "tls://n", "nats_ca_file": "/no/file"}, "nats_key_password"),
        ({"broker": "nats://user:secret@n"}, "belong into nats_url"),
    ],
)
def test_settings_of_nats_fit_each_other(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as raised:
        Settings.load(app_id="app", **given)
    assert "secret" not in str(raised.value)


async def _enter(client: Client) -> None:
    async with client:
        raise AssertionError("not reached")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "nats", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'rookery\[nats\]'"):
        asyncio.run(_enter(Client("app", broker="nats://127.0.0.1:1")))


def test_an_edge_needs_less_than_a_worker() -> None:
    def rights(role: str, nats_out: bool) -> dict[tuple[str, str], tuple[str, ...]]:
        return {(acl.resource, acl.name): acl.operations for acl in acls.needed("app", role, nats_out)}

    edge, way_out = rights("edge", True), ("topic", "app.nats")
    assert edge[way_out] == ("READ", "DESCRIBE_CONFIGS")
    assert edge["group", "app.nats"] == ("READ",)
    assert edge["topic", "app.inbox.low"] == edge["topic", "app.deadletter"] == ("WRITE",)
    assert ("topic", "app-journal-changelog") not in edge
    assert not {way_out, ("group", "app.nats")}.intersection(rights("edge", False))
    for role in ("worker", "client", "operator"):
        assert "WRITE" in rights(role, True)[way_out]
        assert way_out not in rights(role, False)


def test_a_bound_set_of_tasks_waits_for_room() -> None:
    async def scenario() -> None:
        tasks = connect.Tasks(1)
        ended = []

        async def work(number: int) -> None:
            await asyncio.sleep(0.01)
            ended.append(number)

        for number in range(3):
            await tasks.wait_for_room()
            assert tasks.room == 1
            tasks.start(work(number))
        assert ended == [0, 1]
        await tasks.finish(5)
        tasks.start(asyncio.sleep(60))
        start = time.monotonic()
        await tasks.finish(0.01)
        assert (len(tasks), ended) == (0, [0, 1, 2])
        assert time.monotonic() - start < 30

    asyncio.run(scenario())


class FakeMessage:
    """A message of a stream, which remembers what was said of it."""

    subject, headers, data = "stream.agents.A/x", None, b"{}"

    def __init__(self) -> None:
        self.said: list[str] = []
        self.metadata = SimpleNamespace(
            stream="S", sequence=SimpleNamespace(stream=7), timestamp=dt.datetime.now(dt.UTC)
        )

    async def ack(self) -> None:
        self.said.append("ack")

    async def nak(self, delay: float) -> None:
        self.said.append(f"again in {delay:g} s")

    async def term(self) -> None:
        self.said.append("term")


@pytest.mark.parametrize(
    ("error", "says", "letters"),
    [
        (None, "ack", 0),
        (SendFailed("A/x", "the broker is away"), "again in 1 s", 0),
        (KafkaTimeoutError(), "again in 1 s", 0),
        (MessageTooLarge(2, 1), "term", 1),
        (MessageSizeTooLargeError(), "term", 1),
    ],
)
def test_a_stream_message_is_put_aside_only_if_it_would_be_refused_again(
    error: Exception | None, says: str, letters: int
) -> None:
    async def scenario() -> None:
        tell = AsyncMock(side_effect=error)
        client: Any = SimpleNamespace(tell=tell, produce=AsyncMock(), topics=Topics("app"))
        put_aside = Letters(client, 4)
        link: Any = None
        inbound = Inbound(client, link, put_aside, Settings.load(app_id="app"))
        message = FakeMessage()
        await inbound._take(message)
        assert (message.said, put_aside.count) == ([says], letters)
        assert tell.await_args is not None
        assert tell.await_args.kwargs["message_id"] == "nats/S/7"

    asyncio.run(scenario())
