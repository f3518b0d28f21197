"""Lock, Semaphore, Leader: what programs use.

    async with Lock("account-7", ttl=10) as fence:     # renewed every ttl/3 while the body runs
        await account.ask(Withdraw(5, fence=fence))    # whoever owns the data refuses an older token

A lock alone can't keep two bodies apart: a process may be frozen, Redis may forget (docs/guarantees.md). The token can:
it grows with each holder, and the owner of what is protected compares it (`Agent.guard`, `check_fence`, or SQL).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from rookery.ops.locks.lease import Lease, Spec
from rookery.ops.locks.service import FenceSource, LockService, backoff, find
from rookery.schemas.errors import ConfigurationError, Overloaded
from rookery.schemas.lock_errors import LockLost, LockTimeout, NoFence

if TYPE_CHECKING:
    from rookery.ops.locks.connect import Client

T = TypeVar("T")

TTL: Final = 30.0
WAIT: Final = 60.0
TTL_MIN, TTL_MAX = 0.1, 86_400.0
LIMIT_MAX: Final = 10_000
NO_TOKEN: Final = -1


class _Leased:
    """`async with` around leases of one name; one object may be used by many tasks, by each once at a time."""

    kind = ""

    def __init__(self, name: str, ttl: float, wait: float, limit: int, redis: Client | None) -> None:
        if not name:
            raise ValueError(f"{type(self).__name__} needs a name")
        if not TTL_MIN <= ttl <= TTL_MAX:
            raise ValueError(f"ttl is {ttl} s, {TTL_MIN} to {TTL_MAX:g} are possible")
        if not 1 <= limit <= LIMIT_MAX:
            raise ValueError(f"limit is {limit}, 1 to {LIMIT_MAX} are possible")
        self.name, self.ttl, self.wait, self.limit = name, ttl, wait, limit
        self._redis = redis
        self._leases: dict[asyncio.Task[Any] | None, Lease] = {}

    @property
    def held(self) -> bool:
        """Whether this task holds it and may go on believing so."""
        try:
            self.check()
        except LockLost:
            return False
        return True

    def check(self) -> None:
        """Raise LockLost unless this task holds it: cheap, to be called before what can't be undone."""
        lease = self._leases.get(asyncio.current_task())
        if lease is None:
            raise LockLost(self.name, "this task does not hold it")
        lease.check()

    async def _enter(self) -> int | None:
        task = asyncio.current_task()
        if task in self._leases:
            raise RuntimeError(f"this task holds {self.name} already, it would wait for itself")
        # Only now, so that an object made when a module is imported works in the worker that starts later.
        service = find(self._redis, f"{type(self).__name__}({self.name!r})")
        fence = self._source(service)
        lease = Lease(service, Spec(self.name, f"{service.scope}/{self.kind}/{self.name}", self.ttl, self.limit, fence))
        await lease.take(self.wait)
        self._leases[task] = lease
        return lease.token

    def _source(self, service: LockService) -> FenceSource | None:
        return None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back; raises LockLost if it may have been lost while the body ran."""
        await self._leases.pop(asyncio.current_task()).give_back(error)


class Lock(_Leased):
    """Mutual exclusion on a name, with a fencing token; an async context manager.

    `ttl` seconds after its holder was last heard of, a lock is free again; a holder renews it every third of that, and
    its body is cancelled with LockLost when it can't. `wait` bounds the waiting, which is first come, first served.
    Inside a worker or a `Client` everything is found; elsewhere pass `redis`, a redis-py asyncio client, and `fence`, a
    source of tokens. `fence=False` does without a token: fit only for saving work, not for keeping data right.
    """

    kind = "lock"

    def __init__(
        self,
        name: str,
        *,
        ttl: float = TTL,
        wait: float = WAIT,
        redis: Client | None = None,
        fence: FenceSource | Literal[False] | None = None,
    ) -> None:
        super().__init__(name, ttl, wait, 1, redis)
        self._fence = fence

    def _source(self, service: LockService) -> FenceSource | None:
        source = service.fence if self._fence is None else self._fence
        if source is None:
            raise ConfigurationError(
                f"Lock({self.name!r}) has no source of fencing tokens: use it in a worker or a Client, pass fence=, or "
                "fence=False where two holders at once do no harm"
            )
        return source or None

    async def __aenter__(self) -> int:
        """Wait for the lock; returns its token, larger than all before, or -1, which is none, with `fence=False`.

        Raises LockTimeout, Overloaded (too many wait), NoFence, NotBound, ConfigurationError.
        """
        token = await self._enter()
        return NO_TOKEN if token is None else token


class Semaphore(_Leased):
    """At most `limit` bodies at once, over all processes: "ten model calls"; an async context manager.

    Permits are leases: one of a process that died is free again after `ttl` seconds. All users of a name must agree on
    `limit`. There is no token, since permits don't protect data.
    """

    kind = "semaphore"

    def __init__(
        self, name: str, limit: int, *, ttl: float = TTL, wait: float = WAIT, redis: Client | None = None
    ) -> None:
        super().__init__(name, ttl, wait, limit, redis)

    async def __aenter__(self) -> None:
        """Wait for a permit; raises LockTimeout, Overloaded, NotBound, ConfigurationError."""
        await self._enter()


class Leader:
    """One process of all runs a job; another one takes over when it stops, dies or is cut off.

        await Leader("nightly-report").run(report)         # async def report(fence: int) -> None

    A leader that is cut off and its successor may run side by side for a moment: what the job writes must be guarded by
    its token, as under any lock.
    """

    def __init__(
        self,
        name: str,
        *,
        ttl: float = TTL,
        redis: Client | None = None,
        fence: FenceSource | Literal[False] | None = None,
    ) -> None:
        self.name = name
        self._lock = Lock(f"leader/{name}", ttl=ttl, wait=WAIT, redis=redis, fence=fence)
        self.leading = False
        """Whether the job runs here now."""

    async def run(self, job: Callable[[int], Awaitable[T]]) -> T:
        """Wait to be the leader, run `job(token)` and return its result; after a lost leadership, wait again.

        Ends only with the job or by cancellation. What the job raises passes through, but for LockLost.
        """
        attempt = 0
        while True:
            try:
                async with self._lock as fence:
                    attempt, self.leading = 0, True
                    try:
                        return await job(fence)
                    finally:
                        self.leading = False
            except LockTimeout:
                attempt = 0  # it waited long enough
            except (LockLost, NoFence, Overloaded):
                attempt += 1
            await asyncio.sleep(backoff(attempt))
