"""Tokens from a real fence topic: they only grow, in programs and in agents, whatever becomes of Redis."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from rookery import AgentError, Client, Lock, LockLost, NoFence, Settings
from rookery.ops.locks.lease import Lease, Spec
from rookery.ops.locks.service import find
from rookery.streams.kafka import topics
from rookery.streams.kafka.fence import KafkaFence
from tests.cluster.redis_kit import RedisServer, eventually, locking_worker, servers

pytestmark = [pytest.mark.long, pytest.mark.kafka, pytest.mark.slow]


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    yield from servers(tmp_path)


@pytest_asyncio.fixture
async def locking_id(broker: str) -> AsyncIterator[str]:
    name = f"fence-{uuid.uuid4().hex[:8]}"
    kafka = {"bootstrap_servers": broker}
    await topics.ensure(Settings.load(app_id=name, partitions=2, broker=broker), kafka)
    yield name
    await topics.remove(name, kafka)


@pytest.mark.asyncio
async def test_tokens_of_a_name_grow_over_all_sources(broker: str, locking_id: str) -> None:
    kafka = {"bootstrap_servers": broker}
    sources = [KafkaFence(f"{locking_id}.fence", kafka) for _ in range(3)]
    given: dict[str, list[int]] = {"a": [], "b": []}
    try:
        for _ in range(10):
            for source in sources:
                for name, tokens in given.items():
                    tokens.append(await source(name, "me"))
        together = await asyncio.gather(*(source("a", "me") for source in sources for _ in range(20)))
    finally:
        for source in sources:
            await source.stop()
    assert all(tokens == sorted(set(tokens)) for tokens in given.values())
    assert len(set(together)) == 60
    assert min(together) > max(given["a"])


@pytest.mark.asyncio
async def test_without_its_topic_or_broker_a_token_is_refused_in_time(broker: str) -> None:
    for servers_, topic in ((broker, f"no-{uuid.uuid4().hex[:8]}"), ("127.0.0.1:1", "any")):
        source = KafkaFence(topic, {"bootstrap_servers": servers_}, timeout=1.0)
        began = time.monotonic()
        with pytest.raises(NoFence):
            await source("a", "me")
        assert time.monotonic() - began < 10
        await source.stop()


@pytest.mark.asyncio
async def test_tokens_grow_over_flush_restart_and_crashed_acquires(
    broker: str, locking_id: str, start_redis: Callable[..., RedisServer]
) -> None:
    server = start_redis()
    tokens = []
    async with Client(locking_id, broker=broker, redis_url=server.url):
        for round_ in range(12):
            try:
                async with Lock("a", ttl=1, wait=30) as fence:
                    tokens.append(fence)
                    if round_ % 4 == 1:
                        with server.admin() as admin:
                            admin.flushall()
                    elif round_ % 4 == 2:
                        server.restart()
            except LockLost:
                pass
            if round_ % 4 == 3:  # a holder that got its token and died
                service = find(None, "the test")
                crashed = Lease(service, Spec("a", f"{service.scope}/lock/a", 1.0, 1, service.fence))
                await crashed.take(10)
                assert crashed.token is not None
                tokens.append(crashed.token)
                if crashed._timer:
                    crashed._timer.cancel()
    assert len(tokens) == 15
    assert tokens == sorted(set(tokens))


@pytest.mark.asyncio
async def test_agents_lock_guard_and_go_on_without_redis(
    broker: str, locking_id: str, tmp_path: Path, start_redis: Callable[..., RedisServer]
) -> None:
    server = start_redis()
    with locking_worker(locking_id, broker, server.url, tmp_path / "worker.log"):
        await _deposit_with_and_without_redis(broker, locking_id, server)


async def _deposit_with_and_without_redis(broker: str, locking_id: str, server: RedisServer) -> None:
    async with Client(locking_id, broker=broker, redis_url=server.url) as client:
        vault = client.get_agent("Vault/only")
        await vault.ask({"type": "peek"}, timeout=60)
        deposits = [
            client.get_agent(f"Teller/{number % 4}").ask({"type": "deposit", "gold": 1, "wait": 60}, timeout=120)
            for number in range(24)
        ]
        fences = await asyncio.gather(*deposits)
        assert len(set(fences)) == 24
        assert await vault.ask({"type": "peek"}) == 24
        with pytest.raises(AgentError) as raised:
            await vault.ask({"type": "write", "fence": max(fences) - 1, "gold": 0})
        assert raised.value.error_type == "stale-fence"
        async with Lock("vault") as fence:  # of a program, under the same name
            assert fence > max(fences)
            assert await vault.ask({"type": "read", "fence": fence}) == 24

        server.stop()
        began = time.monotonic()
        waiting = asyncio.create_task(
            client.get_agent("Teller/a").ask({"type": "deposit", "gold": 1, "wait": 60}, timeout=120)
        )
        await asyncio.sleep(1)
        for _ in range(20):
            assert await vault.ask({"type": "peek"}, timeout=10) == 24
        with pytest.raises(AgentError) as raised:
            await client.get_agent("Teller/b").ask({"type": "deposit", "gold": 1, "wait": 0.5}, timeout=60)
        assert "ConnectionError" in str(raised.value)
        assert time.monotonic() - began < 55
        assert not waiting.done()
        server.start()
        assert await waiting > fence

        async def arrived() -> bool:
            return bool(await vault.ask({"type": "peek"}) == 25)

        await eventually(arrived)
