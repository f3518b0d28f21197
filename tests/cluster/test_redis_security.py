"""A real Redis with TLS, client certificates and an ACL user: what our settings connect with."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import redis.exceptions

from rookery.ops.locks.connect import connect_by
from rookery.ops.servers.local_redis import find_redis
from rookery.ops.settings import Settings
from tests.certificates import Authority, Issued

pytestmark = pytest.mark.slow

PASSWORD = "correct-horse-battery-staple"


class SecureRedis(NamedTuple):
    url: str
    authority: Authority
    client: Issued

    def settings(self, **change: Any) -> Settings:
        given = {
            "redis_url": self.url,
            "redis_user": "agent",
            "redis_password": PASSWORD,
            "redis_ca_file": self.authority.ca_file,
            "redis_certificate_file": self.client.certificate,
            "redis_key_file": self.client.key,
        }
        return Settings.load(app_id="app", **{**given, **change})


@pytest.fixture(scope="module")
def secure_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureRedis]:
    binary, folder = find_redis(), tmp_path_factory.mktemp("redis")
    authority = Authority(folder)
    server = authority.issue("redis", hosts=("127.0.0.1",))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    (folder / "redis.conf").write_text(
        f"bind 127.0.0.1\nport 0\ntls-port {port}\nsave ''\n"
        f"tls-cert-file {server.certificate}\ntls-key-file {server.key}\ntls-ca-cert-file {authority.ca_file}\n"
        f"user default off\nuser agent on >{PASSWORD} resetkeys ~app:* -@all +ping +get +set +client\n"
    )
    started = subprocess.Popen([binary, folder / "redis.conf"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        if _answers(started, port):
            yield SecureRedis(f"rediss://127.0.0.1:{port}/0", authority, authority.issue("client"))
        else:
            output = started.stdout.read().decode() if started.stdout else ""
            assert "tls" in output, output
            pytest.skip(f"{binary} is built without TLS; Debian's redis-server has it")
    finally:
        started.kill()
        started.wait()
        if started.stdout:
            started.stdout.close()


def _answers(server: subprocess.Popen[bytes], port: int) -> bool:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            try:
                server.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            return False
        return True
    pytest.fail("redis-server neither listens nor ends")


async def use(settings: Settings) -> None:
    async with connect_by(settings) as client:
        await client.set("app:key", "value")
        assert await client.get("app:key") == b"value"


@pytest.mark.asyncio
async def test_an_acl_user_with_a_certificate_gets_in_and_only_to_its_keys(secure_redis: SecureRedis) -> None:
    await use(secure_redis.settings())
    in_the_url = secure_redis.url.replace("//", f"//agent:{PASSWORD}@")
    await use(secure_redis.settings(redis_url=in_the_url, redis_user=None, redis_password=None))
    async with connect_by(secure_redis.settings()) as client:
        with pytest.raises(redis.exceptions.NoPermissionError):
            await client.get("other:key")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"redis_password": "wrong-wrong"}, redis.exceptions.AuthenticationError),
        ({"redis_ca_file": None}, redis.exceptions.ConnectionError),
        ({"redis_certificate_file": None, "redis_key_file": None}, redis.exceptions.ConnectionError),
        ({"redis_url": "LOCALHOST"}, redis.exceptions.ConnectionError),
    ],
)
async def test_others_do_not(secure_redis: SecureRedis, change: dict[str, Any], error: type[Exception]) -> None:
    """A wrong password, an unknown CA, no certificate of ours, a host that the server's certificate does not name."""
    if change.get("redis_url") == "LOCALHOST":
        change = {"redis_url": secure_redis.url.replace("127.0.0.1", "localhost")}
    with pytest.raises(error) as raised:
        await use(secure_redis.settings(**change))
    await asyncio.sleep(0.1)  # a transport whose handshake failed closes a moment later
    assert "wrong-wrong" not in str(raised.value)
