"""The locks of the test kit: the same leases, on a table in this process instead of a Redis."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from rookery.ops.locks import scripts
from rookery.ops.locks.service import LockService


class MemoryLocks(LockService):
    """Each script of `scripts` as a method, on the clock of the event loop; tokens count from 1.

    `flush()` forgets everything, as a Redis may. Nobody dies silently here, so no waiter is ever dropped.
    """

    def __init__(self, scope: str) -> None:
        super().__init__(scope, _no_redis, self._next_token)
        self._held: defaultdict[str, dict[str, float]] = defaultdict(dict)
        self._queues: defaultdict[str, list[str]] = defaultdict(list)
        self._full_at: dict[str, float] = {}
        self._tokens: defaultdict[str, int] = defaultdict(int)
        self._loop = asyncio.get_running_loop()
        self._steps: dict[str, Callable[..., Any]] = {
            scripts.ACQUIRE: self._acquire,
            scripts.RENEW: self._renew,
            scripts.RELEASE: self._release,
            scripts.TAKE: self._take,
        }

    async def run(self, script: str, keys: Sequence[str], arguments: Sequence[str | int | float]) -> Any:
        """Run a step; another task may run before it."""
        await asyncio.sleep(0)
        return self._steps[script](keys[0], *arguments)

    def listen(self) -> None:
        """Waiters are woken anyway."""

    def flush(self) -> None:
        """Forget all locks, permits and limits, but no token."""
        self._held.clear()
        self._queues.clear()
        self._full_at.clear()

    async def _next_token(self, name: str, holder: str) -> int:
        self._tokens[name] += 1
        return self._tokens[name]

    def _acquire(self, key: str, me: str, ttl: int, limit: int, _: int, waiters_max: int) -> tuple[int, float, int]:
        now = self._loop.time() * 1000
        held, queue = self._held[key], self._queues[key]
        for holder in [holder for holder, until in held.items() if until <= now]:
            del held[holder]
        place = queue.index(me) if me in queue else len(queue)
        if me in held or place < limit - len(held):
            held[me] = now + ttl
            if me in queue:
                queue.remove(me)
            self._wake(key)
            return scripts.TAKEN, 0, 0
        if me not in queue:
            if place >= waiters_max:
                return scripts.FULL, 0, place
            queue.append(me)
        return scripts.WAITING, min(held.values(), default=now) - now, place

    def _renew(self, key: str, me: str, ttl: int) -> int:
        now = self._loop.time() * 1000
        if self._held[key].get(me, 0.0) <= now:
            return 0
        self._held[key][me] = now + ttl
        return 1

    def _release(self, key: str, me: str, _: int) -> int:
        until = self._held[key].pop(me, 0.0)
        if me in self._queues[key]:
            self._queues[key].remove(me)
        self._wake(key)
        return int(until > self._loop.time() * 1000)

    def _take(self, key: str, interval: float, size: int, wanted: int, wait_max: float) -> tuple[int, float]:
        now = self._loop.time() * 1e6
        full_at = max(self._full_at.get(key, now), now) + wanted * interval
        wait = max(0.0, full_at - size * interval - now)
        if wait > wait_max:
            return 0, wait
        self._full_at[key] = full_at
        return 1, wait

    def _wake(self, key: str) -> None:
        for first in self._queues[key][:1]:
            if first in self._waiters:
                self._waiters[first].set()


def _no_redis() -> NoReturn:
    raise AssertionError("the kit's locks need no Redis")
