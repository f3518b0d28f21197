"""Settings of passwords, TLS and the web token: what is refused, where secrets may come from, that none is shown."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from rookery.ops.locks.connect import connect_by, credentials
from rookery.ops.settings import SECRETS, Settings
from rookery.schemas.errors import ConfigurationError
from tests.certificates import Authority

HUSH = "hush-hush-hush-hush"
LOGIN = {"broker_sasl": "plain", "broker_user": "u", "broker_password": HUSH}


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("ROOKERY_") or name in {"BUS_ADDRESS", "KAFKA_BOOTSTRAP_SERVERS", "REDIS_URL"}:
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def load(**settings: Any) -> Settings:
    return Settings.load(app_id="app", **settings)


def problems(**settings: Any) -> str:
    with pytest.raises(ConfigurationError) as raised:
        load(**settings)
    assert HUSH not in str(raised.value)
    return "\n".join(raised.value.problems)


def test_a_password_without_tls_is_refused_unless_allowed_by_name() -> None:
    assert "everybody on the way could read along: set broker_tls, or allow_plaintext_sasl" in problems(**LOGIN)
    assert load(**LOGIN, broker_tls=True).broker_user == "u"
    assert load(**LOGIN, allow_plaintext_sasl=True).broker_user == "u"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"broker_user": "u"}, "broker_user .*: is not used without broker_sasl"),
        ({"broker_password": HUSH}, "broker_password .*: is not used without broker_sasl"),
        ({"broker_sasl": "plain", "broker_tls": True, "broker_user": "u"}, "broker_password .*: must be set"),
        ({"broker_sasl": "gssapi"}, "broker_sasl .*: Input should be 'plain', 'scram-sha-256' or 'scram-sha-512'"),
        ({"broker": f"kafka://u:{HUSH}@host:9092"}, "user and password belong into broker_user and broker_password"),
        ({"broker_ca_file": "ca"}, "broker_ca_file would not be used: TLS needs broker_tls"),
        ({"broker_tls": True, "broker_ca_file": "/no/such.pem"}, "there is no file /no/such.pem"),
        ({"broker_tls": True, "broker_ca_file": __file__}, "no CA certificate in PEM form can be read from"),
        ({"broker_tls": True, "broker_key_file": __file__}, "a key is no use without broker_certificate_file"),
        ({"redis_url": "redis://r", "redis_ca_file": "ca"}, "TLS needs a redis_url with rediss://"),
        ({"redis_url": "rediss://r?ssl_cert_reqs=none"}, "its checks are always on"),
        ({"redis_url": f"rediss://:{HUSH}@r", "redis_password": HUSH}, "set them in one place"),
        ({"redis_url": "redis://r", "redis_password": HUSH}, "everybody on the way could read the password of Redis"),
        ({"redis_url": f"redis+sentinel://u:{HUSH}@127.0.0.1:1,r:2/main"}, "allow_plaintext_redis .*: everybody"),
        ({"web_token": "short"}, "must have 16 printable characters or more"),
        ({"web_token": "sixteen or more \n"}, "must have 16 printable characters or more"),
        ({"web_host": "0.0.0.0"}, "web_host 0.0.0.0 can be reached from outside: set web_token"),  # noqa: S104
        ({"web_host": "pods.example"}, "can be reached from outside"),
    ],
)
def test_what_can_not_work_is_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as raised:
        load(**settings)
    assert len(raised.value.problems) == 1
    assert HUSH not in str(raised.value)


def test_everything_wrong_is_said_at_once() -> None:
    text = problems(broker_sasl="plain", broker_tls="perhaps", redis_password_file="/none", web_host="::", partitions=0)
    assert [line.partition(" ")[0] for line in text.splitlines()] == [
        "redis_password", "allow_open_web", "broker_tls", "broker_user", "broker_password", "partitions",
    ]  # fmt: skip


def test_a_certificate_and_a_locked_key_are_read_and_checked(authority: Authority) -> None:
    files = authority.issue("client", password=HUSH)
    tls = {"broker_tls": True, "broker_ca_file": authority.ca_file, "broker_certificate_file": files.certificate}
    assert load(**tls, broker_key_file=files.key, broker_key_password=HUSH).broker_tls
    for wrong in ({}, {"broker_key_password": "wrong"}):
        assert "can't be used as certificate" in problems(**tls, broker_key_file=files.key, **wrong)
    other = authority.issue("other")
    assert "belong together" in problems(**tls, broker_key_file=other.key)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_token(host: str) -> None:
    assert load(web_host=host).web_token is None


@pytest.mark.parametrize(
    "settings",
    [
        {"redis_url": f"redis://:{HUSH}@127.0.0.1:1/0"},
        {"redis_url": "redis+cluster://localhost:1,[::1]:2", "redis_password": HUSH},
        {"redis_url": f"rediss://:{HUSH}@r"},
        {"redis_url": f"unix://:{HUSH}@/run/redis.sock"},
        {"redis_url": "redis://user@r"},
        {"redis_url": "redis://r", "redis_password": HUSH, "allow_plaintext_redis": True},
    ],
)
def test_the_password_of_redis_may_go_in_the_clear_within_a_machine_or_by_name(settings: dict[str, Any]) -> None:
    assert load(**settings).redis_url == settings["redis_url"]


def test_an_open_web_is_allowed_with_a_token_or_by_name() -> None:
    assert load(web_host="0.0.0.0", web_token=HUSH).web_host == "0.0.0.0"  # noqa: S104
    assert load(web_host="::", allow_open_web=True).web_host == "::"


@pytest.mark.parametrize("name", SECRETS)
def test_every_secret_may_come_from_a_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def secret(settings: Settings) -> str:
        value = getattr(settings, name)
        return value if isinstance(value, str) else str(value.get_secret_value())

    wanted = {"redis_url": f"rediss://:{HUSH}@r/0", "nats_url": f"tls://{HUSH}@n"}.get(name, HUSH)
    more: dict[str, Any] = {"broker_password": {**LOGIN, "broker_tls": True}}.get(name, {})
    more.pop(name, None)
    if "key_password" in name:
        more = _with_certificate(tmp_path, name)
    file = tmp_path / "secret"
    file.write_text(f"{wanted}\r\n")
    assert secret(load(**{f"{name}_file": str(file)}, **more)) == wanted
    monkeypatch.setenv(f"ROOKERY_{name.upper()}_FILE", str(file))
    found = load(**more)
    assert secret(found) == wanted
    assert HUSH not in repr(found) + str(found) + str(found.model_dump_json(exclude={"redis_url", "nats_url"}))
    monkeypatch.setenv(f"ROOKERY_{name.upper()}", HUSH)
    assert f"{name}: is set, and ROOKERY_{name.upper()}_FILE is, too" in problems(**more)
    monkeypatch.delenv(f"ROOKERY_{name.upper()}")
    file.unlink()
    assert f"{name} (ROOKERY_{name.upper()}_FILE): the file can't be read: No such file" in problems(**more)


def _with_certificate(folder: Path, name: str) -> dict[str, Any]:
    server = name.partition("_")[0]
    files = Authority(folder).issue("client", password=HUSH)
    switches: dict[str, dict[str, Any]] = {
        "broker": {"broker_tls": True},
        "redis": {"redis_url": "rediss://r"},
        "nats": {"nats_url": "tls://n"},
    }
    return {**switches[server], f"{server}_certificate_file": files.certificate, f"{server}_key_file": files.key}


def test_what_redis_is_connected_with(authority: Authority) -> None:
    files = authority.issue("client")
    settings = load(
        redis_url="rediss://r:1/2",
        redis_user="agent",
        redis_password=HUSH,
        redis_ca_file=authority.ca_file,
        redis_certificate_file=files.certificate,
        redis_key_file=files.key,
    )
    client = connect_by(settings)
    assert isinstance(client, Redis)
    given = client.connection_pool.connection_kwargs
    assert (given["host"], given["port"], given["db"], given["username"]) == ("r", 1, 2, "agent")
    assert (given["password"], given["ssl_cert_reqs"], given["ssl_check_hostname"]) == (HUSH, "required", True)
    assert (given["ssl_ca_certs"], given["ssl_certfile"]) == (authority.ca_file, files.certificate)
    assert credentials(load(redis_url="redis://r")) == {}
    cluster = load(redis_url="rediss+cluster://r:1", redis_ca_file=authority.ca_file)
    assert credentials(cluster)["ssl_check_hostname"] is True
