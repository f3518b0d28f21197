"""The application that the workers of the cluster tests run: agents that count, as slowly as they are told."""

import asyncio
import logging
import os
import time
from typing import Any

from rookery import Agent, App, handler

log = logging.getLogger(__name__)


class Count(Agent):
    n: int = 0

    @handler("add")
    async def add(self, msg: dict[str, Any]) -> dict[str, int]:
        if msg.get("seconds", 0) and "TELL_SLOW" in os.environ:
            log.warning("slow turn of %s", self.id)
        await asyncio.sleep(msg.get("seconds", 0))
        if "MAY_BLOCK" in os.environ:
            time.sleep(msg.get("block", 0))  # noqa: ASYNC251 - what the watchdog is there for
        self.n += int(msg["by"])
        return {"n": self.n}


options = {"session_timeout": 6.0, "heartbeat_interval": 0.5} if "ROOKERY_SESSION_TIMEOUT" not in os.environ else {}
app = App(
    os.environ["COUNTING_APP"], agents=[Count], partitions=int(os.environ.get("COUNTING_PARTITIONS", "4")), **options
)
