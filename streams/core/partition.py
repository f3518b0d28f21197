"""One journal partition while this worker owns it: the unit of atomicity.

    fetched ──> admitted ──> mailbox ──> (the engine runs a turn) ──> finished ──> commit batch ──> released

Everything here is a decision about data that is passed in; the engine does the I/O in between. The rules of the
journal protocol that a step implements are named beside it as R1..R8:

R1 redelivery is answered by ~pos        R5 one journal batch in flight; numbers allotted when it is built
R2 repeats of a source by its sequence   R6 release only after an ack whose base offset is our last + 1
R3 ids of clients by a window of the log R7 the outbox ring; never skip, resend from the head
R4 lease, claim, fold, repair            R8 durable steps and adoption: `ledger`
"""

from collections.abc import Callable, Sequence

from rookery.schemas.envelope import Received
from rookery.schemas.errors import EnvelopeError
from rookery.schemas.journal import (
    NO_INCARNATION,
    POSITION,
    Position,
    Slot,
    encode_position,
    encode_slot,
    slot_key,
)
from rookery.streams.core import loops
from rookery.streams.core.batch import (
    RECORD_OVERHEAD,
    TOMBSTONES_MAX,
    Admitted,
    CommitBatch,
    Finished,
    Limits,
    NotContiguous,
)
from rookery.streams.core.finishing import Finishing
from rookery.streams.core.fitting import fit
from rookery.streams.core.fold import Recovered
from rookery.streams.core.ledger import Ledgers, recover_ledgers
from rookery.streams.core.mailbox import LANES, Directory, Item, Mailbox
from rookery.streams.core.outbox import Destination, Group, Message, Outbox
from rookery.streams.core.progress import LaneProgress
from rookery.streams.core.store import Mark
from rookery.streams.core.window import Window
from rookery.streams.log import Record


class Partition:
    """The state of one owned journal partition, from recovery to loss."""

    def __init__(
        self,
        number: int,
        partitions: int,
        recovered: Recovered,
        bounds: Sequence[tuple[int, int]],
        limits: Limits,
        incarnations: Sequence[bytes] = (NO_INCARNATION,) * LANES,
        afresh: bool = False,
    ) -> None:
        """`bounds` are log start and end of the partition in each inbox, by lane; see `fit` for the last two. Raises
        WrongPosition."""
        self.number = number
        self.partitions = partitions
        self.limits = limits
        self.lease_number = recovered.claim
        self.last = recovered.claim  # offset of our last journal record
        self.store = recovered.store
        self.repair = recovered.repair
        position = fit(number, recovered.position, bounds, incarnations, partitions, limits.ring, afresh)
        self.starts = tuple(start for start, _ in bounds)  # of the logs, when this partition was recovered
        self.is_new = recovered.position is None  # nobody has handled anything of it yet
        self.windows = tuple(Window() for _ in range(LANES))
        self.lanes = tuple(LaneProgress(lane, limits.dedup_window) for lane in position.lanes)
        self.sequence = position.next_sequence
        # R7: the ring changes only while it is empty, so that slot numbers keep their places.
        ring = limits.ring if position.sent_through == position.next_slot - 1 else position.ring
        self.outbox = Outbox(ring, position.next_slot, position.sent_through)
        self.mailboxes: dict[str, Mailbox] = Directory()
        self.room = limits.room  # agents that may stay in memory; the worker shares it out anew now and then
        self.finished = Finishing()
        self.ledgers = Ledgers()
        self.flight: CommitBatch | None = None
        self.closed = False
        # Stopped agents, each with the prefixes that its lanes must reach before its record may go. After a recovery
        # the offset of the stop is not known any more, but it is below the ends that the logs had then.
        ends = tuple(end for _, end in bounds)
        self.retiring: dict[str, tuple[int, ...]] = {key.decode(): ends for key in recovered.store.retired()}
        self._gaps: list[tuple[int, int]] = [(-1, -1)] * LANES  # the edges of the gap that was seen last
        self._written = (tuple(lane.prefix for lane in self.lanes), position.sent_through)
        if recovered.position_stale:
            self._written = ((), -1)  # R4: no position is written, so one is due
        self._reopen_ledgers()

    def _reopen_ledgers(self) -> None:
        """Bring back the agents of which the journal holds more than their state: they go on by themselves."""
        for mailbox, orphans in recover_ledgers(
            self.store.cells(), self.number, tuple(lane.prefix for lane in self.lanes)
        ):
            self.repair.update(dict.fromkeys(orphans))
            if mailbox.ledger is not None and not mailbox.ledger.is_empty:
                self.mailboxes[mailbox.address] = mailbox
                self.ledgers.mailboxes[mailbox] = None

    # -- what comes in ------------------------------------------------------------------------------------------------

    def admit(
        self,
        lane: int,
        records: Sequence[Record],
        read: Callable[[Record], Received],
    ) -> Admitted:
        """Admit fetched records of a lane in order (R1, R2, R3); `read` is for records with headers.

        Records below `next` came again and are skipped; nothing is admitted behind a gap.
        """
        progress = self.lanes[lane]
        items: list[Item] = []
        refused: list[tuple[Record, EnvelopeError]] = []
        at = 0
        while (at := loops.admit(progress, records, at, self.partitions, read, items, refused)) < len(records):
            offset = records[at].offset
            if offset < progress.next:
                at += 1
                continue
            # A gap: sought back once; the same two edges again are a hole in the log (R1).
            if self._gaps[lane] != (progress.next, offset):
                self._gaps[lane] = (progress.next, offset)
                return Admitted(items, refused, progress.next)
            progress.skip_to(offset)
        return Admitted(items, refused, None)

    def doubt(self, lane: int) -> None:
        """The gap that was seen last could not be looked up: seen again, it counts as new."""
        self._gaps[lane] = (-1, -1)

    def is_full(self, lane: int, share: float = 1.0) -> bool:
        """Whether the window of a lane has reached this share of its bounds."""
        limits, progress, window = self.limits, self.lanes[lane], self.windows[lane]
        window.forget(progress.prefix, progress.next)
        return (
            progress.fetched_count >= limits.window_max * share or window.bytes_count >= limits.window_bytes_max * share
        )

    @property
    def is_written(self) -> bool:
        """Whether the journal says exactly how far this partition has come."""
        return self._written == (tuple(lane.prefix for lane in self.lanes), self.outbox.sent_through)

    def stopped(self, mailbox: Mailbox, lane: int, offset: int) -> None:
        """A turn stopped the agent for good: its record goes once everything up to the stop is settled."""
        mailbox.agent, mailbox.stopped = None, True
        self.retiring[mailbox.address] = tuple(offset + 1 if number == lane else 0 for number in range(LANES))

    # -- what goes out ------------------------------------------------------------------------------------------------

    def fits(self, finished: Finished) -> bool:
        """Whether a turn fits one commit batch at all; checked before its effects are accepted."""
        most = self.limits.batch_bytes_max
        # The exact size of the rest is worked out only for turns that come near the bound.
        return finished.size <= most // 4 or finished.size + self._fixed_size() <= most

    def finish(self, finished: Finished) -> None:
        """Accept the effects of a finished turn."""
        if finished.mailbox is not None:
            finished.mailbox.unsettled += 1
        self.finished.fresh.append(finished)

    def build(self, progress_due: bool = False, refresh: bool = False) -> CommitBatch | None:
        """The next commit batch (R5), or None while one is in flight or nothing is due.

        Progress alone (repeats that moved a prefix, acknowledged messages) is written only when `progress_due`; with
        `refresh` the position is written even unchanged, so that brokers keep the producer.
        """
        if self.flight is not None or self.closed:
            return None
        if not (self.finished or progress_due or refresh or self.ledgers.mailboxes or self.retiring or self.repair):
            return None
        turns = [] if self.ledgers.mailboxes and self.ledgers.take_crowded() else self._take()
        records: dict[bytes, bytes | None] = {}
        released: dict[Destination, list[Message]] = {}
        sequence, number = loops.number(turns, self.number, self.sequence, released), 0
        if released:
            number = self.outbox.next_slot
            records[slot_key(number, self.outbox.ring)] = encode_slot(Slot(number, released))
        loops.settle(turns, self.lanes, self.ledgers, records)
        if self.ledgers.mailboxes:
            self._adopt(records, turns)
        for lane in self.lanes:
            lane.advance()
        self._add_tombstones(records)
        self._add_repairs(records)
        written = (tuple(lane.prefix for lane in self.lanes), self.outbox.sent_through)
        if not records and not turns and not refresh and not (progress_due and written != self._written):
            return None
        self.sequence = sequence
        if number:
            self.outbox.next_slot = number + 1
        records[POSITION] = self._position(written[1])
        self.flight = CommitBatch(records, turns, number, released, written)
        return self.flight

    def acked(self, base: int) -> list[tuple[Destination, Group]]:
        """The batch in flight is stored at `base`; returns what may be sent now (R6). Raises NotContiguous."""
        batch = self.flight
        if batch is None:
            raise NotContiguous(f"journal {self.number}: an ack without a batch in flight")
        if base != self.last + 1:
            raise NotContiguous(f"journal {self.number}: our batch landed at {base}, expected {self.last + 1}")
        self.last = base + len(batch.records) - 1
        self.flight = None
        self._written = batch.progress
        mark = Mark(self.last + 1, self.lease_number, frozenset(self.repair))
        self.store.apply(batch.records, mark, at_end=True)
        loops.acknowledge(batch.turns, self.ledgers, self.mailboxes, self.store)
        if not batch.number:
            return []
        return self.release(batch.number, batch.released)

    def cell(self, key: bytes) -> bytes | None:
        """A cell as it is in the journal, or will be once the batch in flight is acknowledged."""
        if self.flight is not None and key in self.flight.records:
            return self.flight.records[key]
        return self.store.get(key)

    def release(self, number: int, released: dict[Destination, list[Message]]) -> list[tuple[Destination, Group]]:
        """Let the messages of a committed slot go."""
        self.outbox.release(number, sum(map(len, released.values())))
        return [(destination, Group(self.outbox, number, messages)) for destination, messages in released.items()]

    def close(self) -> list[Mailbox]:
        """Drop the partition: nothing of it is accepted or sent from here on. Returns mailboxes with a running turn."""
        self.closed = True
        self.outbox.closed = True
        running = [mailbox for mailbox in self.mailboxes.values() if mailbox.running]
        for mailbox in self.mailboxes.values():
            mailbox.closed = True
        self.mailboxes = Directory()
        self.finished.clear()
        self.flight = None  # its turns lead to agents that may lead back here, out of the collector's sight
        return running

    # -- building blocks ----------------------------------------------------------------------------------------------

    def _take(self) -> list[Finished]:
        """Take finished turns in order up to the batch's bounds (R7)."""
        take = self.finished.take if self.outbox.has_room else self.finished.take_silent
        return take(self.limits.batch_turns_max, self._fixed_size(), self.limits.batch_bytes_max)

    def _adopt(self, records: dict[bytes, bytes | None], turns: list[Finished]) -> None:
        """Park the messages of long turns, with what room the batch has left."""
        room = self.limits.batch_bytes_max - self._fixed_size() - sum(turn.size for turn in turns)
        self.ledgers.adopt(records, turns, lambda lane, offset: self.lanes[lane].done(offset), room, RECORD_OVERHEAD)

    def _add_tombstones(self, records: dict[bytes, bytes | None]) -> None:
        """Delete stopped agents once everything before their stop is settled: a repeat must still find them stopped."""
        for address, needed in list(self.retiring.items())[:TOMBSTONES_MAX]:
            mailbox = self.mailboxes.get(address)
            if mailbox is not None and not mailbox.idle:
                continue
            if all(lane.prefix >= prefix for lane, prefix in zip(self.lanes, needed, strict=True)):
                del self.retiring[address]
                records[address.encode()] = None
                # The next message to `Type/key` finds a new agent; a spawned one says "stopped" while it is in memory.
                if mailbox is not None and "/" in address:
                    mailbox.closed = True
                    del self.mailboxes[address]

    def _add_repairs(self, records: dict[bytes, bytes | None]) -> None:
        """Write again what a stale lease touched (R4), as much as fits; keys written anyway are repaired by that."""
        for key in records:
            self.repair.pop(key, None)
        if not self.repair:
            return
        size = self._fixed_size() + sum(
            len(key) + len(value or b"") + RECORD_OVERHEAD for key, value in records.items()
        )
        for key in list(self.repair):
            size += len(self.repair[key] or b"") + len(key) + RECORD_OVERHEAD
            if size > self.limits.batch_bytes_max and records:
                break
            records[key] = self.repair.pop(key)

    def _position(self, sent_through: int) -> bytes:
        return encode_position(
            Position(
                lanes=[lane.position() for lane in self.lanes],
                next_slot=self.outbox.next_slot,
                next_sequence=self.sequence,
                sent_through=sent_through,
                ring=self.outbox.ring,
                partitions=self.partitions,
            )
        )

    def _fixed_size(self) -> int:
        """Bytes that every batch may need besides its turns: the position record, done ranges included."""
        flags = sum(lane.flag_count for lane in self.lanes)
        return (
            3 * (8 * self.partitions + 16)
            + flags // 8
            + (4 + 3 * min(len(self.retiring), TOMBSTONES_MAX)) * RECORD_OVERHEAD
        )
