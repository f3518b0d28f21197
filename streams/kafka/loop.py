"""The event loop of a worker: uvloop's where that can be installed (not on Windows), else asyncio's own."""

from __future__ import annotations

import asyncio
import functools
import time
import warnings
from collections.abc import Callable
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

    def _saying_why(send: Callable[..., Any]) -> Callable[..., Any]:
        # A connection that broke a moment ago is a RuntimeError here, where asyncio says nothing or OSError. It would
        # end the task that keeps aiokafka's metadata fresh, and no broker that moves is ever found again.
        @functools.wraps(send)
        def sending(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return send(self, *args, **kwargs)
            except RuntimeError as error:
                if type(error) is not RuntimeError or not self._writer.transport.is_closing():
                    raise  # of the request, not of the connection
                self.close(reason=CloseReason.CONNECTION_BROKEN)
                raise KafkaConnectionError(f"Connection at {self.host}:{self.port} broken: {error}") from error

        return sending

    # For every client of this process.
    AIOKafkaConnection.send = _saying_why(AIOKafkaConnection.send)
    AIOKafkaConnection._send_sasl_token = _saying_why(AIOKafkaConnection._send_sasl_token)


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
