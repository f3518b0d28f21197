"""The application that the cluster tests run as a real worker."""

import os
from dataclasses import dataclass
from typing import Any

from rookery import HIGH, Agent, App, handler


@dataclass
class Add:
    n: int


@dataclass
class Total:
    count: int


class Counter(Agent):
    count: int = 0

    @handler
    async def add(self, msg: Add) -> Total:
        if msg.n < 0:
            raise ValueError("only upwards")
        self.count += msg.n
        await self.send("Audit/log", {"type": "ADDED", "n": msg.n}, priority=HIGH)
        return Total(self.count)


class Audit(Agent):
    total: int = 0
    order: list[int] = []  # noqa: RUF012 - state, copied for each agent

    @handler("ADDED")
    async def added(self, msg: dict[str, Any]) -> None:
        self.total += msg["n"]
        self.order.append(msg["n"])


class TestAgent(Agent):
    __test__ = False
    last_message: str = ""

    @handler("PING")
    async def ping(self, msg: dict[str, str]) -> None:
        self.last_message = msg["type"]


class Inside(Agent):
    """Looks into its worker."""

    @handler("REMEMBERED")
    async def remembered(self, msg: dict[str, str]) -> list[int]:
        """How many of the messages that are done Faust remembers, in a list and in an index."""
        consumer: Any = app.consumer
        return [sum(map(len, done.values())) for done in (consumer._acked, consumer._acked_index)]


app = App(os.environ.get("ROOKERY_APP_ID", "small"), agents=[Counter, Audit, TestAgent, Inside], partitions=4)
