"""Folding a journal: what its records say, with those of stale leases left out and remembered for repair.

A lease is known by the offset of its claim, which every later record of it carries in a header. Replay ignores a
record whose lease number is below the highest seen so far; compaction may have kept exactly such a record as the
last of its key, so the first batch after the next claim writes the key's true value again (`stale`). A record without
that header which is no claim was written by none of us: it is treated in the same way, and is nobody's lease.

A key that begins with "~" and is not known was written by a later version that may rely on it: going on without would
be a guess, so recovery refuses it, unless it lies under "~opt/".

Folding goes on where a store stands: from offset 0 with an empty one, else from its mark. Both give the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rookery.schemas.journal import (
    CLAIM,
    POSITION,
    SLOT_PREFIX,
    Position,
    Slot,
    decode_position,
    decode_slot,
    split_key,
)
from rookery.streams.core.store import Mark, MemoryStore, Store
from rookery.streams.log import JournalRecord


@dataclass
class Recovered:
    """What a journal partition held at the own claim."""

    claim: int  # offset of the own claim: the lease's number, and the last journal offset
    position: Position | None
    store: Store  # agents and cells
    unsent: list[Slot]  # live outbox slots above sent-through, in order
    repair: dict[bytes, bytes | None]  # keys that a stale lease touched, with their true values
    ignored_count: int  # records of stale leases and of strangers
    position_stale: bool = False  # the last position that compaction keeps may be a stale one: write it anew


class JournalFold:
    """Applies journal records in offset order to a store."""

    def __init__(self, store: Store | None = None) -> None:
        self.store: Store = MemoryStore() if store is None else store
        self._stand()

    def _stand(self) -> None:
        self.offset, self.highest, stale = self.store.mark  # offset is next to fold
        self.stale = set(stale)
        self.start = self.offset
        self.stop: int | None = None  # where folding is to end, once that is known
        self.read_count = self.ignored_count = 0

    def wipe(self) -> None:
        """Begin anew: the store does not fit the journal."""
        self.store.wipe()
        self._stand()

    def apply(self, records: Sequence[JournalRecord], position: int | None = None, *, at_end: bool = False) -> None:
        """Fold the next records; those below `offset` came again and are skipped.

        `position` is next to read after them, where compaction removed what was last; `at_end` says that the journal
        holds nothing more at this time.
        """
        if records and records[0].offset < self.offset:
            records = [record for record in records if record.offset >= self.offset]
        self.read_count += len(records)
        changes: dict[bytes, bytes | None] = {}
        stale, highest = self.stale, self.highest
        for offset, key, value, lease in records:
            # A stranger's is below any.
            number = lease if lease is not None else offset if key == CLAIM else -2
            if number < highest:
                if key:
                    stale.add(key)
                self.ignored_count += 1
                continue
            highest = number
            if stale:
                stale.discard(key)
            changes[key] = value
        self.highest = highest
        if records:
            self.offset = records[-1].offset + 1
        if position is not None:
            self.offset = max(self.offset, position)
        self.store.apply(changes, self._mark(), at_end=at_end)

    def _mark(self) -> Mark:
        return Mark(self.offset, self.highest, frozenset(self.stale))

    def recovered(self, claim: int) -> Recovered:
        """Split what was folded up to the own claim at offset `claim`. Raises JournalError on a damaged record."""
        store = self.store
        self.offset = max(self.offset, claim + 1)
        store.apply({}, self._mark(), at_end=True)
        control = store.control()
        for key in control:
            split_key(key)
        repair = {
            key: control.get(key) if key.startswith(b"~") else store.get(key)
            for key in self.stale
            if key not in (CLAIM, POSITION)
        }
        raw = control.get(POSITION)
        position = None if raw is None else decode_position(raw)
        slots = [decode_slot(value) for key, value in control.items() if key.startswith(SLOT_PREFIX)]
        sent, end = (0, 0) if position is None else (position.sent_through, position.next_slot)
        unsent = sorted((slot for slot in slots if sent < slot.number < end), key=lambda slot: slot.number)
        return Recovered(claim, position, store, unsent, repair, self.ignored_count, POSITION in self.stale)
