"""What a run left: the clients' history, every topic, and the agents' books; and the names of what can be wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.chaos.wire import Heard

LOST = "lost"  # a message that is in the log, or was acknowledged, left no effect
DOUBLED = "doubled"  # a message left its effect more than once
LOST_SEND = "lost-send"  # a committed turn's message never arrived
GHOST_SEND = "ghost-send"  # a message arrived that no committed turn sent
ORDER_INVERSION = "order-inversion"  # two messages of one stream took effect in the wrong order
STALE_ACCEPTED = "stale-accepted"  # what an owner wrote after it was replaced counted
SPLIT_WRITER = "split-writer"  # the broker let a replaced owner write
REPLY_LOST = "reply-lost"
REPLY_DOUBLED = "reply-doubled"  # two turns answered one question
STATE_DIVERGENCE = "state-divergence"  # what the journal says is not what the agent answers, or neither fits the log
DEAD_LETTER_MISMATCH = "dead-letter-mismatch"
STUCK = "stuck"

ANOMALIES = (
    LOST, DOUBLED, LOST_SEND, GHOST_SEND, ORDER_INVERSION, STALE_ACCEPTED, SPLIT_WRITER, REPLY_LOST, REPLY_DOUBLED,
    STATE_DIVERGENCE, DEAD_LETTER_MISMATCH, STUCK,
)  # fmt: skip


class Anomaly(NamedTuple):
    """One thing that must not be; `messages` counts those that show it, `witness` is the first."""

    name: str
    subject: str
    witness: str
    messages: int = 1


class ClientSend(NamedTuple):
    """One send of a client's history; `acked` False means that the outcome is unknown."""

    id: str
    target: str
    lane: int
    n: int
    acked: bool


class InboxRecord(NamedTuple):
    """A record of an inbox; `message` is None if its bytes are no envelope."""

    lane: int
    partition: int
    offset: int
    value: bytes
    message: Heard | None

    @property
    def place(self) -> tuple[int, int, int]:
        """Its coordinates: lane, partition, offset."""
        return self.lane, self.partition, self.offset


class JournalRow(NamedTuple):
    """A record of the journal; `lease` is None on a claim."""

    partition: int
    offset: int
    key: bytes
    value: bytes | None
    lease: int | None


class Letter(NamedTuple):
    """A dead letter: the place of the record that it holds, its bytes, and the reason."""

    lane: int
    partition: int
    offset: int
    value: bytes
    reason: str
    at: str = ""


class Reply(NamedTuple):
    """An answer: a record of a client's reply topic, or of an inbox; `question` is the id of what it answers."""

    question: str
    id: str
    at: str = ""


@dataclass
class Evidence:
    """All of it. Records come in the order of their offsets within each partition."""

    sends: Sequence[ClientSend] = ()
    records: Iterable[InboxRecord] = ()
    journal: Iterable[JournalRow] = ()
    letters: Sequence[Letter] = ()
    replies: Sequence[Reply] = ()
    books: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    ends: Mapping[tuple[int, int], int] = field(default_factory=dict)  # (lane, partition) -> end of the inbox
    compacted: bool = False  # the journal is not whole: what was sent can't be held against it
