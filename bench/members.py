"""Workers that go on reporting while they run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self

from bench.harness import Void
from bench.processes import Running, worker
from rookery.ops.settings import Settings

LATEST = {"at": 0.0, "owned": 0, "count": 0, "last": 0.0}


class Member:
    """One worker and what it has reported."""

    def __init__(self, running: Running) -> None:
        self.pid = running.process.pid
        self.reports: list[dict[str, Any]] = []
        self.following = asyncio.create_task(self._follow(running))

    @property
    def latest(self) -> dict[str, Any]:
        """The last report, zeros before the first."""
        return self.reports[-1] if self.reports else LATEST

    async def _follow(self, running: Running) -> None:
        while True:
            self.reports.append(await running.result())


@asynccontextmanager
async def followed(running: Running) -> AsyncIterator[Member]:
    """A program whose reports are read while the block lasts."""
    member = Member(running)
    try:
        yield member
    finally:
        member.following.cancel()
        await asyncio.gather(member.following, return_exceptions=True)


class Members:
    """The workers of an application; all of them end with the block."""

    def __init__(self, settings: Settings, module: str) -> None:
        self._settings, self._module = settings, module
        self._stack = AsyncExitStack()
        self.all: list[Member] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def start(self, name: str, weight: float = 1.0, **environment: object) -> Member:
        """One more of them."""
        given = {"AGENT_ID": name, "ROOKERY_WEIGHT": weight, **environment}
        running = await self._stack.enter_async_context(worker(self._settings, self._module, **given))
        self.all.append(await self._stack.enter_async_context(followed(running)))
        return self.all[-1]

    @property
    def count(self) -> int:
        """Turns that all of them have committed."""
        return sum(int(member.latest["count"]) for member in self.all)

    async def until(self, holds: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
        """Wait; Void if it takes too long, or a worker ends before."""
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                raise Void(f"not within {seconds:.0f} s: {what}")
            for member in self.all:
                if member.following.done():
                    member.following.result()
            await asyncio.sleep(0.02)

    async def until_owned(self, shares: Sequence[int]) -> None:
        """Wait until each of them runs so many partitions."""
        await self.until(lambda: [m.latest["owned"] for m in self.all] == list(shares), f"shares of {shares}")
