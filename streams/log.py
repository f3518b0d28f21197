"""What the engine asks of a log: the port that Kafka and the in-memory log both implement.

The engine decides (through `streams/core`) and never talks to a broker; a `Log` does I/O and never decides. Two
implementations stand behind this page: `streams/kafka` and `streams/memory.py`. Offsets always mean "next to read".
"""

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from rookery.schemas.partition_errors import LeaseLost

__all__ = [
    "Append",
    "Followed",
    "JournalRecord",
    "Lease",
    "LeaseLost",
    "Log",
    "NoSuchTopic",
    "OutsideJournal",
    "Record",
    "ShipFailed",
]

# One record to append: key and value; a value of None is a tombstone.
Append = tuple[bytes, bytes | None]


class ShipFailed(Exception):
    """A batch of messages was not acknowledged; whether it was stored is unknown. Send the same head again."""


class NoSuchTopic(Exception):
    """A topic, named in the text, does not exist; a reply topic's client has gone."""


class OutsideJournal(Exception):
    """The position in a journal partition is not in the log, which begins at `start`."""

    def __init__(self, partition: int, position: int, start: int) -> None:
        self.partition, self.position, self.start = partition, position, start
        super().__init__(f"journal partition {partition} has no offset {position}, it begins at {start}")


class Record(Protocol):
    """A record as fetched; aiokafka's records fit without conversion."""

    @property
    def offset(self) -> int: ...  # noqa: D102
    @property
    def key(self) -> bytes | None: ...  # noqa: D102
    @property
    def value(self) -> bytes | None: ...  # noqa: D102
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...  # noqa: D102
    @property
    def timestamp(self) -> int:
        """Milliseconds since the Unix epoch."""
        ...


class JournalRecord(NamedTuple):
    """One record of a journal as recovery reads it; `lease` is the lease header's number, None on a claim."""

    offset: int
    key: bytes
    value: bytes | None
    lease: int | None


class Followed(NamedTuple):
    """What a journal partition that is followed brought: its next records, the position after them, and its end."""

    partition: int
    records: Sequence[JournalRecord]
    position: int
    end: int


class Lease(Protocol):
    """The exclusive right to append to one journal partition, held until a newer lease has appended there."""

    async def append(self, records: Collection[Append], number: int | None) -> int:
        """Append all records as one atomic batch and return the offset of the first.

        `number` is the lease's number (the offset of its claim), written in a header of every record; None on the
        claim itself. Never retried blindly: raises LeaseLost when the broker refused the batch or its outcome is
        unknown, whatever the cause; the lease is dead then.
        """
        ...


class Log(Protocol):
    """All that one worker may ask of the log. `lane` is the int value of a Priority."""

    async def acquire(self, partition: int) -> Lease:
        """Take a new lease on a journal partition; older ones are fenced by its first append."""
        ...

    async def journal_end(self, partition: int) -> int:
        """The journal partition's end offset (next to be written), read from the broker now."""
        ...

    async def journal_start(self, partition: int) -> int:
        """The journal partition's log start: what was below it is gone, other than by compaction."""
        ...

    def read_journal(self, partition: int, start: int, stop: int) -> AsyncIterator[Sequence[JournalRecord]]:
        """Yield batches of what compaction left in [start, stop), in offset order, ending once `stop` is reached."""
        ...

    def follow_journals(self, offsets: Mapping[int, int]) -> AsyncGenerator[Followed]:
        """Follow journal partitions from these offsets on, for ever: each item moves one position or end.

        Raises OutsideJournal, or what a read raises.
        """
        ...

    async def inbox_bounds(self, partition: int) -> Sequence[tuple[int, int]]:
        """(log start, end offset) of the partition in each of the three inboxes, by lane."""
        ...

    async def incarnations(self) -> Sequence[bytes]:
        """What tells each inbox, by lane, from one that is made again under its name; asked from the broker now."""
        ...

    def read_inbox(self, partition: int, lane: int, start: int, stop: int) -> AsyncIterator[Sequence[Record]]:
        """Yield batches of one inbox partition in [start, stop), ending once `stop` is reached."""
        ...

    async def ship(self, topic: str, partition: int, messages: Sequence[tuple[bytes | None, bytes]]) -> None:
        """Append messages in order as one batch and return once it is acknowledged; at most one call per target
        partition runs at a time.

        Raises ShipFailed when the outcome is failure or unknown (call again with the same head), and NoSuchTopic when
        a reply topic does not exist (any more).
        """
        ...

    def seek(self, partition: int, lane: int, offset: int) -> None:
        """Fetch that inbox partition from `offset` on, as soon as the driver can.

        Nothing that was fetched before comes after it, and what was fetched comes in order: a gap that is seen twice is
        a hole in the log.
        """
        ...

    def pause(self, partition: int, lane: int) -> None:
        """Stop fetching that inbox partition until `resume`; survives rebalances as long as the partition is kept."""
        ...

    def resume(self, partition: int, lane: int) -> None:
        """Fetch that inbox partition again."""
        ...

    async def confirm_assignment(self, partition: int) -> bool:
        """Wait (bounded by the session timeout) until the group has confirmed, after this call, that this worker still
        owns the partition; False when it does not or the wait ran out."""
        ...
