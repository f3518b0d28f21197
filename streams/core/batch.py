"""What passes between a partition and the engine: effects of turns, the commit batch made of them, and their bounds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from msgspec import Struct

from rookery.schemas import native
from rookery.schemas.envelope import SEAL_BYTES
from rookery.schemas.errors import EnvelopeError
from rookery.streams.core.mailbox import Item, Mailbox
from rookery.streams.core.outbox import Destination, Message
from rookery.streams.log import Record

# Kafka's and our own overhead of one journal record: varints, lease header, key of a slot. Reserved, not exact.
RECORD_OVERHEAD = 64
# The same of one message inside a slot record, sealing included.
MESSAGE_OVERHEAD = SEAL_BYTES + 16
# Tombstones of stopped agents in one batch: about 30 KB.
TOMBSTONES_MAX = 200


class Sent(Struct, gc=False, eq=False):
    """A message as a turn leaves it, resolved to its destination; sequenced ones are sealed by the batch builder."""

    destination: Destination
    key: bytes | None
    body: bytes
    sequenced: bool


class NotContiguous(Exception):
    """A journal append landed at an offset that is not our last + 1: somebody else wrote in between."""


class Finished(Struct, eq=False):
    """The effects of one finished turn, waiting for a commit batch.

    `state` is the agent's record after the turn (None: unchanged; b"": delete it); `sent` what it sends, in order.
    `size` bounds what the turn adds to a batch, in bytes.
    """

    mailbox: Mailbox | None
    lane: int
    offset: int
    state: bytes | None
    sent: Sequence[Sent]
    size: int = 0

    cells: Mapping[bytes, bytes | None] | None = None  # what else the agent writes
    ends: bool = True  # whether the message is done with this; else its turn goes on
    acked: Callable[[], None] | None = None  # called once the journal has it

    def __post_init__(self) -> None:
        state = self.state
        size = 0 if state is None else len(state) + RECORD_OVERHEAD
        for message in self.sent:
            size += len(message.body) + len(message.key or b"") + MESSAGE_OVERHEAD
        if self.cells:
            size += sum(len(key) + len(value or b"") + RECORD_OVERHEAD for key, value in self.cells.items())
        self.size = size


if (_compiled := native.load("rookery.streams.core._mailboxes")) is not None:
    _compiled.count_overheads(RECORD_OVERHEAD, MESSAGE_OVERHEAD)
    Sent, Finished = _compiled.Sent, _compiled.Finished  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one partition; bytes and counts."""

    batch_bytes_max: int
    batch_turns_max: int
    window_max: int
    ring: int
    dedup_window: int
    parked_max: int = 10_000  # messages of one agent in the journal
    window_bytes_max: int = 32 * 1024 * 1024
    room: int = 1_000  # agents in memory, to begin with


class Admitted(NamedTuple):
    """What became of fetched records."""

    items: list[Item]  # to be handled, in order
    refused: list[tuple[Record, EnvelopeError]]  # unreadable: each is owed a finished turn
    missing: int | None  # the offset to seek to, when records are missing in between


@dataclass(slots=True)
class CommitBatch:
    """What goes to the journal as one record batch, and what its acknowledgement releases."""

    records: dict[bytes, bytes | None]
    turns: list[Finished]
    number: int  # outbox slot, 0 if nothing is sent
    released: dict[Destination, list[Message]]
    progress: tuple[tuple[int, ...], int]  # prefixes by lane, sent-through
