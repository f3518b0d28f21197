"""What an engine does now and then: progress without turns, long turns, idle agents, leases that are due."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from rookery.streams.core import loops
from rookery.streams.engine.adoption import Adoption

if TYPE_CHECKING:
    from rookery.streams.engine.engine import Engine

log = logging.getLogger(__name__)

# Between two rounds, seconds.
TICK_SECONDS = 0.5
# Agents that are sent away before turns go on.
AT_ONCE = 1_000
# A recovery that takes long says how far it is this often, in seconds.
RECOVERY_TOLD_SECONDS = 5.0


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
        """Stop passivating, and forget the agents."""
        self._adoption.look((), 0.0)
        if self._passivation is not None:
            self._passivation.cancel()

    async def _passivate(self, now: float) -> None:
        """Free the memory of agents that were idle for `passivate_after`, or the longest if there are too many."""
        engine = self._engine
        settings, partitions = engine.settings, engine.running_partitions()
        excess = sum(len(partition.mailboxes) for partition in partitions) - settings.activations_max
        for partition in partitions:
            partition.room = len(partition.mailboxes) - excess // len(partitions)
        found = loops.idle([partition.mailboxes for partition in partitions], now - settings.passivate_after, excess)
        for partition, idle in zip(partitions, found, strict=True):
            while idle:
                left = max(len(idle) - AT_ONCE, 0)
                while (mailbox := loops.forget(partition.mailboxes, idle, left, now)) is not None:
                    await engine.turns.passivate(partition, mailbox)
                    if len(mailbox):
                        engine.queue.push_waiting(mailbox)
                        engine.pool.wake()
                await asyncio.sleep(0)
