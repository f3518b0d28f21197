"""The application that the workers of test_faust_app run: agents that count."""

import os

from rookery import Agent, App, handler


class Count(Agent):
    n: int = 0

    @handler("add")
    async def add(self, msg: dict[str, int]) -> dict[str, int]:
        self.n += msg["by"]
        return {"n": self.n}


app = App(os.environ["COUNTING_APP"], agents=[Count], partitions=4, session_timeout=6, heartbeat_interval=0.5)
