"""One partition that this worker was assigned, through its life:

    RECOVERING ──recovered──> RUNNING ──lost lease──> CONFIRMING ──still ours──> RECOVERING
        └───────────────────────┴── revoked, stopped, given up ──> CLOSED

A refused, late or unknown append never gets repaired in place: memory is dropped, handlers are cancelled, and the
partition is recovered from the journal, once the group has confirmed that it is still ours (else two workers would
fence each other in turns).
"""

from __future__ import annotations

import asyncio
import enum
import logging
from typing import TYPE_CHECKING, Any

from rookery.schemas.errors import WrongTopic
from rookery.schemas.journal import Claim
from rookery.schemas.partition_errors import JournalError, LeaseLost, StoreDamaged, StoreFailed, WrongPosition
from rookery.streams.core.batch import CommitBatch, NotContiguous
from rookery.streams.core.fold import JournalFold
from rookery.streams.core.partition import Partition
from rookery.streams.core.store import Store
from rookery.streams.engine.recovery import Owned, recover
from rookery.streams.log import Lease

if TYPE_CHECKING:
    from rookery.streams.engine.engine import Engine

log = logging.getLogger(__name__)

# A recovery that fails is tried again with doubled delays (seconds) this often, then the worker gives up.
ATTEMPTS_MAX, RETRY_FIRST, RETRY_MAX = 12, 0.1, 5.0
# Trying again does not mend these.
HOPELESS = (WrongPosition, WrongTopic, JournalError, StoreFailed)
# The group did not confirm an assignment, nor take it away: it is asked again after this; seconds.
CONFIRM_AGAIN = 1.0


class Phase(enum.Enum):
    """See the head of this module."""

    RECOVERING = "recovering"
    RUNNING = "running"
    CONFIRMING = "confirming"
    CLOSED = "closed"


class Ownership:
    """The life of one assigned partition; `partition` is set while it is running."""

    def __init__(self, engine: Engine, number: int, generation: int, worker: str, copy: Store | None = None) -> None:
        """`copy` is the store of a standby that is promoted."""
        self.number = number
        self.phase = Phase.RECOVERING
        self.partition: Partition | None = None
        self._engine = engine
        self._generation = generation
        self._worker = worker
        self._lease: Lease | None = None
        self._claimed_at = 0.0
        self._written_at = 0.0
        self._task: asyncio.Task[None] | None = None  # recovery or confirmation
        self._append: asyncio.Task[None] | None = None  # the batch in flight
        self._verifying = False
        self._copy = copy
        self._fold: JournalFold | None = None  # of the recovery that runs, since when
        self._fold_at = 0.0
        self._failures = 0  # leases lost and recoveries failed since the last acknowledged batch

    @property
    def is_settled(self) -> bool:
        """Whether all that turns have done is committed and sent."""
        partition = self.partition
        return partition is None or (
            partition.flight is None and not partition.finished and partition.outbox.is_empty and partition.is_written
        )

    @property
    def is_quiet(self) -> bool:
        """Whether it is running, and everything that was fetched is handled, committed and sent."""
        partition = self.partition
        return (
            partition is not None
            and self.is_settled
            and partition.ledgers.is_quiet
            and all(lane.prefix == lane.next for lane in partition.lanes)
        )

    def statistics(self) -> dict[str, Any]:
        """Phase and sizes."""
        partition = self.partition
        if partition is None:
            return {"phase": self.phase.value, **self._progress()}
        return {
            "phase": self.phase.value,
            "agents": len(partition.store),
            "live": len(partition.mailboxes),
            "parked": partition.ledgers.parked_count,
            "window": [lane.fetched_count for lane in partition.lanes],
            "finished": len(partition.finished),
            "unsent_slots": partition.outbox.next_slot - 1 - partition.outbox.sent_through,
        }

    def _progress(self) -> dict[str, float]:
        """Of the recovery that runs: offsets left, offsets per second and seconds left, 0 until something is read."""
        fold = self._fold
        if fold is None or fold.stop is None:
            return {}
        seconds = asyncio.get_running_loop().time() - self._fold_at
        rate = (fold.offset - fold.start) / seconds if seconds > 0 else 0.0
        left = fold.stop - fold.offset
        return {"left": left, "rate": rate, "seconds_left": left / rate if rate else 0.0}

    # -- phases -------------------------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Claim the journal partition and rebuild it, in the background."""
        self._start(confirmed=True)

    def _start(self, confirmed: bool) -> None:
        self._task = asyncio.create_task(self._regain(confirmed), name=f"rookery-recover-{self.number}")
        self._task.add_done_callback(self._engine.watch)

    async def _regain(self, confirmed: bool) -> None:
        """Recover, however often another worker gets in between; ends with `drop` if the partition moves away."""
        engine = self._engine
        if self._failures >= ATTEMPTS_MAX:
            raise LeaseLost(self.number, f"{self._failures} times in a row, without a commit in between")
        if self._failures > 1:
            await asyncio.sleep(min(RETRY_FIRST * 2**self._failures, RETRY_MAX))
        limits, settings = engine.inbound.limits, engine.settings
        owned: Owned | None = None
        while owned is None:
            claim = Claim(generation=self._generation, worker=self._worker, partitions=settings.partitions)
            try:
                if not confirmed:
                    self.phase = Phase.CONFIRMING
                    while not await engine.port.confirm_assignment(self.number):  # noqa: ASYNC110 - asks the group
                        await asyncio.sleep(CONFIRM_AGAIN)
                self.phase = Phase.RECOVERING
                inboxes = engine.router.topics.inboxes
                owned = await recover(engine.port, self.number, limits, claim, inboxes, self._open_fold)
            except Exception as error:
                self._failures += 1
                self._fold = None
                log.warning("recovery of partition %d failed (%d): %s", self.number, self._failures, error)
                if self._failures >= ATTEMPTS_MAX or isinstance(error, HOPELESS):
                    raise
                confirmed = False
                await asyncio.sleep(min(RETRY_FIRST * 2**self._failures, RETRY_MAX))
        self._fold = None
        self.partition, self._lease = owned.partition, owned.lease
        self._claimed_at = self._written_at = asyncio.get_running_loop().time()
        self.phase = Phase.RUNNING
        engine.counts["recoveries"] += 1
        engine.shipper.put(owned.unsent)
        engine.inbound.opened(owned.partition)
        self.commit()

    async def verify(self, generation: int) -> None:
        """After a rebalance that left the partition here: it is kept if and only if the journal ends where our last
        record does, else somebody else wrote to it and it is recovered. Turns go on meanwhile, appends wait."""
        self._generation = generation
        partition = self.partition
        if partition is None:
            return
        self._verifying = True
        try:
            if self._append is not None:
                await asyncio.wait([self._append])
            if partition.closed:
                return
            end = await self._engine.port.journal_end(self.number)
            if partition.closed:
                return
            if end == partition.last + 1:
                self._engine.inbound.kept(partition)
            else:
                self.lost(f"the journal ends at {end}, our last record is {partition.last}")
        except Exception as error:
            if not partition.closed:
                self.lost(f"its journal can't be read: {error}")
        finally:
            self._verifying = False
        self.commit()

    def lost(self, why: str) -> None:
        """The lease is, or may be, gone: drop everything; recover if the partition turns out to be still ours."""
        if self.phase is not Phase.RUNNING or self.partition is None:
            return
        log.warning("lost the lease of partition %d: %s", self.number, why)
        self._engine.counts["lost_leases"] += 1
        self._close()
        self._failures += 1
        self._start(confirmed=False)

    def _open_fold(self) -> JournalFold:
        """Where the copy of a standby stands, once, else what is left of the store."""
        store, self._copy = self._copy, None
        if store is None:
            store = self._engine.open_store(self.number)
        store.broken = self._broken
        self._fold, self._fold_at = JournalFold(store), asyncio.get_running_loop().time()
        return self._fold

    def _broken(self, error: Exception) -> None:
        """The store failed."""
        self.lost(str(error))

    def drop(self, why: str) -> None:
        """The partition is not ours any more."""
        log.info("partition %d closed: %s", self.number, why)
        self.phase = Phase.CLOSED
        self._close()
        for task in (self._task, self._append):
            if task is not None and task is not asyncio.current_task():
                task.cancel()

    def _close(self) -> None:
        if self.partition is not None:
            self._engine.inbound.closed(self.partition)
            for mailbox in self.partition.close():
                # Not the one that finds the store damaged: it would be the next turn of that runner that is cancelled.
                if mailbox.runner is not None and mailbox.runner is not asyncio.current_task():
                    mailbox.runner.cancel()
            self.partition.store.close()
            self.partition = None
        if self._copy is not None:
            self._copy.close()
            self._copy = None
        self._lease = self._fold = None

    def renew_if_due(self, now: float) -> None:
        """Acquire anew at least daily: producer ids expire and epochs are short. Waits for a moment without turns, up
        to half as long again, since a renewal drops what is not committed."""
        if self.partition is None:
            return
        age, due = now - self._claimed_at, self._engine.settings.lease_renewal
        if age < due:
            return
        if age >= due * 1.5 or (self.is_settled and all(m.idle for m in self.partition.mailboxes.values())):
            self.lost("time to renew it")

    # -- commits ------------------------------------------------------------------------------------------------------

    def commit(self, progress_due: bool = False) -> None:
        """Start the next commit batch, if something is due and none is in flight."""
        partition, lease = self.partition, self._lease
        if partition is None or lease is None or partition.flight is not None or self._verifying:
            return
        now = asyncio.get_running_loop().time()
        refresh = now - self._written_at >= self._engine.settings.position_refresh
        try:
            batch = partition.build(progress_due, refresh)
        except Exception as error:
            # A defect; what was half built must not be committed by the next batch.
            log.exception("building a commit batch of partition %d failed", self.number)
            self.lost(repr(error))
            return
        if batch is not None:
            self._written_at = now
            self._append = asyncio.create_task(self._commit(partition, lease, batch), name="rookery-commit")

    async def _commit(self, partition: Partition, lease: Lease, batch: CommitBatch) -> None:
        try:
            base = await lease.append(batch.records.items(), partition.lease_number)
            if partition.closed:
                return
            released = partition.acked(base)
        except Exception as error:
            if not isinstance(error, LeaseLost | NotContiguous | StoreDamaged | StoreFailed):
                # A defect, not a fault of the log: the outcome is unknown all the same.
                log.exception("commit of partition %d failed", self.number)
            self._engine.counts["refused_appends"] += 1
            if not partition.closed:
                self.lost(str(error) or repr(error))
            return
        finally:
            if self._append is asyncio.current_task():
                self._append = None
        self._failures = 0
        self._engine.commits.add(batch.turns, asyncio.get_running_loop().time() - self._written_at)
        self._engine.shipper.put(released)
        self._engine.inbound.progressed(partition)
        self._engine.committed_batch(self, len(batch.turns))
