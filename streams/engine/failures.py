"""What becomes of a turn that failed: tried again after a back-off, skipped, given up, or its agent paused.

An agent that waits is *held*: its message stays at the head of its lane, so order within the agent is kept, and nobody
else waits, since a message that is held for long is adopted by the journal (`adoption`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial

import msgspec

from rookery.agents.effects import error_body
from rookery.agents.supervision import Policy, Supervision
from rookery.schemas.cells import Parked, Pause, Place, decode_cell, encode_cell, parked_key, pause_key
from rookery.streams.core.batch import Finished
from rookery.streams.core.ledger import park
from rookery.streams.core.mailbox import Item, Mailbox
from rookery.streams.core.partition import Partition
from rookery.streams.core.routing import Router
from rookery.streams.core.runqueue import RunQueue
from rookery.streams.engine.deadletters import DeadLetters, reason_of, text_of

log = logging.getLogger(__name__)

_DEFAULT = Supervision()  # of messages that never reached an agent


class Failures:
    """Decides by the supervision of the agent's class, and holds and releases agents."""

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of an engine that meet here
        self,
        dead_letters: DeadLetters,
        router: Router,
        queue: RunQueue,
        wake: Callable[[], None],
        commit_soon: Callable[[], None],
        now_ns: Callable[[], int],
        new_id: Callable[[], str],
        chance: Callable[[], float],
    ) -> None:
        """`now_ns` is the wall clock; `chance` from 0 to 1 spreads the back-offs."""
        self._dead_letters = dead_letters
        self._router = router
        self._queue = queue
        self._wake = wake
        self._commit_soon = commit_soon
        self._now_ns = now_ns
        self._new_id = new_id
        self._chance = chance
        self._loop = asyncio.get_running_loop()
        self.counts = {"retries": 0, "skipped": 0, "pauses": 0}

    def failed(
        self, partition: Partition, mailbox: Mailbox, lane: int, item: Item, error: BaseException
    ) -> Finished | None:
        """The effects of a message that is given up; None if its turn is not over: the agent is held."""
        supervision = _DEFAULT if mailbox.kind is None else mailbox.kind.supervision
        attempts = (0 if mailbox.ledger is None else mailbox.ledger.attempts) + 1
        policy = supervision.policy(error, attempts)
        if policy is Policy.RETRY:
            delay = supervision.delay(error, attempts, self._chance())
            self._retry(partition, mailbox, lane, item, attempts, delay)
            log.info("%s failed (%d), again in %.2f s: %r", mailbox.address, attempts, delay, error)
            return None
        if policy is Policy.PAUSE:
            self._put_back(partition, mailbox, lane, item, attempts)
            self.pause(partition, mailbox, lane, item.offset, text_of(error))
            return None
        if policy is Policy.SKIP:
            self.counts["skipped"] += 1
            log.info("%s skipped a message: %r", mailbox.address, error)
            envelope = item.envelope
            reply = error_body(
                envelope, reason_of(error), text_of(error), now_ns=self._now_ns(), message_id=self._new_id()
            )
            sent = () if reply is None else (self._router.sent(reply),)
            return Finished(mailbox, lane, item.offset, None, sent)
        return self._dead_letters.finished(partition, lane, item, error, mailbox, attempts)

    def _put_back(self, partition: Partition, mailbox: Mailbox, lane: int, item: Item, attempts: int) -> None:
        ledger = partition.ledgers.open(mailbox)
        ledger.attempts = attempts
        if mailbox.context is not None:
            mailbox.context.attempt = attempts
        mailbox.lanes[lane].appendleft(item)
        mailbox.first_lane = lane
        gone = ledger.forget_failures(mailbox.address, Place(lane, item.offset))
        if gone:
            partition.finish(Finished(mailbox, lane, item.offset, None, (), cells=gone, ends=False))

    def _retry(
        self, partition: Partition, mailbox: Mailbox, lane: int, item: Item, attempts: int, delay: float
    ) -> None:
        self._put_back(partition, mailbox, lane, item, attempts)
        ledger, place = partition.ledgers.open(mailbox), Place(lane, item.offset)
        ledger.delay = int(delay * 1e9)
        ledger.not_before = self._now_ns() + ledger.delay
        if ledger.is_parked(place):
            cells = {parked_key(mailbox.address, place): park(item, ledger)}
            partition.finish(Finished(mailbox, lane, item.offset, None, (), cells=cells, ends=False))
        self.counts["retries"] += 1
        self.hold(mailbox, delay)
        self._commit_soon()

    def hold(self, mailbox: Mailbox, delay: float) -> None:
        """Start no turn of this agent for `delay` seconds."""
        mailbox.held = True
        self._loop.call_later(delay, self.release, mailbox)

    def release(self, mailbox: Mailbox) -> None:
        """Let an agent run again, unless it is paused."""
        if mailbox.closed:
            return
        if (ledger := mailbox.ledger) is not None and (ledger.paused or (ledger.place and mailbox.first_lane is None)):
            return  # paused, or the message of its begun turn is not here yet
        mailbox.held = False
        self._queue.push_waiting(mailbox)
        self._wake()

    def release_orphans(self, partitions: Iterable[Partition]) -> None:
        """Let agents go on that wait for a message which the log has lost since its turn began."""
        for partition in partitions:
            for mailbox, gone in partition.ledgers.orphans([lane.prefix for lane in partition.lanes]):
                partition.finish(Finished(mailbox, 0, 0, None, (), cells=gone, ends=False))
                self.release(mailbox)

    def pause(self, partition: Partition, mailbox: Mailbox, lane: int, offset: int, why: str) -> None:
        """Hold an agent until it is resumed, over restarts, too; its messages go to the journal."""
        self.counts["pauses"] += 1
        log.warning("%s is paused until it is resumed: %s", mailbox.address, why)
        partition.ledgers.open(mailbox).paused = True
        mailbox.held = True
        cells = {pause_key(mailbox.address): encode_cell(Pause(why[:1_000], self._now_ns()))}
        partition.finish(Finished(mailbox, lane, offset, None, (), cells=cells, ends=False))
        partition.ledgers.request(mailbox)
        self._commit_soon()

    def resume(self, partition: Partition, mailbox: Mailbox, lane: int, offset: int) -> None:
        """End a pause; the message in hand then has all its attempts again."""
        ledger = partition.ledgers.open(mailbox)
        ledger.paused, ledger.attempts, ledger.not_before, ledger.delay = False, 0, 0, 0
        if mailbox.context is not None:
            mailbox.context.attempt = 0
        cells: dict[bytes, bytes | None] = {pause_key(mailbox.address): None}
        if (first := mailbox.first_lane) is not None and mailbox.lanes[first]:
            place = Place(first, mailbox.lanes[first][0].offset)
            if ledger.is_parked(place):
                key = parked_key(mailbox.address, place)
                parked = decode_cell(partition.cell(key) or b"", Parked)
                if parked.attempts:
                    cells[key] = encode_cell(msgspec.structs.replace(parked, attempts=0, not_before=0))
        # Only then, since its next turn reads the cell.
        acked = partial(self.release, mailbox)
        partition.finish(Finished(mailbox, lane, offset, None, (), cells=cells, ends=False, acked=acked))
        self._commit_soon()
