"""Redis URLs, and what may be said about a bad one."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import SSLConnection
from redis.asyncio.sentinel import SentinelConnectionPool, SentinelManagedSSLConnection

from rookery.ops.locks.connect import connect, connect_by
from rookery.ops.settings import Settings
from rookery.schemas.errors import ConfigurationError


def test_one_server_with_bounds_and_without_silent_retries() -> None:
    client = connect("redis://user:p%40ss@host:7000/3", 0.7)
    assert isinstance(client, Redis)
    found = client.connection_pool.connection_kwargs
    assert (found["host"], found["port"], found["db"], found["password"]) == ("host", 7000, 3, "p@ss")
    assert (found["socket_timeout"], found["socket_connect_timeout"]) == (0.7, 0.7)
    assert found["retry"].get_retries() == 0
    assert connect("rediss://host", 1).connection_pool.connection_class is SSLConnection  # type: ignore[union-attr]


def test_sentinels() -> None:
    client = connect("rediss+sentinel://user:p%40ss@a:1,b/main/2", 0.7)
    assert isinstance(client, Redis)
    pool = client.connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    assert (pool.service_name, pool.connection_class) == ("main", SentinelManagedSSLConnection)
    assert (pool.connection_kwargs["db"], pool.connection_kwargs["password"]) == (2, "p@ss")
    assert pool.connection_kwargs["retry"].get_retries() == 0
    asked = [each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels]
    assert [(each["host"], each["port"]) for each in asked] == [("a", 1), ("b", 26379)]
    assert all(each["socket_timeout"] == 0.7 and each["password"] is None for each in asked)


def test_a_cluster() -> None:
    client = connect("redis+cluster://:p%40ss@a:1,b", 0.7)
    assert isinstance(client, RedisCluster)
    assert sorted(client.nodes_manager.startup_nodes) == ["a:1", "b:6379"]
    assert (client.connection_kwargs["password"], client.connection_kwargs["socket_timeout"]) == ("p@ss", 0.7)


@pytest.mark.parametrize(
    "url", ["redis+sentinel://:hush@a:1", "redis+sentinel://:hush@a:x/main", "redis+cluster://:hush@a:x", "redis://a:x"]
)
def test_a_bad_url_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError, match="redis_url: ") as raised:
        connect(url, 1)
    assert "hush" not in str(raised.value)


def test_the_settings_say_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ROOKERY_REDIS_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigurationError, match="ROOKERY_REDIS_URL or REDIS_URL"):
        connect_by(Settings.load(app_id="a"))
    settings = Settings.load(app_id="a", redis_url="redis+sentinel://a:1,b:2/main", redis_timeout=0.3)
    client = connect_by(settings)
    assert isinstance(client, Redis)
    assert client.connection_pool.connection_kwargs["socket_timeout"] == 0.3
