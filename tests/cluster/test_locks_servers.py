"""Locks on other kinds of Redis: behind Sentinels, in a Cluster, with a clock that jumps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rookery import Lock, LockLost, RateLimit, Semaphore
from tests.cluster.redis_kit import Clock, RedisServer, SentinelKit, locks_of, needs_a_clock, servers

pytestmark = pytest.mark.slow

HOUR = 3600


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    yield from servers(tmp_path)


@pytest.mark.asyncio
async def test_a_failover_costs_the_holder_its_lock_or_not_and_waiters_only_time(
    start_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    """The replica knows the lock or not; in both cases waiters get it from the new primary, and the holder is told."""
    kit = SentinelKit(start_redis, tmp_path)
    async with locks_of(kit.url) as (client, service, _):
        before = kit.primary

        async def hold() -> str:
            try:
                async with Lock("a", ttl=2, redis=client):
                    await asyncio.sleep(30)
            except LockLost:
                return "lost"
            return "held"

        holder = asyncio.create_task(hold())
        await asyncio.sleep(0.5)
        await asyncio.to_thread(kit.fail_over)
        assert kit.primary is not before
        assert await asyncio.wait_for(holder, 60) == "lost", "no renewal for as long as a failover takes"
        async with Lock("a", ttl=2, wait=60, redis=client) as fence:
            assert fence == 2
        assert service.statistics()["up"] is True


@pytest.mark.asyncio
async def test_everything_works_in_a_cluster(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis("--cluster-enabled", "yes")
    with server.admin() as admin:
        for begin in range(0, 16_384, 4_096):
            admin.execute_command("CLUSTER", "ADDSLOTS", *range(begin, begin + 4_096))
        deadline = time.monotonic() + 30
        while "cluster_state:ok" not in admin.execute_command("CLUSTER", "INFO").decode():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
    async with locks_of(f"redis+cluster://127.0.0.1:{server.port}") as (client, _, tokens):
        inside = 0

        async def body(name: str) -> None:
            nonlocal inside
            async with Lock(name, redis=client):
                inside += 1
                assert inside <= 5
                await asyncio.sleep(0.005)
                inside -= 1

        await asyncio.gather(*(body(f"lock-{number % 5}") for number in range(20)))
        assert len(tokens.given) == 20
        async with Semaphore("s", 2, redis=client), Semaphore("s", 2, redis=client):
            pass
        assert await RateLimit("r", rate=100, redis=client).take() < 5


@pytest.mark.asyncio
@needs_a_clock
async def test_after_a_jump_back_a_dead_holders_lock_ends_after_its_own_ttl(
    start_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    clock = Clock(tmp_path)
    server = start_redis(**clock.options)
    clock.set(HOUR)
    async with locks_of(server.url) as (client, _, _):
        now = (await client.time())[0]
        await client.zadd("rookery:{/lock/a}:held", {"dead.1:1500": now * 1000 + 1500})
        clock.set(0)
        began = time.monotonic()
        async with Lock("a", redis=client, wait=30):
            assert 0.5 < time.monotonic() - began < 15
        assert now - (await client.time())[0] > HOUR / 2, "the clock did not jump"


@pytest.mark.asyncio
@needs_a_clock
async def test_a_jump_ahead_ends_a_lock_and_its_holder_is_told(
    start_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    clock = Clock(tmp_path)
    server = start_redis(**clock.options)
    async with locks_of(server.url) as (client, _, _):
        began = time.monotonic()
        with pytest.raises(LockLost, match="Redis has it no more"):  # noqa: PT012
            async with Lock("a", redis=client, ttl=3):
                clock.set(HOUR)
                await asyncio.sleep(20)
        assert time.monotonic() - began < 10


@pytest.mark.asyncio
@needs_a_clock
async def test_a_rate_goes_on_after_a_jump_back(start_redis: Callable[..., RedisServer], tmp_path: Path) -> None:
    clock = Clock(tmp_path)
    server = start_redis(**clock.options)
    clock.set(HOUR)
    async with locks_of(server.url) as (client, _, _):
        limit = RateLimit("model", rate=2, redis=client)
        await limit.take()
        clock.set(0)
        assert await limit.take(wait=10) < 5
