"""The rights that docs/security.md names are what locks need on a Redis with ACLs, and each of them is needed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import redis.exceptions

from rookery import Lock, RateLimit
from rookery.schemas.errors import RookeryError
from tests.cluster.redis_kit import RedisServer, locks_of, servers

pytestmark = [pytest.mark.slow, pytest.mark.asyncio]

DOCS = Path(__file__).parents[2] / "docs" / "security.md"
OPTIONAL = {"+publish", "+subscribe", "+unsubscribe", "+ping"}  # without them waiters poll, and nobody asks for health


def rules() -> list[str]:
    found = re.search(r"ACL SETUSER agent (.*?)\n\n", DOCS.read_text(), re.DOTALL)
    assert found
    return found[1].split()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    own = servers(tmp_path_factory.mktemp("redis"))
    yield next(own)()
    own.close()


def allow(server: RedisServer, given: list[str]) -> str:
    """Make the user, and return the URL to come as that."""
    with redis.Redis.from_url(server.url) as admin:
        admin.flushall()
        admin.script_flush()
        admin.execute_command("ACL", "SETUSER", "agent", "reset", *given)
    return server.url.replace("//", "//agent:password@")


async def use(url: str) -> None:
    """Two tasks take turns with a lock that has to be renewed, and then a rate is asked for."""
    async with locks_of(url) as (client, _, _):
        entered = []

        async def body(name: str) -> None:
            async with Lock("table", ttl=1.0, redis=client):
                entered.append(name)
                await asyncio.sleep(1.5)

        await asyncio.gather(body("first"), body("second"))
        assert len(entered) == 2
        await RateLimit("calls", rate=10, redis=client).take()


async def test_what_the_docs_name_is_enough(server: RedisServer) -> None:
    url = allow(server, rules())
    await use(url)
    with redis.Redis.from_url(server.url) as admin:
        refused = {entry[b"object"] for entry in admin.execute_command("ACL", "LOG")}
        assert refused <= {b"client"}, "CLIENT SETINFO, in which redis-py tells its name, is nobody's loss"


@pytest.mark.parametrize("right", ["+evalsha", "+script|load", "+zadd", "+time", "~rookery:*"])
async def test_without_one_of_them_locks_say_that_redis_refuses(server: RedisServer, right: str) -> None:
    url = allow(server, [rule for rule in rules() if rule != right])
    with pytest.raises((RookeryError, redis.exceptions.NoPermissionError)):
        await use(url)


async def test_every_command_that_the_scripts_call_is_named() -> None:
    text = (Path(__file__).parents[2] / "ops" / "locks" / "scripts.py").read_text()
    called = {f"+{name.lower()}" for name in re.findall(r"redis\.p?call\('([A-Z]+)'", text)}
    assert called <= set(rules())
    named = {rule for rule in rules() if rule.startswith("+")}
    assert named - called - OPTIONAL == {"+evalsha", "+script|load"}
