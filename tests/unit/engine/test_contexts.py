"""Context variables end with their turn, whoever runs the next one."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any, ClassVar

import pytest

from rookery.agents import Agent, AgentManager, handler
from rookery.agents.steps import is_in_step
from rookery.streams.core.mailbox import Item, Mailbox
from rookery.streams.core.runqueue import RunQueue
from rookery.streams.engine.pool import Pool
from rookery.testing import Kit
from tests.unit.engine.harness import virtual

request: ContextVar[Any] = ContextVar("request", default=None)


class Incomparable:
    def __eq__(self, other: object) -> bool:
        raise ValueError("neither true nor false")

    __hash__ = None  # type: ignore[assignment]


class Traced(Agent):
    seen: ClassVar[list[Any]] = []

    @handler("set")
    async def set(self, msg: dict[str, Any]) -> None:
        Traced.seen.append(request.get())
        request.set(Incomparable() if msg["value"] == "incomparable" else msg["value"])
        await asyncio.sleep(msg["seconds"])

    @handler("reset")
    async def reset(self, msg: dict[str, Any]) -> None:
        Traced.seen.append(request.get())
        token = request.set("mine")
        await self.step("nothing", self._nothing)
        request.reset(token)

    async def _nothing(self) -> None:
        assert is_in_step()


@pytest.mark.parametrize("seconds", [0.0, 1.0])
@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("before", [None, "of the process"])
def test_a_turn_does_not_see_the_variables_of_another(seconds: float, concurrency: int, before: str | None) -> None:
    @virtual
    async def scenario() -> None:
        Traced.seen.clear()
        if before is not None:
            request.set(before)
        async with Kit(Traced, concurrency_max=concurrency) as kit:
            manager = AgentManager()
            for n in range(20):
                value = "incomparable" if n % 3 else n
                await manager.get_agent(f"Traced/{n % 7}").tell({"type": "set", "value": value, "seconds": seconds})
            await kit.settle()
            assert Traced.seen == [before] * 20
            pool = kit.statistics()[0]["pool"]
            assert pool["runners"] == pool["idle"] <= 8

    scenario()


@virtual
async def test_a_handler_that_tidies_up_keeps_its_runner() -> None:
    Traced.seen.clear()
    async with Kit(Traced) as kit:
        agent = AgentManager().get_agent("Traced/a")
        await agent.tell({"type": "reset"})
        await kit.settle()
        before = _runners()
        for _ in range(5):
            await agent.tell({"type": "reset"})
        await kit.settle()
        assert _runners() == before
        assert Traced.seen == [None] * 6


def _runners() -> set[str]:
    return {str(id(task)) for task in asyncio.all_tasks() if task.get_name() == "rookery-turns"}


@virtual
async def test_a_runner_has_nothing_of_whoever_queued_the_work() -> None:
    """The function of a step, or a handler with variables of its own, may be what queues it."""
    queue, seen = RunQueue(), list[Any]()

    async def run_turn(mailbox: Mailbox, lane: int, now: float, begun: Any = None) -> float:
        mailbox.lanes[lane].popleft()
        seen.append(request.get())
        return now

    pool = Pool(queue, run_turn, lambda drained: None, lambda task: None, lambda: 0.0, 1)
    mailbox = Mailbox("Traced/a", 0)
    mailbox.lanes[0].append(Item.parked(0))
    queue.push(mailbox, 0)
    request.set("theirs")
    pool.wake()
    await asyncio.sleep(0.1)
    assert seen == [None]
    await pool.close(1.0)
