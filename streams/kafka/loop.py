"""The event loop of a worker: uvloop's where that can be installed (not on Windows), else asyncio's own."""

from __future__ import annotations

import asyncio
import time
import warnings
from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError

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

    _send = AIOKafkaConnection.send

    def _send_or_say_why(self: Any, request: Any, expect_response: bool = True) -> Any:
        # A connection that broke a moment ago is a RuntimeError here, where asyncio says nothing or OSError. It would
        # end the task that keeps aiokafka's metadata fresh, and no broker that moves is ever found again.
        try:
            return _send(self, request, expect_response)
        except RuntimeError as error:
            self.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"Connection at {self.host}:{self.port} broken: {error}") from error

    AIOKafkaConnection.send = _send_or_say_why  # for every client of this process


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
