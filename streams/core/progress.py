"""Progress of one inbox partition (a lane of a journal partition): what was fetched, what is done, what was seen.

Handlers finish in any order, so "done" is a contiguous *prefix* plus ranges above it. Repeats are recognised as a
function of the log alone, never of timing:

- a message from an agent carries (source partition, sequence); a source sends to each target partition and lane
  strictly in order, so whatever is not above the last sequence seen is a repeat;
- a message from outside is a repeat if its id stands in one of the `window` records before it.

Two tables of sequences: `_seen` as of the fetch decides, `_seen_stored` as of the prefix is what the journal keeps,
so that a restart at the prefix decides every record above it exactly as before. Offsets are "next to read".
"""

from array import array
from collections import deque
from itertools import repeat

from rookery.schemas import native
from rookery.schemas.journal import LanePosition

# Forget this many settled flags at a time, so that trimming the bytearray costs nothing per record.
_TRIM_FLAGS = 4096


class LaneProgress:
    """Tracks one lane from the position that the journal gave; every record enters through one of the admit calls."""

    __slots__ = (
        *("_base", "_flags", "_id_log", "_ids", "_lost", "_origins", "_seen", "_seen_stored", "_window"),
        *("incarnation", "next", "prefix"),
    )

    def __init__(self, position: LanePosition, window: int) -> None:
        self.incarnation = position.incarnation  # of the inbox that these offsets belong to
        self.prefix = position.prefix  # everything below is done
        self.next = position.prefix  # the offset to admit next
        self._base = position.prefix  # the offset of _flags[0]
        self._flags = bytearray()  # 1 = done, from _base; may reach past `next` right after recovery
        self._flags.extend(position.done)
        self._seen_stored = array("Q", position.seen)
        self._seen = array("Q", position.seen)
        self._origins: deque[tuple[int, int] | None] = deque()  # of the records in [prefix, next)
        self._lost: dict[int, int] = {}  # stretches that the log deleted unhandled: last -> first
        self._window = window
        self._ids: dict[str, int] = {}  # id -> offset of its latest record
        self._id_log: deque[tuple[int, str]] = deque()

    @property
    def fetched_count(self) -> int:
        """Records admitted above the prefix: the lane's share of the un-acked window."""
        return self.next - self.prefix

    @property
    def flag_count(self) -> int:
        """Bits that the position of this lane may need."""
        return len(self._flags)

    def admit(self, source: int, sequence: int) -> bool:
        """Admit the record at `next`, sent by a turn of partition `source`; True if it has to be handled."""
        known = sequence <= self._seen[source]
        if not known:
            self._seen[source] = sequence
        return self._enter((source, sequence), known)

    def admit_outside(self, message_id: str) -> bool:
        """Admit the record at `next`, sent by a client; an empty id is never a repeat. True if it is to be handled."""
        return self._enter(None, message_id != "" and self.remember(self.next, message_id))

    def remember(self, offset: int, message_id: str) -> bool:
        """Put the id of the record at `offset` into the window; True if the window held it already."""
        ids, log, oldest = self._ids, self._id_log, offset - self._window
        while log and log[0][0] < oldest:
            gone, forgotten = log.popleft()
            if ids[forgotten] == gone:
                del ids[forgotten]
        known = message_id in ids
        ids[message_id] = offset
        log.append((offset, message_id))
        return known

    def skip_to(self, offset: int) -> None:
        """Count the offsets from `next` up to `offset` as done: the log has no records there."""
        missing = offset - self.next
        index = self.next - self._base
        self._flags[index : index + missing] = b"\x01" * missing
        self._origins.extend(repeat(None, missing))
        self.next = offset

    def truncate(self, start: int) -> tuple[int, int, int] | None:
        """The log deleted everything below `start`, which is above `next`: go on there.

        Returns the first and the last offset that was not done, and how many there were; they stay open until the last
        of them is given up. None if all were done.
        """
        begin, index, missing = self.next, self.next - self._base, start - self.next
        lost = bytes(self._flags[index : index + missing]).ljust(missing, b"\x00")
        first, last, count = lost.find(0), lost.rfind(0), lost.count(0)
        self.skip_to(start)
        self._flags[index : index + missing] = lost
        if not count:
            return None
        self._lost[begin + last] = begin + first
        return begin + first, begin + last, count

    def _enter(self, origin: tuple[int, int] | None, known: bool) -> bool:
        self._origins.append(origin)
        flags, offset = self._flags, self.next
        index = offset - self._base
        self.next = offset + 1
        if index == len(flags):
            flags.append(known)
        elif known:
            flags[index] = 1
        return not flags[index]

    def done(self, offset: int) -> None:
        """Mark an admitted record as done; takes effect on the prefix at the next `advance`."""
        self._flags[offset - self._base] = 1

    def give_up(self, offset: int) -> None:
        """Mark a record as done that no agent takes; with the last of a lost stretch the whole of it."""
        first = self._lost.pop(offset, offset)
        self._flags[first - self._base : offset + 1 - self._base] = b"\x01" * (offset + 1 - first)

    def advance(self) -> None:
        """Move the prefix over everything that is done without a gap, folding the sequences it passes."""
        flags, base = self._flags, self._base
        first_open = flags.find(0, self.prefix - base)
        stop = min(self.next, base + (len(flags) if first_open < 0 else first_open))
        if stop == self.next:
            self._seen_stored = self._seen[:]
            self._origins.clear()
        else:
            stored, take = self._seen_stored, self._origins.popleft
            for _ in range(stop - self.prefix):
                origin = take()
                if origin is not None and origin[1] > stored[origin[0]]:
                    stored[origin[0]] = origin[1]
        self.prefix = stop
        if stop - base > _TRIM_FLAGS:
            del flags[: stop - base]
            self._base = stop

    def position(self) -> LanePosition:
        """What the journal has to keep of this lane now."""
        last = self._flags.rfind(1, self.prefix - self._base)
        done = bytes(self._flags[self.prefix - self._base : last + 1]) if last >= 0 else b""
        return LanePosition(self.prefix, done, self._seen_stored[:], self.incarnation)


if (_compiled := native.load("rookery.streams.core._progress")) is not None:
    LaneProgress = _compiled.LaneProgress  # type: ignore[misc]
