"""Agents with locks in the test kit: no Redis, virtual time, the same leases."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rookery import (
    Agent,
    AgentManager,
    Leader,
    Lock,
    LockLost,
    LockTimeout,
    NotBound,
    Overloaded,
    RateLimit,
    Semaphore,
    handler,
)
from rookery.testing import Kit, run


class Teller(Agent):
    @handler("deposit")
    async def deposit(self, msg: dict[str, Any]) -> int:
        async with Lock("vault") as fence:
            await self.ask("Vault/only", {"type": "add", "fence": fence})
        return fence


class Vault(Agent):
    gold: int = 0

    @handler("add")
    async def add(self, msg: dict[str, Any]) -> None:
        self.guard("vault", msg["fence"])
        self.gold += 1


@pytest.mark.rookery
async def test_agents_lock_in_the_kit() -> None:
    manager = AgentManager()
    tellers = [manager.get_agent(await manager.spawn_agent(Teller)) for _ in range(5)]
    manager._connection.register(Vault)
    fences = await asyncio.gather(*(teller.ask({"type": "deposit"}) for teller in tellers))
    assert sorted(fences) == [1, 2, 3, 4, 5]
    assert (await manager.get_agent("Vault/only").state()).gold == 5


@pytest.mark.rookery
async def test_waiting_is_in_order_and_bounded() -> None:
    order: list[int] = []

    async def body(number: int) -> None:
        async with Lock("a"):
            order.append(number)
            await asyncio.sleep(100)

    tasks = []
    for number in range(4):
        tasks.append(asyncio.create_task(body(number)))
        await asyncio.sleep(0.1)
    with pytest.raises(LockTimeout):
        async with Lock("a", wait=10):
            pass
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert order == [0], "the others waited for a minute, the first held it for 100 s"
    assert [type(result) for result in results] == [type(None), LockTimeout, LockTimeout, LockTimeout]


def test_what_redis_forgets_is_lost() -> None:
    async def main() -> None:
        async with Kit() as kit:
            loop = asyncio.get_running_loop()
            began = loop.time()
            with pytest.raises(LockLost):  # noqa: PT012
                async with Lock("a", ttl=9) as first:
                    assert first == 1
                    kit.locks.flush()
                    await asyncio.sleep(1_000)
            assert loop.time() - began == pytest.approx(3, abs=0.1), "noticed at the first renewal"
            async with Lock("a") as second:
                assert second == 2
            assert kit.locks.statistics()["lost"] == 1
        with pytest.raises(NotBound):
            async with Lock("a"):
                pass

    run(main())


@pytest.mark.rookery
async def test_permits_rates_and_leaders_work_in_the_kit() -> None:
    inside = most = 0
    loop = asyncio.get_running_loop()

    async def body() -> None:
        nonlocal inside, most
        async with Semaphore("s", 3):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(1)
            inside -= 1

    began = loop.time()
    await asyncio.gather(*(body() for _ in range(9)))
    assert most == 3
    assert loop.time() - began == pytest.approx(3, abs=0.1)

    limit, began = RateLimit("r", rate=2, burst=2), loop.time()
    await asyncio.gather(*(limit.take() for _ in range(6)))
    assert loop.time() - began == pytest.approx(2, abs=0.01)
    with pytest.raises(Overloaded):
        await limit.take(2, wait=0.1)

    async def job(fence: int) -> int:
        return fence

    assert await Leader("l").run(job) == 1
