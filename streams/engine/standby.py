"""Warm copies of partitions that other workers own, followed from their journals until they are promoted or dropped.

A copy is a store that is folded on and on, like a recovery that has not claimed yet. When its partition moves here,
recovery takes the store over and goes on from its mark: what is left to read is what was written in a moment.
"""

import asyncio
import logging
from contextlib import aclosing
from typing import Any

from rookery.streams.core.fold import JournalFold
from rookery.streams.core.store import OpenStore, Store
from rookery.streams.log import Log, OutsideJournal

log = logging.getLogger(__name__)

# After an error following starts again with doubled delays; seconds. A worker without copies is no worse off.
RETRY_FIRST, RETRY_MAX = 0.5, 30.0


class Standbys:
    """The copies of one worker; `open_store` gives the store of a partition as it was left."""

    def __init__(self, port: Log, open_store: OpenStore) -> None:
        self._port = port
        self._open_store = open_store
        self._wanted: set[int] = set()
        self._folds: dict[int, JournalFold] = {}
        self._starts: dict[int, int] = {}  # log starts of journals whose first records are gone
        self._ends: dict[int, int] = {}  # of the journals, as last seen
        self._broken: set[int] = set()
        self._changed = asyncio.Event()

    def assigned(self, numbers: set[int]) -> None:
        """Keep copies of exactly these partitions from now on."""
        self._wanted = set(numbers)
        for number in self._folds.keys() - numbers:
            self._drop(number)
        self._changed.set()

    def take(self, number: int) -> Store | None:
        """Give away the copy of a partition that is promoted, if there is one."""
        fold = self._folds.pop(number, None)
        self._wanted.discard(number)
        self._changed.set()
        return None if fold is None else fold.store

    def statistics(self) -> dict[int, dict[str, Any]]:
        """By partition: agents and cells of the copy, and by how many offsets it lags; None while that is unknown."""
        return {
            number: {
                "agents": len(fold.store),
                "lag": None if (end := self._ends.get(number)) is None else max(0, end - fold.offset),
            }
            for number, fold in sorted(self._folds.items())
        }

    def close(self) -> None:
        """Drop all copies."""
        self.assigned(set())

    async def follow(self) -> None:
        """Follow for ever."""
        delay = RETRY_FIRST
        while True:
            self._changed.clear()
            try:
                for number in self._wanted - self._folds.keys():
                    await asyncio.sleep(0)  # opening a store takes its time
                    if number in self._wanted:
                        self._add(number)
                if self._folds:
                    await self._follow()
                else:
                    await self._changed.wait()
                delay = RETRY_FIRST
            except OutsideJournal as error:
                log.warning("%s: its copy is built anew", error)
                self._starts[error.partition] = error.start
                if (fold := self._folds.get(error.partition)) is not None and fold.offset:
                    fold.wipe()
            except Exception as error:
                log.warning("following journals failed, again in %.1f s: %s", delay, error)
                for number in self._broken & self._folds.keys():
                    self._drop(number)
                self._broken.clear()
                await asyncio.sleep(delay)
                delay = min(2 * delay, RETRY_MAX)

    async def _follow(self) -> None:
        """Follow until the set of copies changes."""
        offsets = {number: max(fold.offset, self._starts.get(number, 0)) for number, fold in self._folds.items()}
        async with aclosing(self._port.follow_journals(offsets)) as following:
            async for number, records, position, end in following:
                fold = self._folds.get(number)
                if fold is not None:
                    self._ends[number] = end
                    fold.apply(records, position, at_end=position >= end)
                if self._changed.is_set():
                    return

    def _add(self, number: int) -> None:
        store = self._open_store(number)
        store.broken = lambda error: self._broken.add(number)
        self._folds[number] = JournalFold(store)

    def _drop(self, number: int) -> None:
        self._folds.pop(number).store.close()
        self._ends.pop(number, None)
