"""RateLimit: a token bucket for all processes, "60 calls a minute to this model"."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from rookery.ops.locks import scripts
from rookery.ops.locks.service import backoff, find
from rookery.schemas.errors import Overloaded
from rookery.schemas.lock_errors import RedisUnavailable

if TYPE_CHECKING:
    from rookery.ops.locks.connect import Client

WAIT: Final = 60.0


class RateLimit:
    """At most `rate` per second on average and `burst` at once, over all processes that use the name.

    A caller reserves its turn in one step and then waits for it by itself, so the order is that of the calls, and one
    that dies while waiting wastes its turn and holds up nobody. All users of a name must agree on `rate` and `burst`.
    After a loss of Redis' memory the bucket is full.
    """

    def __init__(self, name: str, *, rate: float, burst: int = 1, redis: Client | None = None) -> None:
        if not name:
            raise ValueError("RateLimit needs a name")
        if not 0 < rate <= 1_000_000 or burst < 1:
            raise ValueError(f"rate {rate} per second and burst {burst} can't be kept")
        self.name, self.rate, self.burst = name, rate, burst
        self._redis = redis

    async def take(self, count: int = 1, *, wait: float = WAIT) -> float:
        """Take `count` turns, waiting up to `wait` seconds for them; returns the seconds waited.

        Raises Overloaded, with nothing taken, when the turn comes later than that; RedisUnavailable when Redis does not
        answer in that time, NotBound. An answer that was lost may have taken turns.
        """
        if not 1 <= count <= self.burst:
            raise ValueError(f"{count} at once is never possible with a burst of {self.burst}")
        loop = asyncio.get_running_loop()
        began, attempt = loop.time(), 0
        service = find(self._redis, f"RateLimit({self.name!r})")
        key = f"rookery:{{{service.scope}/rate/{self.name}}}"
        taken = microseconds = 0
        while True:
            left = max(0.0, began + wait - loop.time())
            arguments = [1e6 / self.rate, self.burst, count, left * 1e6]
            try:
                taken, microseconds = await service.run(scripts.TAKE, [key], arguments)
                break
            except RedisUnavailable:
                pause = backoff(attempt)
                attempt += 1
                if loop.time() + pause > began + wait:
                    raise
            await asyncio.sleep(pause)
        if not taken:
            service.counts["rate_refusals"] += 1
            raise Overloaded(f"rate limit {self.name}", int(microseconds) / 1e6 - left)
        if microseconds:
            service.counts["rate_waits"] += 1
            await asyncio.sleep(int(microseconds) / 1e6)
        return loop.time() - began
