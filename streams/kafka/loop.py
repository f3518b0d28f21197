"""The event loop of a worker: uvloop's where it can be installed (not on Windows), else asyncio's own."""

from __future__ import annotations

import asyncio
import time
import warnings

try:
    import uvloop
except ImportError:

    def prefer_uvloop() -> bool:
        """There is none here."""
        return False

else:

    class Loop(uvloop.Loop):
        """uvloop's loop with an exact clock."""

        def time(self) -> float:
            """Seconds. uvloop's own counts whole milliseconds and stands still during a callback: a runner's slice
            would never end, and a guarded block that held up the loop would not notice how late it is. Its timers are
            set by this method, too.
            """
            return time.monotonic()

    class Policy(uvloop.EventLoopPolicy):  # type: ignore[misc]  # untyped, since Python 3.14 knows them no more
        """Makes such loops."""

        def _loop_factory(self) -> uvloop.Loop:
            return Loop()

    def prefer_uvloop() -> bool:
        """Let loops that are made from now on in this process be uvloop's; False if it is not installed."""
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # from Python 3.14 on; Faust asks the policy for its loop
            asyncio.set_event_loop_policy(Policy())
        return True
