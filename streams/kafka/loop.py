"""The event loop of a worker: uvloop's where that can be installed (not on Windows), else asyncio's own."""

from __future__ import annotations

import asyncio
import time
import warnings

from rookery.ops.settings import Settings

_fast: asyncio.AbstractEventLoopPolicy | None = None

try:
    import uvloop
except ImportError:
    pass
else:

    class _Loop(uvloop.Loop):
        # uvloop's own counts whole milliseconds and stands still during a callback: a runner's slice would never
        # end, and a guarded block that held up the loop would not notice how late it is. This sets timers, too.
        time = staticmethod(time.monotonic)

    class _Policy(uvloop.EventLoopPolicy):  # type: ignore[misc]  # untyped, since Python 3.14 deprecates them
        def _loop_factory(self) -> uvloop.Loop:
            return _Loop()

    _fast = _Policy()


def choose_loop(settings: Settings) -> None:
    """Say which loops are made from now on in this process."""
    # With TLS uvloop may wait for 30 s to close a connection on which an answer is still to come, as it is on a
    # consumer's: https://github.com/MagicStack/uvloop/issues/471
    tls = settings.broker_tls or (settings.redis_url or "").startswith("rediss")
    if _fast is None or tls or settings.event_loop == "asyncio":
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.14 on; Faust asks the policy for its loop
        asyncio.set_event_loop_policy(_fast)
