"""The agents of the contract suite."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from typing import Any

from rookery import HIGH, LOW, NORMAL, Agent, PauseAgent, Policy, Supervision, handler, idempotency_key


@dataclass
class Add:
    n: int


@dataclass
class Total:
    count: int


@dataclass
class Burst:
    """Send so many messages to a journal, one priority after the other."""

    target: str
    count: int


class TestAgent(Agent):
    __test__ = False  # pytest would take the name for a test class
    last_message: str = ""

    @handler("PING")
    async def ping(self, msg: dict[str, str]) -> None:
        self.last_message = msg["type"]


class OnlyUpwards(ValueError):
    """Nothing that another attempt would change."""


class Counter(Agent):
    supervision = Supervision(policies={OnlyUpwards: Policy.DEAD_LETTER})
    count: int = 0

    def on_spawn(self, count: int = 0) -> None:
        self.count = count

    @handler
    async def add(self, msg: Add) -> Total:
        self.count += msg.n
        if msg.n < 0:  # an error of the caller, not worth another attempt
            self.send(f"Diary/{self.id.partition('/')[2]}", {"type": "note", "text": "never sent"})
            raise OnlyUpwards("only upwards")
        return Total(self.count)

    @handler
    async def burst(self, msg: Burst) -> None:
        for i in range(msg.count):
            for priority in (LOW, NORMAL, HIGH):
                self.send(msg.target, {"type": "note", "text": f"{priority.name} {i}"}, priority=priority)


class Diary(Agent):
    texts: list[str] = []  # noqa: RUF012 - state, copied for each agent
    senders: list[str] = []  # noqa: RUF012

    @handler("note")
    async def note(self, msg: dict[str, Any]) -> None:
        self.texts.append(msg["text"])
        self.senders.append(self.sender)


@dataclass
class Plan:
    """What a Planner is to do: ask counters to add, then do steps, failing as often as told before its turn ends."""

    counters: list[str]
    steps: int = 0
    fail: int = 0
    pause: bool = False


class Planner(Agent):
    """Adds up what others answer, in durable turns."""

    supervision = Supervision(attempts=5, backoff=0.05, backoff_max=0.2, timeout=60.0)
    answers: list[int] = []  # noqa: RUF012 - state
    steps: list[str] = []  # noqa: RUF012
    turns: int = 0

    @handler
    async def plan(self, msg: Plan) -> list[int]:
        asks = [self.ask(counter, Add(1), 20.0, reply_type=Total) for counter in msg.counters]
        self.answers += [total.count for total in await asyncio.gather(*asks)]
        for number in range(msg.steps):
            self.steps.append(await self.step(f"step-{number}", _key))
        if self.attempt < msg.fail:
            raise ConnectionError(f"attempt {self.attempt} fails")
        if msg.pause:
            raise PauseAgent("until somebody looks")
        self.turns += 1
        return self.answers

    @handler("ask-yourself")
    async def ask_yourself(self, msg: dict[str, Any]) -> None:
        await self.ask(self.id, {"type": "ask-yourself"})


async def _key() -> str:
    """Something that is different each time, unless it is remembered."""
    return f"{idempotency_key()} {uuid.uuid4().hex}"


FLEET = (TestAgent, Counter, Diary, Planner)
