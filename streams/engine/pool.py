"""The elastic pool of turn tasks.

A runner takes the next ready mailbox in a plain loop, so a handler that never awaits costs no task switch. When a
handler suspends, the event loop gets to `_kick`, which lets another runner go on with the queue; that is how one slow
agent never holds up another. `asyncio.current_task()`, timeouts and context variables work in handlers as anywhere.
Each turn begins in the context that the engine was made in: a runner ends when a handler has changed its context, since
a context for each turn would cost all turns a task.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from typing import Any

from rookery.streams.core.mailbox import Mailbox
from rookery.streams.core.runqueue import RunQueue

log = logging.getLogger(__name__)

# A runner gives the event loop a turn after this time: fetches, appends and acks wait no longer for it, in seconds.
SLICE_SECONDS = 0.005
# Idle runners kept for the next burst; a task costs about 2 KiB.
IDLE_RUNNERS_MAX = 32


# Why `step` gives no mailbox: nothing is left, the slice is over, a handler has changed the context.
DRAINED, OVER, CHANGED = 0, 1, 2
# A mailbox and the lane of its turn, what is begun of it (else all is still to be done), and now; or None and why.
Stepped = tuple[Mailbox | None, int, Any, float]
# From the runner, its context, now, and the end of its slice.
Step = Callable[[asyncio.Task[None] | None, Context, float, float], Stepped]
# What begins, or goes on with, the turn that `step` gives; returns the time at its end.
RunTurn = Callable[[Mailbox, int, float, Any], Awaitable[float]]


class Pool:
    """Runs turns of queued mailboxes, up to `concurrency_max` at once."""

    def __init__(
        self,
        queue: RunQueue,
        run_turn: RunTurn,
        pause: Callable[[bool], None],
        watch: Callable[[asyncio.Task[None]], None],
        clock: Callable[[], float],
        concurrency_max: int,
        step: Step | None = None,
    ) -> None:
        """`run_turn(mailbox, lane, now, begun)` never raises but on cancellation of the pool;
        `pause(drained)` is called whenever a runner is about to give way: `drained` tells that no ready work is left.
        `watch` is told of ended runners; `clock` is monotonic seconds. `step` runs turns that need no await and says
        which one does (see `_slice.pyx`)."""
        self._queue = queue
        self._run_turn = run_turn
        self._step: Step = step or self._take
        self._pause = pause
        self._watch = watch
        self._clock = clock
        self._concurrency_max = concurrency_max
        self._runners: set[asyncio.Task[None]] = set()
        self._idle: list[asyncio.Future[None]] = []
        self._lent = 0  # turns that gave their slot back
        self._returning: deque[asyncio.Future[None]] = deque()  # those of them that want to go on
        self._armed = False  # a kick is scheduled
        self._yielding = 0  # runners that gave way for one loop turn and go on by themselves
        self.asking_count = 0  # turns that wait for replies of other agents and nothing else
        self._draining = False
        self._closed = False
        self._loop = asyncio.get_running_loop()
        # Of all runners: whoever queues work may be inside a step, or a handler with variables of its own.
        self._context = copy_context()

    @property
    def running_count(self) -> int:
        """Turns that run now (those that wait inside their handlers included)."""
        return len(self._runners) - len(self._idle)

    @property
    def waiting_count(self) -> int:
        """Turns that wait in a step or ask."""
        return self._lent

    @property
    def _has_room(self) -> bool:
        return self.running_count - self._lent < self._concurrency_max

    def give_back(self) -> None:
        """A turn waits for the journal or another agent: somebody else may have its slot."""
        self._lent += 1
        self._let_return()
        self.wake()

    async def take_back(self) -> None:
        """Go on with a turn that gave its slot back, once there is room; those who wait here go before new turns."""
        if self._has_room and not self._returning:
            self._lent -= 1
            return
        waiter = self._loop.create_future()
        self._returning.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                raise
            if waiter in self._returning:
                self._returning.remove(waiter)
            self.forget()
            raise

    def forget(self) -> None:
        """A turn that gave its slot back ends without it: it only tidies up now."""
        self._lent -= 1

    def _let_return(self) -> None:
        while self._returning and self._has_room:
            waiter = self._returning.popleft()
            if not waiter.done():  # else it was cancelled this very moment
                self._lent -= 1
                waiter.set_result(None)

    def statistics(self) -> dict[str, int]:
        """Counts of runners, by what they do."""
        return {
            "runners": len(self._runners),
            "idle": len(self._idle),
            "waiting": self._lent,
            "max": self._concurrency_max,
        }

    def wake(self) -> None:
        """Work was queued: see that somebody takes it, once the current callback is over."""
        if not self._armed and not self._closed:
            self._armed = True
            self._loop.call_soon(self._kick)

    def drain(self) -> None:
        """Start no more turns; those that run go on."""
        self._draining = True

    def _kick(self) -> None:
        """Runs only when no runner holds the event loop: all are idle, suspended in a handler, or yield."""
        self._armed = False
        if self._yielding or self._draining or self._closed or not len(self._queue) or not self._has_room:
            return
        while self._idle:
            waiter = self._idle.pop()
            if not waiter.done():
                waiter.set_result(None)
                return
        if len(self._runners) - self._lent < self._concurrency_max:
            task = self._loop.create_task(self._run(), name="rookery-turns", context=self._context.copy())
            self._runners.add(task)
            task.add_done_callback(self._runners.discard)
            task.add_done_callback(lambda _: self._let_return())
            task.add_done_callback(self._watch)

    async def _run(self) -> None:
        me, clean = asyncio.current_task(), copy_context()
        queue, run_turn, step = self._queue, self._run_turn, self._step
        while not self._closed:
            now = self._clock()
            slice_end = now + SLICE_SECONDS
            while not (self._yielding or self._draining or self._returning) and len(queue):
                if not self._armed:
                    self.wake()
                mailbox, lane, begun, now = step(me, clean, now, slice_end)
                if mailbox is None:
                    if lane == CHANGED:
                        self._leave(me)
                        return
                    if lane == OVER:
                        break
                    continue
                now = await run_turn(mailbox, lane, now, begun)
                mailbox.running = False
                if not mailbox.closed:
                    queue.push_waiting(mailbox)
                context = copy_context()
                try:
                    changed = context != clean
                except Exception:  # what it holds now can't be compared
                    changed = True
                if changed:
                    self._leave(me)
                    return
                clean = context  # the same one is found equal more quickly
                if now >= slice_end:
                    break
            else:
                mailbox = begun = None  # a runner at rest keeps no agent in memory
                if self._yielding or await self._rest():
                    return
                continue
            self._pause(False)
            self._yielding += 1
            try:
                await asyncio.sleep(0)
            finally:
                self._yielding -= 1

    def _take(self, me: asyncio.Task[None] | None, clean: Context, now: float, end: float) -> Stepped:
        """The step without a compiled one: the next mailbox and the lane to serve."""
        work = self._queue.pop()
        if work is None:
            return None, DRAINED, None, now
        mailbox, lane = work
        mailbox.running, mailbox.runner = True, me
        return mailbox, lane, None, now

    def _leave(self, me: asyncio.Task[None] | None) -> None:
        """A handler has changed the context of this runner: others go on."""
        self._pause(not len(self._queue))
        if me is not None:
            me.add_done_callback(lambda _: self.wake())

    async def _rest(self) -> bool:
        """Wait for work; True if this runner is not needed any more."""
        self._pause(True)
        if len(self._idle) >= IDLE_RUNNERS_MAX:
            return True
        waiter = self._loop.create_future()
        self._idle.append(waiter)
        self._let_return()
        await waiter
        return False

    async def close(self, timeout: float) -> None:
        """Cancel all runners and wait up to `timeout` seconds for handlers to end."""
        self._closed = True
        for task in list(self._runners):
            task.cancel()
        if self._runners:
            _, left = await asyncio.wait(self._runners, timeout=timeout)
            if left:
                log.warning("%d handlers ignore their cancellation and are left behind", len(left))
