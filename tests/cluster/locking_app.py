"""The application of test_fence: tellers that change a vault under a lock, and a vault that trusts tokens only."""

from typing import Any

from rookery import Agent, App, Lock, handler


class Vault(Agent):
    gold: int = 0
    writes: int = 0

    @handler("read")
    async def read(self, msg: dict[str, Any]) -> int:
        self.guard("vault", msg["fence"])
        return self.gold

    @handler("write")
    async def write(self, msg: dict[str, Any]) -> None:
        self.guard("vault", msg["fence"])
        self.gold = msg["gold"]
        self.writes += 1

    @handler("peek")
    async def peek(self, msg: dict[str, Any]) -> int:
        return self.gold


class Teller(Agent):
    @handler("deposit")
    async def deposit(self, msg: dict[str, Any]) -> int:
        async with Lock("vault", ttl=5, wait=msg["wait"]) as fence:
            gold = await self.ask("Vault/only", {"type": "read", "fence": fence})
            await self.ask("Vault/only", {"type": "write", "fence": fence, "gold": gold + msg["gold"]})
        return fence


app = App(agents=[Vault, Teller], partitions=2, session_timeout=6, heartbeat_interval=0.5)
