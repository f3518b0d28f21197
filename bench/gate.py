"""Holds the inboxes of a worker back, so that the clock starts when all partitions are recovered."""

from __future__ import annotations

import asyncio

from rookery.schemas.envelope import Priority
from rookery.streams.engine.engine import Engine


def running(engine: Engine) -> int:
    """How many partitions a worker has recovered; -1 while it recovers others."""
    phases = [part["phase"] for part in engine.statistics()["partitions"].values()]
    return len(phases) if all(phase == "running" for phase in phases) else -1


class Gate:
    """Closed from the start. What was under way to the worker then must be dropped: `open` asks for it again."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.is_open = False
        self._places = [(number, lane) for number in range(engine.settings.partitions) for lane in range(len(Priority))]
        for number, lane in self._places:
            engine.port.pause(number, lane)

    async def recovered(self, partitions: int) -> None:
        """Wait until exactly so many partitions run."""
        while running(self._engine) != partitions:  # noqa: ASYNC110 - polls
            await asyncio.sleep(0.01)

    def open(self) -> None:
        """Let everything in."""
        self.is_open = True
        for partition in self._engine.running_partitions():
            for lane, progress in enumerate(partition.lanes):
                self._engine.port.seek(partition.number, lane, progress.next)
        for number, lane in self._places:
            self._engine.port.resume(number, lane)
