"""Recovery: from being assigned a journal partition to owning it.

    1. acquire a lease             fences nobody yet
    2. append the claim            from here on every older lease is refused; its offset is the lease's number
    3. fold the journal            from where the store stands up to the own claim, by offset: compaction may have
                                   removed the last record before it
    4. rebuild the window of ids   by reading the inboxes from before the prefix; nothing below the prefix is handled
    5. hand over                   live outbox slots are sent first, then fetching starts at the prefixes

A crash after any step leaves nothing behind but an unused claim.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rookery.schemas.errors import EnvelopeError
from rookery.schemas.journal import CLAIM, Claim, encode_claim
from rookery.streams.core.batch import Limits
from rookery.streams.core.fold import JournalFold, Recovered
from rookery.streams.core.outbox import Destination, Group
from rookery.streams.core.partition import Partition
from rookery.streams.engine.inbound import EnvelopeReader
from rookery.streams.log import Lease, Log

log = logging.getLogger(__name__)


@dataclass
class Owned:
    """A recovered partition, the lease that writes its journal, and the messages that have to be sent first."""

    partition: Partition
    lease: Lease
    unsent: list[tuple[Destination, Group]]

    async def rewrite(self) -> None:
        """Write the position as it is now, with whatever has to be repaired. Raises LeaseLost."""
        batch = self.partition.build(refresh=True)
        if batch is not None:
            await self.lease.append(batch.records.items(), self.partition.lease_number)


async def recover(
    port: Log,
    number: int,
    limits: Limits,
    claim: Claim,
    inboxes: Sequence[str],
    open_fold: Callable[[], JournalFold],
    afresh: bool = False,
) -> Owned:
    """Claim a journal partition and rebuild its state; with `afresh`, void what does not fit the inboxes.

    `open_fold` gives a fold that stands where the local store does. Raises LeaseLost, JournalError, WrongPosition, or
    what log and store raise.
    """
    started = time.perf_counter()
    lease = await port.acquire(number)
    base = await lease.append([(CLAIM, encode_claim(claim))], None)
    fold = open_fold()
    try:
        recovered = await _fold(port, number, fold, base)
        partition = await _rebuild(port, number, limits, recovered, claim.partitions, inboxes, afresh)
    except BaseException:
        fold.store.close()
        raise
    unsent = [released for slot in recovered.unsent for released in partition.release(slot.number, slot.messages)]
    log.info(
        "recovered partition %d: %d agents and cells, %d unsent slots, %d stale records ignored, in %.3f s; "
        "read %d records from offset %d on",
        number,
        len(recovered.store),
        len(recovered.unsent),
        recovered.ignored_count,
        time.perf_counter() - started,
        fold.read_count,
        fold.start,
    )
    return Owned(partition, lease, unsent)


async def _fold(port: Log, number: int, fold: JournalFold, base: int) -> Recovered:
    """Fold what the store does not hold yet, up to the own claim at `base`."""
    if fold.offset and not await port.journal_start(number) <= fold.offset <= base:
        log.warning("the store of partition %d stands at %d, outside of the journal: wiped", number, fold.offset)
        fold.wipe()
    fold.stop = base + 1
    async for records in port.read_journal(number, fold.offset, base + 1):
        fold.apply(records)
    return fold.recovered(base)


async def _rebuild(
    port: Log,
    number: int,
    limits: Limits,
    recovered: Recovered,
    partitions: int,
    inboxes: Sequence[str],
    afresh: bool,
) -> Partition:
    """The partition with its window of ids."""
    # The ids come first: bounds that belong to an even later incarnation end below the prefix, or are caught next time.
    incarnations = await port.incarnations()
    bounds = await port.inbox_bounds(number)
    partition = Partition(number, partitions, recovered, bounds, limits, incarnations, afresh)
    for lane, (start, _) in enumerate(bounds):
        progress, read = partition.lanes[lane], EnvelopeReader(inboxes[lane], number, lane)
        async for inbox in port.read_inbox(
            number, lane, max(start, progress.prefix - limits.dedup_window), progress.prefix
        ):
            for record in inbox:
                try:
                    envelope = read(record)
                except EnvelopeError:
                    continue
                delivery = envelope.delivery
                if not (delivery.sequence and delivery.source < partitions) and envelope.id:
                    progress.remember(record.offset, envelope.id)
    return partition
