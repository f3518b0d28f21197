"""The agents of the contract suite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rookery import HIGH, LOW, NORMAL, Agent, handler


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


class Counter(Agent):
    count: int = 0

    def on_spawn(self, count: int = 0) -> None:
        self.count = count

    @handler
    async def add(self, msg: Add) -> Total:
        self.count += msg.n
        if msg.n < 0:
            self.send(f"Diary/{self.id.partition('/')[2]}", {"type": "note", "text": "never sent"})
            raise ValueError("only upwards")
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


FLEET = (TestAgent, Counter, Diary)
