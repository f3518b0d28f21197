"""Lease: one acquisition of one lock or permit by one task, from the queue to the release.

Everything is by the monotonic clock of this process: a lease counts from before the command that took or renewed it
was sent, and is given up a tenth early, so that we stop before Redis lets another one in.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Any, Final, NamedTuple

from rookery.ops.locks import scripts
from rookery.ops.locks.service import FenceSource, LockService, backoff
from rookery.schemas.errors import Overloaded, RookeryError
from rookery.schemas.lock_errors import LockLost, LockTimeout, NoFence, RedisUnavailable

TRUSTED: Final = 0.9
"""Share of the ttl for which a lease is believed in without a renewal."""
RENEWED: Final = 1 / 3
"""Share of the ttl after which it is renewed."""
POLL: Final = 1.0
"""Longest pause between two looks of a waiter, in seconds; normally it is woken."""
PATIENCE_MS: Final = 4_000
"""A waiter that was not heard of for so long has lost its place: its process died."""
WAITERS_MAX: Final = 1_000
"""Waiters for one lock; further ones are refused as Overloaded."""
GONE_MS: Final = 60_000
"""How long Redis remembers that an acquisition was given up: as long as a stray command of it may come late."""
CLEANUP_SECONDS: Final = 0.5
"""How long a cancelled acquire waits for its clean-up, which goes on without it."""


class Spec(NamedTuple):
    """What is locked: names of the lock and in Redis, seconds, how many may hold it at once, where tokens come from."""

    name: str
    key: str
    ttl: float
    limit: int
    fence: FenceSource | None


class Lease:
    """Made for one acquisition and thrown away with it; `token` is None where no token was asked for."""

    def __init__(self, service: LockService, spec: Spec) -> None:
        self.service = service
        self.spec = spec
        self.ttl_ms = round(spec.ttl * 1000)
        self.holder = service.new_holder(self.ttl_ms)
        self.token: int | None = None
        self.trusted_until = 0.0
        self.lost: LockLost | None = None
        base = f"rookery:{{{spec.key}}}"
        self._keys = [f"{base}:held", f"{base}:queue", f"{base}:seen", f"{base}:gone:{self.holder}"]
        self._unsure = False  # a command may still run late
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Any] | None = None
        self._cancels_before = 0
        self._timer: asyncio.TimerHandle | None = None
        self._renewal: asyncio.Task[None] | None = None

    # --- taking -------------------------------------------------------------------------------------------------------

    async def take(self, wait: float) -> None:
        """Take the lease and its token; waits in turn, up to `wait` seconds.

        Raises LockTimeout, Overloaded, NoFence, ConfigurationError; then, and when cancelled, it leaves nothing behind.
        """
        service = self.service
        began = self._loop.time()
        service.waiting += 1
        try:
            await self._queue(began + wait, wait)
        except BaseException as error:
            await self._abandon()
            if isinstance(error, LockTimeout):
                service.counts["timeouts"] += 1
            raise
        finally:
            service.waiting -= 1
            service.wait_seconds += self._loop.time() - began
        service.counts["acquired"] += 1
        service.held += 1
        self._task = asyncio.current_task()
        self._cancels_before = self._task.cancelling() if self._task else 0
        self._watch()

    async def _queue(self, until: float, wait: float) -> None:
        service = self.service
        with service.waiter(self.holder) as woken:
            why, attempt = "others held it", 0
            while True:
                woken.clear()
                try:
                    state, pause = await self._ask(may_wait=self._loop.time() < until)
                    attempt = 0
                except RedisUnavailable as error:
                    self._unsure = True
                    state, pause, why = scripts.WAITING, backoff(attempt), error.why
                    attempt += 1
                if state == scripts.TAKEN and await self._fenced(until):
                    return
                left = until - self._loop.time()
                if left <= 0:
                    raise LockTimeout(self.spec.name, wait, why)
                if state == scripts.TAKEN:
                    continue
                if state == scripts.FULL:
                    raise Overloaded(f"lock {self.spec.name}", POLL)
                service.listen()
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(pause, left)):
                        await woken.wait()

    async def _ask(self, *, may_wait: bool) -> tuple[int, float]:
        """One look: (state, seconds until the next one is worth it)."""
        sent = self._loop.time()
        state, left_ms, place = await self.service.run(
            scripts.ACQUIRE,
            self._keys,
            [self.holder, self.ttl_ms, self.spec.limit, PATIENCE_MS, WAITERS_MAX if may_wait else 0],
        )
        if state == scripts.TAKEN:
            self._trust(sent)
        elif state == scripts.GONE:  # can't be: this acquisition is not over
            raise LockLost(self.spec.name, "its acquisition was given up")
        elif state == scripts.FULL and not may_wait:
            state = scripts.WAITING
        pause = POLL * random.uniform(0.8, 1.0)
        if place == 0:  # the next one: look when the lease before us ends
            pause = min(pause, int(left_ms) / 1000 + 0.005)
        return state, pause

    async def _fenced(self, until: float) -> bool:
        """Get the token; False if the lease was lost meanwhile, so that a later holder may have a smaller one."""
        source = self.spec.fence
        if source is None:
            return True
        try:
            async with asyncio.timeout_at(min(self.trusted_until, max(until, self._loop.time() + 0.1))):
                self.token = await source(self.spec.name, self.holder)
        except TimeoutError:
            if self._loop.time() < until:
                return False
            raise NoFence(self.spec.name, "its source did not answer in time") from None
        self.service.counts["tokens"] += 1
        # Only a holder that had the lease all the time since before its append may use the token: else one that took
        # the lock in between has a smaller one, and would be refused although it came later.
        try:
            return await self._renew()
        except RedisUnavailable:
            self._unsure = True
            return False

    # --- holding ------------------------------------------------------------------------------------------------------

    def _trust(self, sent: float) -> None:
        self.trusted_until = sent + self.spec.ttl * TRUSTED
        self._renew_at = sent + self.spec.ttl * RENEWED

    async def _renew(self) -> bool:
        sent = self._loop.time()
        if not await self.service.run(scripts.RENEW, self._keys[:1], [self.holder, self.ttl_ms]):
            return False
        self._trust(sent)
        return True

    def _watch(self) -> None:
        # A timer and no task: most locks are given back before the first renewal is due.
        self._timer = self._loop.call_at(self._renew_at, self._start_renewal)

    def _start_renewal(self) -> None:
        self._renewal = self._loop.create_task(self._keep(), name=f"rookery-renew-{self.spec.name}")

    async def _keep(self) -> None:
        """Renew once, trying until the lease is not to be trusted any more; then end the body."""
        attempt, why = 0, "it could not be renewed in time"
        try:
            while True:
                async with asyncio.timeout_at(self.trusted_until):
                    try:
                        if await self._renew():
                            self._watch()
                            return
                        why = "Redis has it no more (ttl over, or Redis was emptied or replaced)"
                        break
                    except RedisUnavailable as error:
                        why = f"it could not be renewed in time: {error.why}"
                    await asyncio.sleep(min(backoff(attempt), self.spec.ttl / 10))
                    attempt += 1
        except TimeoutError:
            pass
        except RookeryError as error:
            why = str(error)
        self._lose(why)

    def _lose(self, why: str) -> None:
        self.lost = LockLost(self.spec.name, why)
        self.service.counts["lost"] += 1
        if self._task is not None:
            self._task.cancel(msg=str(self.lost))

    def check(self) -> None:
        """Raise LockLost if the lease is not to be trusted any more, such as after this process was frozen."""
        if self.lost is not None:
            raise self.lost
        if self._loop.time() >= self.trusted_until:
            raise LockLost(self.spec.name, "this process was held up for longer than its ttl")

    # --- giving back --------------------------------------------------------------------------------------------------

    async def give_back(self, error: BaseException | None) -> None:
        """End the lease as the body ended; raises LockLost if it may have been lost while the body ran."""
        self.service.held -= 1
        if self._timer is not None:
            self._timer.cancel()
        if self._renewal is not None and not self._renewal.done():
            self._renewal.cancel()
            self._unsure = True
        if self.lost is not None:
            self._in_background()
            await self._account_for_cancel(error)
            return
        late = self._loop.time() >= self.trusted_until
        try:
            was_ours = await self._release()
        except RedisUnavailable:
            # It ends with its ttl anyway; trying again only lets others in sooner.
            self.service.counts["stuck_releases"] += 1
            self._in_background()
            was_ours = not late
        except BaseException:
            self._in_background()
            raise
        if not was_ours:
            self.service.counts["lost"] += 1
            if error is None:
                raise LockLost(self.spec.name, "when it was given back it was not ours any more")

    async def _account_for_cancel(self, error: BaseException | None) -> None:
        """Turn the cancellation that we caused into LockLost, and only that one; as asyncio.timeout does."""
        task, lost = self._task, self.lost
        if task is None or lost is None:
            return
        cancelled = error if isinstance(error, asyncio.CancelledError) else None
        if cancelled is None:
            # The body may have ended before it saw the cancellation, which is then still to come.
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError as late:
                cancelled = late
        if task.uncancel() > self._cancels_before and cancelled is not None:
            raise cancelled  # by somebody else, too
        if error is None or error is cancelled:
            raise lost from error

    async def _release(self) -> bool:
        return bool(await self.service.run(scripts.RELEASE, self._keys, [self.holder, GONE_MS if self._unsure else 0]))

    async def _abandon(self) -> None:
        self._unsure = True
        cleanup = self._in_background()
        # Cancelled again: it goes on without us.
        await asyncio.wait((cleanup,), timeout=CLEANUP_SECONDS)

    def _in_background(self) -> asyncio.Task[Any]:
        self._unsure = True
        return self.service.in_background(self._clean_up(), f"rookery-release-{self.spec.name}")

    async def _clean_up(self) -> None:
        """Release, trying until the lease would have ended by itself."""
        until = self._loop.time() + self.spec.ttl
        attempt = 0
        while True:
            try:
                await self._release()
            except RedisUnavailable:
                if self._loop.time() < until:
                    await asyncio.sleep(backoff(attempt))
                    attempt += 1
                    continue
            except RookeryError:  # whoever waits for the lease is told the same
                pass
            return
