"""Faust's worker with a bounded stop: the first signal drains, the second hurries, and nothing outlives the bound.

A start that is refused ends with what is wrong in one line and exit code 2, as bad settings do.
"""

from __future__ import annotations

import asyncio
import signal as signals
from typing import TYPE_CHECKING, Final, NoReturn, cast

import faust
import mode

from rookery.schemas.errors import RookeryError

if TYPE_CHECKING:
    from rookery.streams.kafka.app import App

STOP_GRACE: Final = 25.0
"""Seconds that a planned stop may take beyond `drain_timeout`: committing, leaving the group, disconnecting."""
HURRY: Final = 8.0
"""Seconds that are left after the second signal."""
SETTLE: Final = 0.05
"""Seconds for connections that are being closed, before the loop is."""
EXIT_REFUSED: Final = 2
"""The process's exit code when its start was refused by a typed error."""


class Ending(mode.Worker):
    """What runs a worker or a command, without the second that it sleeps at its end."""

    async def _sentinel_task(self) -> None:
        await asyncio.sleep(SETTLE)


class Worker(Ending, faust.Worker):
    """See the head of this module."""

    _refused = False

    async def start(self) -> None:
        """Start all services; says why if one of them refuses."""
        try:
            await super().start()
        except RookeryError as error:
            self._refused = True
            self.log.error("%s", error)  # noqa: TRY400 - the traceback follows at debug
            self.log.debug("the start was refused here", exc_info=error)
            raise asyncio.CancelledError from None  # what Faust stops after without a traceback

    def execute_from_commandline(self) -> NoReturn:
        """Run until the worker stops, then end the process."""
        try:
            super().execute_from_commandline()
        except SystemExit:
            if self._refused:
                raise SystemExit(EXIT_REFUSED) from None
            raise

    def _schedule_shutdown(self, signal: signals.Signals) -> None:
        service = cast("App", self.app).engine_service
        if self._signal_stop_time:
            self.log.warning("Signal received again: %s: not waiting for handlers any more", signal.name)
            service.hurry(HURRY)
        else:
            service.stop_within(service.settings.drain_timeout + STOP_GRACE)
        super()._schedule_shutdown(signal)
