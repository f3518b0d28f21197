"""An application whose agents fail in every way there is; run as a real worker by the tests of dead letters."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rookery import Agent, App, Supervision, handler


@dataclass
class Do:
    n: int
    flag: str = ""  # a file: without it the handler fails


@dataclass
class Flood:
    messages: int
    size: int


class Ledger(Agent):
    """Writes down what it was told, in order."""

    supervision = Supervision(attempts=2, backoff=0.01)
    entries: list[int] = []  # noqa: RUF012 - state, copied for each agent

    @handler
    async def do(self, message: Do) -> None:
        if message.flag and not Path(message.flag).exists():  # noqa: ASYNC240
            raise RuntimeError(f"{message.flag} is missing")
        self.entries.append(message.n)
        await self.send("Sink/all", {"type": "Done", "n": message.n})

    @handler
    async def flood(self, message: Flood) -> None:
        for _ in range(message.messages):
            await self.send("Sink/all", {"type": "Done", "n": 0, "padding": "x" * message.size})


class Sink(Agent):
    """Counts effects: a doubled or a missing one shows."""

    counts: dict[str, int] = {}  # noqa: RUF012

    @handler("Done")
    async def done(self, message: dict[str, Any]) -> None:
        name = str(message["n"])
        self.counts[name] = self.counts.get(name, 0) + 1


app = App(os.environ.get("ROOKERY_APP_ID", "letters"), agents=[Ledger, Sink])
