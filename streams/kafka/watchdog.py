"""Ends a process whose event loop is stuck, or whose planned stop takes too long: a thread beside the loop.

Heartbeats to the group come from aiokafka's own thread, so a worker whose loop is stuck (a handler that computes or
blocks without awaiting) keeps its partitions for ever and does nothing for them. Past the session timeout the stacks of
all threads are written to the log and the process ends; the group then hands its partitions on as after a crash.

Time is counted in looks of this thread, not by the clock: a process that was frozen (SIGSTOP, a suspended machine) has
not been stuck, and what it missed is decided by the leases. A thread that holds the interpreter's lock stops this one,
the heartbeats as well, and the group then finds out by itself.
"""

import asyncio
import contextlib
import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

EXIT_STUCK: Final = 70
"""The process's exit code when its event loop was stuck for longer than the session timeout."""
EXIT_OVERDUE: Final = 75
"""The process's exit code when a planned stop was cut off: its last bound had run out."""

# Between two looks, seconds. The loop shows itself as often, and is late from the second missed look on.
LOOK = 0.25
# The log's own lock may be held by the thread that is stuck; seconds.
LOG_PATIENCE = 1.0


class Vigil:
    """Counts for how long nothing was seen: `seen` is called by the loop, `look` by the watching thread."""

    def __init__(self, period: float) -> None:
        self._period = period
        self._looks = 0

    def seen(self) -> None:
        """The loop lives."""
        self._looks = 0

    def look(self) -> float:
        """Seconds in which the loop could have run and did not."""
        self._looks += 1
        return (self._looks - 1) * self._period


class Watchdog:
    """Watches an event loop from a thread; `session_timeout` in seconds is how long the loop may be stuck."""

    def __init__(self, session_timeout: float, leave: Callable[[int], object] = os._exit) -> None:
        """`leave(code)` ends the process without a clean-up that could get stuck, too."""
        self.late = 0.0  # seconds by which the loop is behind, as of the last look
        self.late_max = 0.0  # the most since it was asked for
        self._stuck = self._stuck_at = 0.0
        self._bound = session_timeout
        self._leave = leave
        self._vigil = Vigil(LOOK)
        self._stop_looks: int | None = None  # left until a planned stop is cut off
        self._done = threading.Event()
        self._beat: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to watch; call it on the loop."""
        loop = asyncio.get_running_loop()
        self._show(loop)
        threading.Thread(target=self._run, args=(loop,), name="rookery-watchdog", daemon=True).start()

    def close(self) -> None:
        """Stop watching; call it on the loop."""
        self._done.set()
        if self._beat is not None:
            self._beat.cancel()

    def stop_within(self, seconds: float) -> None:
        """A planned stop has begun and must be over by then; a later call only shortens it."""
        looks = max(1, round(seconds / LOOK))
        self._stop_looks = looks if self._stop_looks is None else min(looks, self._stop_looks)

    def recently_late(self) -> float:
        """How long the loop was stuck lately, if that was longer than a third of the bound; else 0. Remembered for as
        long as the bound, since a page that the loop serves can only tell of it afterwards."""
        return self._stuck if self._stuck and time.monotonic() - self._stuck_at < self._bound else 0.0

    def take_late_max(self) -> float:
        """The most seconds by which the loop was late since the last call."""
        late, self.late_max = self.late_max, 0.0
        return late

    def _show(self, loop: asyncio.AbstractEventLoop) -> None:
        self._vigil.seen()
        self._beat = loop.call_later(LOOK, self._show, loop)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._done.wait(LOOK):
            self.late = 0.0 if loop.is_closed() else self._vigil.look()
            self.late_max = max(self.late_max, self.late)
            if self.late > self._bound / 3:
                self._stuck, self._stuck_at = self.late, time.monotonic()
            if self.late >= self._bound:
                self._end(EXIT_STUCK, f"the event loop was stuck for {self.late:.0f} s: this process ends")
                return
            if self._stop_looks is not None:
                self._stop_looks -= 1
                if self._stop_looks <= 0:
                    self._end(EXIT_OVERDUE, "the planned stop took too long: this process ends")
                    return

    def _end(self, code: int, why: str) -> None:
        teller = threading.Thread(target=log.critical, args=("%s; the stacks of all threads follow", why), daemon=True)
        teller.start()
        teller.join(LOG_PATIENCE)
        # Written without a lock or memory, to where the log goes.
        handlers = logging.getLogger().handlers
        streams = [h.stream for h in handlers if isinstance(h, logging.StreamHandler)] or [sys.__stderr__]
        for stream in streams:
            with contextlib.suppress(Exception):  # a stream without a file
                faulthandler.dump_traceback(stream, all_threads=True)
        self._leave(code)
