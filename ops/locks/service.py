"""What the locks of one process share: the Redis client, the source of tokens, bounds, counts, and what wakes waiters.

A worker and a `Client` bind one, so that `Lock("name")` finds it. Redis is first connected when the first lock is
wanted; agents that use none never notice whether there is one.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import uuid
from collections.abc import Callable, Coroutine, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from rookery.ops.locks import scripts
from rookery.schemas.errors import ConfigurationError, NotBound
from rookery.schemas.lock_errors import RedisUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from redis.commands.core import AsyncScript

    from rookery.ops.locks.connect import Client

log = logging.getLogger(__name__)

TIMEOUT: Final = 1.0
"""Seconds that one command may take, waiting for a connection included."""
COMMANDS_MAX: Final = 32
"""Commands in flight at once, and so connections."""
BACKOFF_MAX: Final = 2.0
"""Longest pause before Redis is asked again after an error, in seconds; the pause is random up to its bound."""
LISTEN_SECONDS: Final = 5.0
CLOSE_SECONDS: Final = 2.0
"""Seconds that clean-ups get at the end; what they did not reach ends with its ttl."""


class FenceSource(Protocol):
    """Gives fencing tokens, each larger than all before of the same lock, whatever happens to Redis."""

    async def __call__(self, name: str, holder: str) -> int:
        """The next token of the lock `name` for `holder`; raises NoFence."""
        ...


def backoff(attempt: int) -> float:
    """Seconds to wait before attempt number `attempt` + 1, random so that those who wait don't come back together."""
    return random.uniform(0.01, min(BACKOFF_MAX, 0.05 * 2 ** min(attempt, 10)))


def redis_py() -> ModuleType:
    """Our module that stands on redis-py, which is a sixth of what a worker's start imports: not without a lock."""
    from rookery.ops.locks import connect

    return connect


class LockService:
    """One connection of one process to one Redis; `close()` it at the end.

    `scope` stands before the names of all locks: the application, whose fence topic numbers them. `make_client` is
    called at the first use. `fence` is None where there is no source of tokens.
    """

    def __init__(
        self,
        scope: str,
        make_client: Callable[[], Client],
        fence: FenceSource | None,
        *,
        timeout: float = TIMEOUT,
    ) -> None:
        self.scope = scope
        self.fence = fence
        self.timeout = timeout
        self.id = uuid.uuid4().hex
        self.counts = dict.fromkeys(
            ("acquired", "timeouts", "lost", "errors", "tokens", "stuck_releases", "rate_waits", "rate_refusals"), 0
        )
        self.held = 0
        self.waiting = 0
        self.wait_seconds = 0.0
        self._make_client = make_client
        self._client: Client | None = None
        self._scripts: dict[str, AsyncScript] = {}
        self._numbers = itertools.count()
        self._commands = asyncio.Semaphore(COMMANDS_MAX)
        self._down_since: float | None = None
        self._background: set[asyncio.Task[Any]] = set()
        self._waiters: dict[str, asyncio.Event] = {}
        self._listener: asyncio.Task[None] | None = None

    @property
    def client(self) -> Any:
        """The Redis client; made at the first use."""
        if self._client is None:
            self._client = self._make_client()
        return self._client

    def new_holder(self, ttl_ms: int) -> str:
        """A fresh id for one acquisition; see `scripts` for what its parts are for."""
        return f"{self.id}.{next(self._numbers)}:{ttl_ms}"

    async def run(self, script: str, keys: Sequence[str], arguments: Sequence[str | int | float]) -> Any:
        """Run a script within `timeout` seconds; raises RedisUnavailable (it may have run), ConfigurationError."""
        task = asyncio.current_task()
        cancels = task.cancelling() if task else 0
        try:
            return await self._send(script, keys, arguments)
        finally:
            # redis-py sends by asyncio.wait_for, which before Python 3.12 loses a cancellation that comes as it ends.
            if task and task.cancelling() > cancels:
                raise asyncio.CancelledError

    async def _send(self, script: str, keys: Sequence[str], arguments: Sequence[str | int | float]) -> Any:
        if (prepared := self._scripts.get(script)) is None:
            prepared = self._scripts[script] = redis_py().script(self.client, script)
        try:
            async with asyncio.timeout(self.timeout), self._commands:
                result = await prepared(keys, arguments)
        except redis_py().ERRORS as error:
            if redis_py().refuses(error):
                raise ConfigurationError(f"Redis refuses us: {error}") from error
            self.counts["errors"] += 1
            if self._down_since is None:
                self._down_since = asyncio.get_running_loop().time()
                log.warning("Redis is not available, locks wait: %s: %s", type(error).__name__, error)
            raise RedisUnavailable(f"{type(error).__name__}: {error}") from error
        if self._down_since is not None:
            log.warning("Redis is back after %.1f s", asyncio.get_running_loop().time() - self._down_since)
            self._down_since = None
        return result

    def statistics(self) -> dict[str, Any]:
        """Counts since the start, and what holds now; `up` is None before the first use of Redis."""
        down = self._down_since
        return {
            **self.counts,
            "held": self.held,
            "waiting": self.waiting,
            "wait_seconds": self.wait_seconds,
            "up": None if self._client is None else down is None,
            "down_seconds": 0.0 if down is None else asyncio.get_running_loop().time() - down,
        }

    # --- waking -------------------------------------------------------------------------------------------------------

    @contextmanager
    def waiter(self, holder: str) -> Iterator[asyncio.Event]:
        """An event that is set when it may be this holder's turn; a hint, it may come too often or not at all."""
        event = self._waiters[holder] = asyncio.Event()
        try:
            yield event
        finally:
            del self._waiters[holder]

    def listen(self) -> None:
        """Let waiters be woken, as long as there are any; in a Cluster they only poll."""
        if (self._listener is None or self._listener.done()) and hasattr(self.client, "connection_pool"):
            self._listener = asyncio.create_task(self._listen(), name="rookery-lock-wakes")

    async def _listen(self) -> None:
        attempt = 0
        while True:
            try:
                async with self.client.pubsub(ignore_subscribe_messages=True) as pubsub:
                    await pubsub.subscribe(scripts.WAKE + self.id)
                    # What was published before is lost: everybody looks once.
                    for event in self._waiters.values():
                        event.set()
                    while self._waiters:
                        message = await pubsub.get_message(timeout=LISTEN_SECONDS)
                        attempt = 0
                        waiter = None if message is None else self._waiters.get(message["data"].decode())
                        if waiter is not None:
                            waiter.set()
            except redis_py().ERRORS:
                await asyncio.sleep(backoff(attempt))
                attempt += 1
            else:
                return

    # --- life ---------------------------------------------------------------------------------------------------------

    def in_background(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run what must be done although its caller goes on or is cancelled."""
        task = asyncio.create_task(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def close(self) -> None:
        """Finish clean-ups within 2 s, and disconnect."""
        if self._background:
            await asyncio.wait(self._background, timeout=CLOSE_SECONDS)
        ending = [*self._background, *([self._listener] if self._listener else [])]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        self._listener = None
        if self._client is not None:
            await redis_py().disconnect(self._client)


# --- which one is meant -----------------------------------------------------------------------------------------------

_bound: list[LockService] = []


def bind(service: LockService) -> None:
    """Make this the service that `Lock("name")` finds, until another is bound or this one is unbound."""
    _bound.append(service)


def unbind(service: LockService) -> None:
    """Forget the service; doing so twice is fine."""
    _bound[:] = [other for other in _bound if other is not service]


def find(redis: Client | None, what: str) -> LockService:
    """The service of this client, or the one bound last; raises NotBound."""
    if redis is not None:
        # Kept at the client, and gone with it.
        kept = vars(redis)
        if (service := kept.get("_rookery_locks")) is None:
            service = kept["_rookery_locks"] = LockService("", lambda: redis, None)
        return cast("LockService", service)
    if not _bound:
        raise NotBound(what)
    return _bound[-1]
