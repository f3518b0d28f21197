"""The application that the workers of the cluster tests run: agents that count, as slowly as they are told."""

import asyncio
import os
import time

from rookery import Agent, App, handler


class Count(Agent):
    n: int = 0

    @handler("add")
    async def add(self, msg: dict[str, float]) -> dict[str, int]:
        await asyncio.sleep(msg.get("seconds", 0))
        if "MAY_BLOCK" in os.environ:
            time.sleep(msg.get("block", 0))  # noqa: ASYNC251 - what the watchdog is there for
        self.n += int(msg["by"])
        return {"n": self.n}


options = {"session_timeout": 6.0, "heartbeat_interval": 0.5} if "ROOKERY_SESSION_TIMEOUT" not in os.environ else {}
app = App(os.environ["COUNTING_APP"], agents=[Count], partitions=4, **options)
