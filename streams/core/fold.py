"""Folding a journal: what its records say, with those of stale leases left out and remembered for repair.

A lease is known by the offset of its claim, which every later record of it carries in a header. Replay ignores a
record whose lease number is below the highest seen so far; compaction may have kept exactly such a record as the
last of its key, so the first batch after the next claim writes the key's true value again (`stale`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from rookery.schemas.journal import CLAIM, POSITION, Position, Slot, decode_position, decode_slot
from rookery.streams.log import JournalRecord

_SLOT_PREFIX = b"~out/"


@dataclass
class Recovered:
    """What a journal partition held at the own claim."""

    claim: int  # offset of the own claim: the lease's number, and the last journal offset
    position: Position | None
    store: dict[bytes, bytes]  # agents and cells
    unsent: list[Slot]  # live outbox slots above sent-through, in order
    repair: dict[bytes, bytes | None]  # keys that a stale lease touched, with their true values
    ignored_count: int  # records of stale leases


@dataclass
class JournalFold:
    """Applies journal records in offset order."""

    values: dict[bytes, bytes] = field(default_factory=dict)
    stale: set[bytes] = field(default_factory=set)
    highest: int = -1  # the highest lease number seen in any record
    ignored_count: int = 0

    def apply(self, records: Iterable[JournalRecord]) -> None:
        """Fold the next records."""
        values, stale, highest = self.values, self.stale, self.highest
        for offset, key, value, lease in records:
            number = offset if lease is None else lease
            if number < highest:
                stale.add(key)
                self.ignored_count += 1
                continue
            highest = number
            if stale:
                stale.discard(key)
            if value is None:
                values.pop(key, None)
            else:
                values[key] = value
        self.highest = highest

    def recovered(self, claim: int) -> Recovered:
        """Split what was folded up to the own claim at offset `claim`. Raises JournalError on a damaged record."""
        values = self.values
        repair = {key: values.get(key) for key in self.stale if key not in (CLAIM, POSITION)}
        values.pop(CLAIM, None)
        raw = values.pop(POSITION, None)
        position = None if raw is None else decode_position(raw)
        slots = [decode_slot(values.pop(key)) for key in [key for key in values if key.startswith(_SLOT_PREFIX)]]
        sent, end = (0, 0) if position is None else (position.sent_through, position.next_slot)
        unsent = sorted((slot for slot in slots if sent < slot.number < end), key=lambda slot: slot.number)
        return Recovered(claim, position, values, unsent, repair, self.ignored_count)
