"""Turns that wait in a step or ask give their slot back, and the bound holds when they all come back."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest

from rookery.agents import Agent, AgentManager, handler
from rookery.streams.core.mailbox import Item, Mailbox
from rookery.streams.core.runqueue import RunQueue
from rookery.streams.engine.pool import Pool
from rookery.testing import Kit
from tests.cases import quick
from tests.unit.engine.harness import virtual


class Busy(Agent):
    inside: ClassVar[int] = 0
    most: ClassVar[int] = 0
    waiting: ClassVar[int] = 0

    @handler("go")
    async def go(self, msg: dict[str, Any]) -> None:
        await self._work()
        await self.step("wait", self._wait, msg["seconds"])
        await self._work()

    async def _work(self) -> None:
        Busy.inside += 1
        Busy.most = max(Busy.most, Busy.inside)
        await asyncio.sleep(0.01)
        Busy.inside -= 1

    async def _wait(self, seconds: float) -> None:
        Busy.waiting += 1
        await asyncio.sleep(seconds)
        Busy.waiting -= 1


@pytest.mark.parametrize("concurrency", quick([3, 1, 50]))
def test_slots_are_free_while_steps_wait_and_bound_the_rest(concurrency: int) -> None:
    @virtual
    async def scenario() -> None:
        Busy.inside = Busy.most = Busy.waiting = 0
        async with Kit(Busy, concurrency_max=concurrency) as kit:
            manager = AgentManager()
            tells = [manager.get_agent(f"Busy/{n}").tell({"type": "go", "seconds": 60.0}) for n in range(200)]
            everything = asyncio.gather(*tells)
            await asyncio.sleep(50)
            assert Busy.waiting == 200
            pool = kit.statistics()[0]["pool"]
            assert pool["waiting"] == 200
            await everything
            assert Busy.most <= concurrency
            pool = kit.statistics()[0]["pool"]
            assert (pool["waiting"], pool["runners"] - pool["idle"]) == (0, 0)
            assert not kit.dead_letters()

    scenario()


class Torn(Agent):
    """One branch of a gather fails while another is on its way."""

    done: ClassVar[list[str]] = []

    @handler("tear")
    async def tear(self, msg: dict[str, Any]) -> None:
        await asyncio.gather(self.step("slow", self._slow), self.step("bad", self._bad))

    async def _slow(self) -> None:
        await asyncio.sleep(100)
        Torn.done.append("slow")

    async def _bad(self) -> None:
        await asyncio.sleep(1)
        raise ConnectionError("no")


@virtual
async def test_a_turn_that_fails_takes_its_other_steps_with_it() -> None:
    Torn.done.clear()
    async with Kit(Torn) as kit:
        await AgentManager().get_agent("Torn/a").tell({"type": "tear"})
        await asyncio.sleep(200)
        assert Torn.done == []
        assert kit.statistics()[0]["pool"]["waiting"] == 0
        (letter,) = kit.dead_letters()
        assert letter.reason == "step-failed"


@virtual
async def test_a_turn_that_is_cancelled_on_its_way_back_leaves_the_slot_to_the_next() -> None:
    """Its partition is lost in the very moment in which another runner comes to rest."""
    queue, ended, failures = RunQueue(), list[str](), list[asyncio.Task[None]]()
    events = {name: asyncio.Event() for name in ("lent", "busy", "next")}

    async def run_turn(mailbox: Mailbox, lane: int, now: float, begun: Any = None) -> float:
        mailbox.lanes[lane].popleft()
        if mailbox.address != "busy":
            pool.give_back()
        await events[mailbox.address].wait()
        if mailbox.address != "busy":
            await pool.take_back()
        ended.append(mailbox.address)
        return now

    pool = Pool(queue, run_turn, lambda drained: None, failures.append, lambda: 0.0, 1)
    mailboxes = {name: Mailbox(name, 0) for name in events}
    for mailbox in mailboxes.values():
        mailbox.lanes[0].append(Item.parked(0))
    for name in ("lent", "next", "busy"):
        queue.push(mailboxes[name], 0)
        pool.wake()
        await asyncio.sleep(0.1)
    for name in ("lent", "next"):
        events[name].set()
        await asyncio.sleep(0.1)
    assert ended == []
    events["busy"].set()
    mailboxes["lent"].runner.cancel()
    await asyncio.sleep(0.1)
    assert ended == ["busy", "next"]
    assert (pool.waiting_count, pool.running_count) == (0, 0)
    assert all(task.cancelled() for task in failures)
    await pool.close(1.0)
