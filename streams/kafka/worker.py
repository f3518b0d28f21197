"""Faust's worker with a bounded stop: the first signal drains, the second hurries, and nothing outlives the bound."""

from __future__ import annotations

import signal as signals
from typing import TYPE_CHECKING, Final, cast

import faust

if TYPE_CHECKING:
    from rookery.streams.kafka.app import App

STOP_GRACE: Final = 25.0
"""Seconds that a planned stop may take beyond `drain_timeout`: committing, leaving the group, disconnecting."""
HURRY: Final = 8.0
"""Seconds that are left after the second signal."""


class Worker(faust.Worker):
    """See the head of this module."""

    def _schedule_shutdown(self, signal: signals.Signals) -> None:
        service = cast("App", self.app).engine_service
        if self._signal_stop_time:
            self.log.warning("Signal received again: %s: not waiting for handlers any more", signal.name)
            service.hurry(HURRY)
        else:
            service.stop_within(service.settings.drain_timeout + STOP_GRACE)
        super()._schedule_shutdown(signal)
