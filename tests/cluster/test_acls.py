"""What `topics acls` prints is enough, and nothing in it is too much: a worker with these rights and no other."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from rookery import Client
from rookery.ops.settings import Settings
from rookery.schemas.deadletter import encode_dead_letter
from rookery.schemas.errors import NotAuthorized, RookeryError
from rookery.streams.core.routing import Topics
from rookery.streams.kafka import acls, security, topics
from rookery.streams.kafka.acls import Acl, needed
from rookery.streams.kafka.log import KafkaLog
from tests.cluster.authorizer import Authorizer, application, printed
from tests.cluster.secure_kafka import LIMITED, SecureKafka
from tests.cluster.small_app import Add, Total
from tests.cluster.test_agents_on_kafka import ROOT, Worker
from tests.cluster.test_security import environ
from tests.programs import run

pytestmark = [pytest.mark.long, pytest.mark.kafka, pytest.mark.slow]


@pytest.fixture(scope="module")
def app_id(secure: SecureKafka) -> Iterator[str]:
    with application(secure) as name:
        yield name


def limited(secure: SecureKafka) -> dict[str, Any]:
    return secure.login(LIMITED)


def test_a_worker_and_a_client_work_with_what_is_printed_for_them(
    secure: SecureKafka, authorizer: Authorizer, app_id: str, tmp_path: Path
) -> None:
    authorizer.give(json.loads(printed(app_id, "worker", "--json")))
    worker = Worker(secure.sasl, tmp_path / "log", **{**environ(limited(secure)), "ROOKERY_APP_ID": app_id})
    try:

        async def talk() -> None:
            async with Client(app_id, **limited(secure)) as client:
                counter = client.get_agent("Counter/1")
                assert await counter.ask(Add(2), reply_type=Total, timeout=60) == Total(2)
                assert await counter.ask(Add(3), reply_type=Total, timeout=60) == Total(5)
                assert (await client.backlog()).keys()

        # The client's rights come later, so that the worker was ready without them. They are the same user's.
        authorizer.give(json.loads(printed(app_id, "client", "--json")))
        asyncio.run(talk())
    finally:
        code = worker.stop()
    text = (tmp_path / "log").read_text()
    assert code == 0, text
    assert "uthorization" not in text


def test_a_client_alone_may_send_and_ask_but_not_read_inboxes(
    secure: SecureKafka, authorizer: Authorizer, app_id: str
) -> None:
    authorizer.give(json.loads(printed(app_id, "client", "--json")))

    async def talk() -> None:
        async with Client(app_id, **limited(secure)) as client:
            await client.get_agent("Counter/1").tell(Add(2))
            with pytest.raises(RookeryError, match="no reply"):
                await client.get_agent("Counter/1").ask(Add(2), timeout=3)
        with pytest.raises(NotAuthorized):
            await acls.check(app_id, security.client_kwargs(Settings.load(app_id=app_id, **limited(secure))), "worker")

    asyncio.run(talk())


def test_an_operator_makes_the_topics_and_removes_them(secure: SecureKafka, authorizer: Authorizer) -> None:
    app_id = f"acl-{uuid.uuid4().hex[:8]}"
    authorizer.give(json.loads(printed(app_id, "operator", "--json")))
    settings = Settings.load(app_id=app_id, partitions=1, **limited(secure))

    async def work() -> None:
        kafka = security.client_kwargs(settings)
        assert set(await topics.ensure(settings, kafka)) == {spec.name for spec in topics.specs(settings)}
        assert len(await topics.remove(app_id, kafka)) == len(topics.specs(settings))

    asyncio.run(work())


def test_dead_letters_are_listed_replayed_and_purged_with_the_rights_for_that(
    secure: SecureKafka, authorizer: Authorizer, app_id: str
) -> None:
    @dataclass
    class Lost:
        offset: int = 0
        key: bytes = b"Counter/1"
        value: bytes = b'{"n": 1}'
        headers: tuple[tuple[str, bytes], ...] = (("content-type", b"application/json"), ("type", b"Add"))
        timestamp: int = 1_700_000_000_000

    names = Topics(app_id)
    letter = encode_dead_letter(
        Lost(), topic=names.inboxes[1], partition=0, envelope=None, reason="handler-failed", error="no", app_id=app_id
    )
    producer = Producer({"bootstrap.servers": secure.plain})
    producer.produce(names.deadletter, letter, partition=0)
    assert producer.flush(30) == 0
    authorizer.give(json.loads(printed(app_id, "letters", "--json")))
    variables = {**os.environ, **environ(limited(secure)), "ROOKERY_APP_ID": app_id}

    def dlq(*arguments: str) -> str:
        done = run("faust", "-A", "tests.cluster.small_app", "dlq", *arguments, cwd=ROOT, env=variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "handler-failed" in dlq("list", "--json")
    assert "sent 1" in (said := dlq("replay", "--all")), said
    assert "handler-failed" not in dlq("list", "--pending", "--json")
    dlq("purge", "--all", "--yes")
    assert "handler-failed" not in dlq("list", "--json")


def worker_rights() -> list[Acl]:
    """One for each operation of each resource, the inboxes once."""
    # Reply topics can't be asked for: there is none before a client asks.
    others = {"APP.inbox.low", "APP.inbox.high", "APP.replies."}
    every = [acl for acl in needed("APP", "worker") if acl.name not in others]
    return [acl._replace(operations=(operation,)) for acl in every for operation in acl.operations]


@pytest.mark.parametrize("right", worker_rights(), ids=lambda right: f"{right.operations[0]} {right.name}")
def test_without_one_of_its_rights_a_worker_says_which(
    secure: SecureKafka, authorizer: Authorizer, app_id: str, right: Acl
) -> None:
    """The same calls in the same order as a worker makes them when it starts."""
    rights = [acl.form(f"User:{LIMITED}") for acl in needed(app_id, "worker")]
    authorizer.give(rights)
    name = right.name.replace("APP", app_id)
    authorizer.take({**right.form(f"User:{LIMITED}"), "name": name})
    said = f"{right.operations[0]} on {right.resource} {name}"
    if right.resource == "transactional-id":
        said = f"the transactional id {name}fence-test .WRITE."

    async def start() -> None:
        kafka = security.client_kwargs(Settings.load(app_id=app_id, partitions=4, **limited(secure)))
        await acls.check(app_id, kafka, "worker")
        log = KafkaLog(Topics(app_id), kafka)
        await log.start()
        try:
            await log.check_fence()
        finally:
            await log.stop()

    with pytest.raises(NotAuthorized, match=said):
        asyncio.run(start())


def test_a_worker_without_a_right_ends_and_names_it(secure: SecureKafka, authorizer: Authorizer, app_id: str) -> None:
    rights = [acl.form(f"User:{LIMITED}") for acl in needed(app_id, "worker") if acl.resource != "group"]
    authorizer.give(rights)
    variables = {**os.environ, **environ(limited(secure)), "ROOKERY_APP_ID": app_id}
    done = run("faust", "-A", "tests.cluster.small_app", "worker", "-l", "info", cwd=ROOT, env=variables)
    assert done.returncode != 0
    assert f"the broker refuses access to READ on group {app_id}: `faust -A <app> topics acls`" in (
        done.stdout + done.stderr
    )


def test_the_commands_are_those_of_kafka() -> None:
    lines = printed("app", "worker").splitlines()
    assert len(lines) == len(needed("app", "worker"))
    assert (
        "kafka-acls.sh --bootstrap-server 127.0.0.1:1 --add --allow-principal 'User:limited' --operation WRITE "
        "--transactional-id 'app-journal-' --resource-pattern-type prefixed"
    ) in lines
