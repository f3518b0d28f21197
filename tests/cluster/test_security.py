"""A Kafka with TLS, passwords and certificates: who gets in, who is told what, and that no secret is ever printed."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from rookery import Client, ConfigurationError
from rookery.ops.settings import Settings
from rookery.schemas.errors import BrokerUnreachable, NotAuthenticated
from rookery.streams.kafka import security, topics
from tests.certificates import Authority
from tests.cluster.secure_kafka import PASSWORD, SecureKafka
from tests.cluster.small_app import Add, Total
from tests.cluster.test_agents_on_kafka import ROOT, Worker
from tests.programs import run

pytestmark = [pytest.mark.long, pytest.mark.kafka, pytest.mark.slow]


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("ROOKERY_") or name in {"BUS_ADDRESS", "KAFKA_BOOTSTRAP_SERVERS"}:
            monkeypatch.delenv(name)


def environ(settings: dict[str, Any]) -> dict[str, str]:
    return {f"ROOKERY_{name.upper()}": str(value) for name, value in settings.items()}


def entries(secure: SecureKafka, names: str) -> dict[str, Any]:
    """Settings by the name of a way in."""
    if names == "mutual TLS":
        return secure.certificate()
    if names == "clear":
        return {
            **{k: v for k, v in secure.login(mechanism="plain").items() if "tls" not in k and "ca" not in k},
            "broker": secure.clear,
            "allow_plaintext_sasl": True,
        }
    return secure.login(mechanism=names)


async def reach(settings: dict[str, Any]) -> None:
    loaded = Settings.load(app_id="nobody", **settings)
    try:
        async with topics.admin(security.client_kwargs(loaded)) as admin:
            await admin.list_topics()
    finally:
        await asyncio.sleep(0.1)  # a transport whose handshake failed closes a moment later


@pytest.mark.parametrize("way", ["plain", "scram-sha-256", "scram-sha-512", "mutual TLS", "clear"])
def test_every_way_in_is_used_by_admin_producer_and_consumer(secure: SecureKafka, way: str) -> None:
    """Without a worker: topics are made, records go in, offsets come back."""
    settings = entries(secure, way)

    async def use() -> None:
        loaded = Settings.load(app_id=f"way-{way.replace(' ', '-')}", partitions=1, **settings)
        await topics.ensure(loaded, security.client_kwargs(loaded))
        async with Client(loaded.app_id, settings=loaded) as client:
            await client.get_agent("Counter/1").tell(Add(1))
            assert sum((await client.backlog()).values()) == 1
        await topics.remove(loaded.app_id, security.client_kwargs(loaded))

    asyncio.run(use())


@pytest.mark.parametrize("way", ["scram-sha-512", "clear", "mutual TLS"])
def test_a_worker_and_its_clients_work_and_print_no_secret(secure: SecureKafka, way: str, tmp_path: Path) -> None:
    settings = entries(secure, way)
    log = tmp_path / "worker.log"
    variables = environ(settings)
    if "broker_password" in settings:  # as a container platform hands it out
        (tmp_path / "password").write_text(PASSWORD + "\n")
        variables["ROOKERY_BROKER_PASSWORD_FILE"] = str(tmp_path / "password")
        del variables["ROOKERY_BROKER_PASSWORD"]
    worker = Worker(settings["broker"], log, level="debug", **variables)
    try:

        async def talk() -> None:
            async with Client(worker.app_id, **settings) as client:
                counter = client.get_agent("Counter/secure")
                assert await counter.ask(Add(2), reply_type=Total, timeout=60) == Total(2)
                assert (await counter.state()).count == 2

        asyncio.run(talk())
        variables["ROOKERY_APP_ID"] = worker.app_id
        commands = (["topics", "check"], ["agents"], ["ask", "Counter/secure", '{"n": 1}', "--type", "Add"])
        for arguments in commands if way == "scram-sha-512" else ():
            done = run("faust", "-A", "tests.cluster.small_app", *arguments, cwd=ROOT, env={**os.environ, **variables})
            assert done.returncode == 0, done.stderr
            assert PASSWORD not in done.stdout + done.stderr
    finally:
        code = worker.stop()
    text = log.read_text()
    assert code == 0, text
    assert "Request to" in text  # aiokafka's debug lines, which would show a password that is sent in plain form
    assert PASSWORD not in text


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"broker_password": "wrong-wrong"}, NotAuthenticated, "does not take the password of user rookery; check RO"),
        ({"broker_user": "stranger"}, NotAuthenticated, "does not take the password of user stranger"),
        ({"broker_sasl": "plain", "broker_password": "wrong-wrong"}, NotAuthenticated, "does not take the password"),
        ({"broker_ca_file": "OTHER"}, NotAuthenticated, "certificate is not trusted .*set ROOKERY_BROKER_CA_FILE"),
        ({"broker_ca_file": None}, NotAuthenticated, "certificate is not trusted"),
        (
            {"broker": "CLEAR"},
            NotAuthenticated,
            "closed the connection; .*check whether this port speaks TLS.*now TLS is on",
        ),
        ({"broker": "MTLS"}, NotAuthenticated, "ROOKERY_BROKER_CERTIFICATE_FILE"),
        ({"broker": "127.0.0.1:1"}, BrokerUnreachable, "no Kafka answers at 127.0.0.1:1: "),
    ],
)
def test_who_is_not_let_in_is_told_what_to_set(
    secure: SecureKafka,
    change: dict[str, Any],
    error: type[Exception],
    said: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    places = {"OTHER": Authority(tmp_path, "Other CA").ca_file, "CLEAR": secure.clear, "MTLS": secure.mtls}
    settings = {**secure.login(), **{k: places.get(str(v), v) for k, v in change.items()}}
    with caplog.at_level(logging.DEBUG), pytest.raises(error, match=said) as raised:
        asyncio.run(reach(settings))
    printed = caplog.text + str(raised.value) + repr(raised.value)
    for secret in (PASSWORD, "wrong-wrong"):
        assert secret not in printed


def test_a_certificate_for_another_host_is_refused(secure: SecureKafka) -> None:
    """localhost is the same broker, but not a name in its certificate."""
    with pytest.raises(NotAuthenticated, match=r"not trusted .*localhost.*ROOKERY_BROKER to a name it has"):
        asyncio.run(reach({**secure.login(), "broker": secure.sasl.replace("127.0.0.1", "localhost")}))


def test_plain_text_to_a_port_with_tls_is_explained(secure: SecureKafka) -> None:
    with pytest.raises(NotAuthenticated, match=r"whether this port speaks TLS .ROOKERY_BROKER_TLS.*now TLS is off"):
        asyncio.run(reach({"broker": secure.sasl}))
    with pytest.raises(NotAuthenticated, match=r"asks for a user .*SASL off"):
        asyncio.run(reach({"broker": secure.clear}))


def test_a_worker_with_a_wrong_password_ends_and_says_why(secure: SecureKafka) -> None:
    variables = {**os.environ, **environ(secure.login(password="wrong-wrong")), "ROOKERY_APP_ID": "wrong"}
    done = run("faust", "-A", "tests.cluster.small_app", "worker", "-l", "debug", cwd=ROOT, env=variables)
    printed = done.stdout + done.stderr
    assert done.returncode != 0
    assert "it does not take the password of user rookery; check ROOKERY_BROKER_USER and ..._PASSWORD" in printed
    assert "wrong-wrong" not in printed


def test_a_password_over_plain_text_is_refused_before_anything_is_sent(secure: SecureKafka) -> None:
    clear = entries(secure, "clear")
    del clear["allow_plaintext_sasl"]
    with pytest.raises(ConfigurationError, match=r"set broker_tls, or allow_plaintext_sasl"):
        Client("app", **clear)
