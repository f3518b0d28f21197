"""The agents of the fleet: clerks that carry out orders and keep books on what they heard, sent and did.

The books are in the durable state, so a turn that is lost, doubled or overwritten shows in them, and they are bounded:
an agent hears from few senders. `workload` says what an order is.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

from rookery import Agent, Lock, Policy, Supervision, handler
from rookery.schemas.errors import Overloaded
from rookery.schemas.lock_errors import LockLost, LockTimeout, NoFence, RedisUnavailable, StaleFence
from tests.chaos.wire import Order
from tests.chaos.workload import AGENT, DO, REPORT, chain

# Oddities remembered with their numbers; the count goes on.
ODD_MAX = 20
# An answer may take as long as a fault lasts, and a clock may be wrong by an hour meanwhile; seconds.
PATIENCE = 4 * 3600.0


class OrderedToFail(Exception):
    """The order said so."""


class Flaky(Exception):
    """To be tried again."""


def draw(who: str) -> list[Any]:
    """What a step does: something that comes out differently each time; `who` comes back."""
    return [who, random.random()]


class Clerk(Agent):
    """See the head of this module."""

    agent_type = AGENT
    supervision = Supervision(attempts=10, backoff=0.05, policies={OrderedToFail: Policy.DEAD_LETTER})
    heard: dict[str, list[int]] = {}  # noqa: RUF012 - state; "sender|lane" -> count, last number, chain of ids
    sent: dict[str, int] = {}  # noqa: RUF012 - "target|lane" -> last number; with a "?" behind: questions
    answered: int = 0
    mixed: int = 0  # steps that gave what another call had made
    value: int = 0
    balance: int = 0
    unlocked: int = 0  # locks that it did not get or lost, since Redis was away or forgot them
    tokens: dict[str, int] = {}  # noqa: RUF012 - lock -> the last token that was let in here
    refused: int = 0  # older tokens
    backwards: int = 0  # tokens that the guard let in although they were older
    odd_count: int = 0
    odd: list[list[Any]] = []  # noqa: RUF012 - stream, expected number, its number, id

    @handler(DO)
    async def do(self, order: Order) -> dict[str, Any]:
        """Enter the order in the books and carry it out."""
        if order.n:
            self._enter(f"{self.sender}|{self.message.priority}{'?' * order.asked}", order.n)
        for op, *args in order.ops:
            await getattr(self, f"_{op}")(*args)
        return {"value": self.value}

    @handler(REPORT)
    async def report(self, _: dict[str, Any]) -> dict[str, Any]:
        """The books."""
        return {
            "heard": self.heard,
            "sent": self.sent,
            "value": self.value,
            "balance": self.balance,
            "answered": self.answered,
            "mixed": self.mixed,
            "unlocked": self.unlocked,
            "tokens": self.tokens,
            "refused": self.refused,
            "backwards": self.backwards,
            "odd_count": self.odd_count,
            "odd": self.odd,
        }

    def _enter(self, stream: str, n: int) -> None:
        count, last, digest = self.heard.get(stream, (0, 0, 0))
        if n != last + 1:
            self.odd_count += 1
            self.odd = [*self.odd, [stream, last + 1, n, self.message.id]][:ODD_MAX]
        self.heard[stream] = [count + 1, max(n, last), chain(digest, self.message.id)]

    async def _add(self, k: int) -> None:
        self.value += k

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _pay(self, target: str, lane: int, amount: int) -> None:
        self.balance -= amount
        self._order(target, lane, [["take", amount]])

    async def _take(self, amount: int) -> None:
        self.balance += amount

    async def _send(self, target: str, lane: int, ops: list[list[Any]]) -> None:
        self._order(target, lane, ops)

    async def _ask(self, target: str, lane: int, ops: list[list[Any]]) -> None:
        order = {"type": DO, "n": self._number(f"{target}|{lane}?"), "ops": ops, "asked": True}
        await self.ask(target, order, PATIENCE, priority=lane)  # type: ignore[arg-type]
        self.answered += 1

    async def _step(self) -> None:
        who, _ = await self.step("draw", draw, self.message.id)
        self.mixed += who != self.message.id

    async def _fickle(self) -> None:
        whim = str(random.random())
        who, _ = await self.step("draw", draw, whim)
        await asyncio.sleep(0.3)
        self.mixed += who != whim

    async def _flaky(self, times: int) -> None:
        if self.attempt < times:
            raise Flaky(self.attempt)

    async def _lock(self, target: str, lane: int, name: str) -> None:
        try:
            async with Lock(name, ttl=3, wait=2) as token:
                self._order(target, lane, [["enter_locked", name, token]])
        except (LockLost, LockTimeout, NoFence, Overloaded, RedisUnavailable):
            self.unlocked += 1

    async def _enter_locked(self, name: str, token: int) -> None:
        try:
            self.guard(name, token)
        except StaleFence:
            self.refused += 1
            return
        self.backwards += token < self.tokens.get(name, 0)
        self.tokens[name] = token

    async def _fail(self) -> None:
        raise OrderedToFail(self.message.id)

    def _order(self, target: str, lane: int, ops: list[list[Any]]) -> None:
        order = {"type": DO, "n": self._number(f"{target}|{lane}"), "ops": ops}
        self.send(target, order, priority=lane)  # type: ignore[arg-type]

    def _number(self, stream: str) -> int:
        n = self.sent[stream] = self.sent.get(stream, 0) + 1
        return n
