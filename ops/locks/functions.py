"""acquire_lock, renew_lock, release_lock: one key, one owner, no waiting. `Lock` is what agents should use.

They take any redis-py client and are awaited with an asyncio one. None of them gives a fencing token: what the lock
protects must not depend on it alone (docs/guarantees.md).
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable
from inspect import isawaitable
from typing import Any, Final, overload

import redis.asyncio
import redis.asyncio.cluster
import redis.cluster
from redis.commands.core import AsyncScript, Script

from rookery.ops.locks import scripts

ASYNC_CLIENTS: Final = (redis.asyncio.Redis, redis.asyncio.cluster.RedisCluster)
REMEMBERED_MS: Final = 60_000
"""Longer than redis-py goes on sending a command again: 10 times within 10 s and the socket's timeouts."""

AsyncRedis = redis.asyncio.Redis | redis.asyncio.cluster.RedisCluster
SyncRedis = redis.Redis | redis.cluster.RedisCluster


@overload
def acquire_lock(redis: AsyncRedis, key: str, owner_id: str, ttl: float = 30) -> Awaitable[bool]: ...
@overload
def acquire_lock(redis: SyncRedis, key: str, owner_id: str, ttl: float = 30) -> bool: ...
def acquire_lock(redis: AsyncRedis | SyncRedis, key: str, owner_id: str, ttl: float = 30) -> bool | Awaitable[bool]:
    """Take the lock `key` for `ttl` seconds, or begin them anew if `owner_id` has it; False if another one has it.

    Raises redis-py's errors; then the outcome is unknown: call it again, or release it.
    """
    return _run(redis, scripts.ACQUIRE_KEY, [key], [owner_id, _ms(ttl)])


@overload
def renew_lock(redis: AsyncRedis, key: str, owner_id: str, ttl: float = 30) -> Awaitable[bool]: ...
@overload
def renew_lock(redis: SyncRedis, key: str, owner_id: str, ttl: float = 30) -> bool: ...
def renew_lock(redis: AsyncRedis | SyncRedis, key: str, owner_id: str, ttl: float = 30) -> bool | Awaitable[bool]:
    """Begin the `ttl` seconds anew; False if the lock is not `owner_id`'s any more: stop what it protects."""
    return _run(redis, scripts.RENEW_KEY, [key], [owner_id, _ms(ttl)])


@overload
def release_lock(redis: AsyncRedis, key: str, owner_id: str) -> Awaitable[bool]: ...
@overload
def release_lock(redis: SyncRedis, key: str, owner_id: str) -> bool: ...
def release_lock(redis: AsyncRedis | SyncRedis, key: str, owner_id: str) -> bool | Awaitable[bool]:
    """Give the lock back; False if it was not `owner_id`'s any more, and then it is left alone."""
    # In one slot of a Redis Cluster with the key: a key with a hash tag keeps it, any other becomes the tag.
    base = key if "{" in key else f"{{{key}}}"
    return _run(redis, scripts.RELEASE_KEY, [key, f"{base}:done:{uuid.uuid4().hex}"], [owner_id, REMEMBERED_MS])


def _run(client: Any, text: str, keys: list[str], arguments: list[str | int]) -> bool | Awaitable[bool]:
    script: Any = AsyncScript(client, text) if isinstance(client, ASYNC_CLIENTS) else Script(client, text)
    result = script(keys, arguments)
    return _truth(result) if isawaitable(result) else bool(result)


async def _truth(result: Awaitable[Any]) -> bool:
    return bool(await result)


def _ms(ttl: float) -> int:
    if ttl < 0.001:
        raise ValueError(f"ttl is {ttl} s, at least 0.001 is needed")
    return round(ttl * 1000)
