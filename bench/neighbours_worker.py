"""The worker of bench.neighbours: counters, of which some are told to fail or to sleep."""

import asyncio
import os

import msgspec

from rookery import Agent, App, Supervision, handler


class Add(msgspec.Struct):
    n: int


class Poison(msgspec.Struct):
    """Fails always."""


class Sleep(msgspec.Struct):
    seconds: float


class Counter(Agent):
    supervision = Supervision(attempts=3, backoff=0.2)
    count: int = 0

    @handler
    async def add(self, msg: Add) -> int:
        self.count += msg.n
        return self.count

    @handler
    async def fail(self, msg: Poison) -> None:
        raise ValueError("poison")

    @handler
    async def sleep(self, msg: Sleep) -> None:
        await asyncio.sleep(msg.seconds)


app = App(os.environ.get("ROOKERY_APP_ID", "neighbours"), agents=[Counter])
