"""What an engine does now and then: progress without turns, long turns, idle agents, leases that are due."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from rookery.streams.core.mailbox import Mailbox
from rookery.streams.engine.adoption import Adoption

if TYPE_CHECKING:
    from rookery.streams.engine.engine import Engine

log = logging.getLogger(__name__)

# Between two rounds, seconds.
TICK_SECONDS = 0.5
# A recovery that takes long says how far it is this often, in seconds.
RECOVERY_TOLD_SECONDS = 5.0


def _used_at(mailbox: Mailbox) -> float:
    return mailbox.used_at


class Housekeeping:
    """See the head of this module."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._adoption = Adoption(engine.settings.adopt_after)
        self._passivation: asyncio.Task[None] | None = None

    def long_turns(self) -> set[int]:
        """Partitions with turns in flight that have run for a while."""
        return self._adoption.long_turns()

    async def run(self) -> None:
        """Go round for ever."""
        engine, clock, told_at = self._engine, asyncio.get_running_loop().time, float("-inf")
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = clock()
            engine.inbound.expire_unborn(now)
            self._adoption.look(engine.running_partitions(), now)
            engine.failures.release_orphans(engine.running_partitions())
            engine.flush(progress_due=True)
            for ownership in engine.ownerships:
                ownership.renew_if_due(now)
            if now - told_at >= RECOVERY_TOLD_SECONDS and (recovery := engine.recovery())["partitions"]:
                told_at = now
                log.info(
                    "recovering %(partitions)d partitions: %(left)d offsets left, %(rate).0f/s, %(seconds_left).1f s",
                    recovery,
                )
            if self._passivation is None or self._passivation.done():
                # Hooks are users' code and may take their time; nothing above may wait for them.
                self._passivation = asyncio.create_task(self._passivate(now), name="rookery-passivate")
                self._passivation.add_done_callback(engine.watch)

    def close(self) -> None:
        """Stop passivating."""
        if self._passivation is not None:
            self._passivation.cancel()

    async def _passivate(self, now: float) -> None:
        """Free the memory of agents that were idle for `passivate_after`, or the longest if there are too many."""
        engine = self._engine
        settings, partitions = engine.settings, engine.running_partitions()
        live = sum(len(partition.mailboxes) for partition in partitions)
        for partition in partitions:
            excess = live > settings.activations_max
            for mailbox in sorted((m for m in partition.mailboxes.values() if m.idle), key=_used_at):
                if mailbox.closed or not mailbox.idle:  # hooks of others were awaited meanwhile
                    continue
                if now - mailbox.used_at >= settings.passivate_after or excess:
                    live -= 1
                    excess = live > settings.activations_max
                    await engine.turns.passivate(partition, mailbox)
                    if len(mailbox):
                        engine.queue.push_waiting(mailbox)
                        engine.pool.wake()
