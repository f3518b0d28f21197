"""The application behind the edge of the NATS tests: an agent that counts, tells what it got, and talks to NATS."""

import asyncio
import os
from typing import Any

from rookery import Agent, App, Supervision, handler


class Desk(Agent):
    supervision = Supervision(attempts=1)
    n: int = 0

    @handler("add")
    async def add(self, msg: dict[str, Any]) -> dict[str, int]:
        await asyncio.sleep(msg.get("seconds", 0))
        self.n += int(msg["by"])
        return {"n": self.n}

    @handler("who")
    async def who(self, msg: dict[str, Any]) -> dict[str, Any]:
        envelope = self.message
        return {
            "target": self.id,
            "id": envelope.id,
            "sender": self.sender,
            "priority": self.priority.name,
            "deadline": envelope.deadline,
            "headers": dict(envelope.headers),
        }

    @handler("shout")
    async def shout(self, msg: dict[str, Any]) -> dict[str, int]:
        for number in range(msg["count"]):
            await self.send(f"nats/{msg['subject']}", {"type": "Shouted", "number": number})
        self.n += msg["count"]
        return {"n": self.n}

    @handler("consult")
    async def consult(self, msg: dict[str, Any]) -> Any:
        return await self.ask(f"nats/{msg['subject']}", {"question": msg["question"]}, msg.get("timeout", 20.0))


app = App(
    os.environ["COUNTING_APP"],
    agents=[Desk],
    partitions=4,
    nats_out=True,
    session_timeout=12.0,
    heartbeat_interval=0.5,
)
