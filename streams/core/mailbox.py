"""The mailbox of one agent: its waiting messages in three lanes, and what the engine knows of its activation."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, cast

from msgspec import Struct

from rookery.schemas import native
from rookery.schemas.envelope import Received
from rookery.streams.log import Record

if TYPE_CHECKING:
    from rookery.streams.core.ledger import Ledger

LANES = 3

# What queues are made of here.
Waiting = deque


class Item(Struct, gc=False, eq=False):
    """One waiting message: its envelope, and the record it came in (a dead letter needs the original bytes).

    Of a parked message only the offset may be in memory.
    """

    # A Struct, like all that is made once per message: a tenth of the time of a NamedTuple.

    offset: int
    envelope: Received
    record: Record

    @staticmethod
    def parked(offset: int) -> Item:
        """The place of a message that is in the journal; to be read before its turn."""
        return Item(offset, cast("Received", None), cast("Record", None))

    @property
    def is_parked(self) -> bool:
        """Whether it has to be read first."""
        return self.record is None


class Mailbox:
    """One live agent of one partition: three FIFO lanes, at most one running turn.

    The core fills the lanes; `kind`, `agent` and `context` belong to the engine, which makes them on the first turn.
    """

    __slots__ = (
        "address",
        "agent",
        "closed",
        "context",
        "current",
        "current_lane",
        "first_lane",
        "held",
        "key",
        "kind",
        "kind_name",
        "lanes",
        "ledger",
        "partition",
        "passing",
        "queued",
        "record",
        "runner",
        "running",
        "stopped",
        "unborn",
        "unsettled",
        "used_at",
    )

    def __init__(self, address: str, partition: int) -> None:
        self.address = address
        self.key = address.encode()
        self.partition = partition
        self.lanes: tuple[deque[Item], ...] = (Waiting(), Waiting(), Waiting())
        self.queued = [False, False, False]
        self.running = False
        self.closed = False  # its partition was dropped, or the agent passivated
        self.unsettled = 0  # finished turns whose commit batch is not acknowledged yet
        self.used_at = 0.0  # engine's clock, seconds
        self.first_lane: int | None = None  # whose head goes first: its spawn, or a turn that has begun before
        self.held = False  # takes no turns now: back-off, pause, or the message of a begun turn is not here yet
        self.ledger: Ledger | None = None
        self.current: Item | None = None  # the message of the running turn, and its lane
        self.current_lane = 0
        self.unborn = False  # a spawned agent whose spawn message has not come yet
        self.passing = False  # leaves memory as soon as it idles, if there is no more room: see loops.is_passing
        self.stopped = False  # a stop turn finished: later messages are refused
        self.kind_name = ""  # of a spawned agent: what its spawn message says
        self.kind: Any = None  # AgentType, once activated
        self.agent: Any = None  # the Agent object, once activated
        self.context: Any = None  # TurnContext
        self.record: bytes | None = None  # of the agent, after the last finished turn: see journal.encode_agent
        self.runner: Any = None  # the pool task that runs the current turn

    def count(self, lane: int) -> int:
        """How many messages wait in a lane."""
        return len(self.lanes[lane])

    def __len__(self) -> int:
        return self.count(0) + self.count(1) + self.count(2)

    @property
    def idle(self) -> bool:
        """Nothing waits, nothing runs, nothing is on its way to the journal: memory can be freed."""
        return not self.running and not self.unsettled and not len(self) and self.ledger is None


# What a partition keeps the agents in that are in memory, by address: what it uses of a dict.
Directory = dict[str, Mailbox]


if (_compiled := native.load("rookery.streams.core._mailboxes")) is not None:
    Item, Mailbox, Waiting = _compiled.Item, _compiled.Mailbox, _compiled.Waiting  # type: ignore[misc]
if (_compiled := native.load("rookery.streams.core._directory")) is not None:
    Directory = _compiled.Directory  # type: ignore[misc]
