"""The application of the tests that look at single messages: the agent of the article, a counter, and a bank."""

from typing import Any

from rookery import Agent, App, Lock, handler


class TestAgent(Agent):
    __test__ = False
    last_message: str = ""

    @handler("PING")
    async def ping(self, msg: dict[str, str]) -> None:
        self.last_message = msg["type"]

    @handler("CALL")
    async def call(self, msg: dict[str, str]) -> None:
        await self.send(msg["who"], {"type": "PING"})


class Counter(Agent):
    count: int = 0

    @handler("add")
    async def add(self, msg: dict[str, Any]) -> dict[str, int]:
        self.count += msg["n"]
        return {"count": self.count}


class Bank(Agent):
    gold: int = 0

    @handler("deposit")
    async def deposit(self, msg: dict[str, Any]) -> int:
        async with Lock("vault", ttl=5, wait=msg["wait"]):
            self.gold += msg["gold"]
        return self.gold


app = App(agents=[TestAgent, Counter, Bank])
