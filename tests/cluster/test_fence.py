"""Tokens from a real fence topic: they only grow, in programs and in agents, whatever becomes of Redis."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
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
from tests.cluster.redis_kit import RedisServer, eventually, servers

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

ROOT = Path(__file__).parents[2]


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


@pytest.fixture
def locking_worker(
    broker: str, locking_id: str, tmp_path: Path, start_redis: Callable[..., RedisServer]
) -> Iterator[RedisServer]:
    """A worker of locking_app; gives its Redis."""
    server = start_redis()
    environment = {
        **os.environ,
        "ROOKERY_BROKER": broker,
        "ROOKERY_APP_ID": locking_id,
        "ROOKERY_REDIS_URL": server.url,
    }
    command = [sys.executable, "-m", "faust", "-A", "tests.cluster.locking_app", "worker", "-l", "info"]
    with (tmp_path / "worker.log").open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out)
    yield server
    process.send_signal(signal.SIGTERM)
    try:
        assert process.wait(timeout=40) == 0, (tmp_path / "worker.log").read_text()[-3000:]
    finally:
        process.kill()
        process.wait()


@pytest.mark.asyncio
async def test_agents_lock_guard_and_go_on_without_redis(
    broker: str, locking_id: str, locking_worker: RedisServer
) -> None:
    async with Client(locking_id, broker=broker, redis_url=locking_worker.url) as client:
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

        locking_worker.stop()
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
        locking_worker.start()
        assert await waiting > fence

        async def arrived() -> bool:
            return bool(await vault.ask({"type": "peek"}) == 25)

        await eventually(arrived)
