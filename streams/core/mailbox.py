"""The mailbox of one agent: its waiting messages in three lanes, and what the engine knows of its activation."""

from collections import deque
from typing import Any

from msgspec import Struct

from rookery.schemas.envelope import Envelope
from rookery.streams.log import Record

LANES = 3


class Item(Struct, gc=False, eq=False):
    """One waiting message: its envelope, and the record it came in (a dead letter needs the original bytes)."""

    # A Struct, like all that is made once per message: a tenth of the time of a NamedTuple.

    offset: int
    envelope: Envelope
    record: Record


class Mailbox:
    """One live agent of one partition: three FIFO lanes, at most one running turn.

    The core fills the lanes; `kind`, `agent` and `context` belong to the engine, which makes them on the first turn.
    """

    __slots__ = (
        "address",
        "agent",
        "closed",
        "context",
        "key",
        "kind",
        "kind_name",
        "lanes",
        "partition",
        "queued",
        "runner",
        "running",
        "spawn_lane",
        "state",
        "stopped",
        "unborn",
        "unsettled",
        "used_at",
    )

    def __init__(self, address: str, partition: int) -> None:
        self.address = address
        self.key = address.encode()
        self.partition = partition
        self.lanes: tuple[deque[Item], ...] = (deque(), deque(), deque())
        self.queued = [False, False, False]
        self.running = False
        self.closed = False  # its partition was dropped, or the agent passivated
        self.unsettled = 0  # finished turns whose commit batch is not acknowledged yet
        self.used_at = 0.0  # engine's clock, seconds
        self.spawn_lane: int | None = None  # where its spawn message waits: served before all others
        self.unborn = False  # a spawned agent whose spawn message has not come yet
        self.stopped = False  # a stop turn finished: later messages are refused
        self.kind_name = ""  # of a spawned agent: what its spawn message says
        self.kind: Any = None  # AgentType, once activated
        self.agent: Any = None  # the Agent object, once activated
        self.context: Any = None  # TurnContext
        self.state: bytes | None = None  # the encoded state after the last finished turn
        self.runner: Any = None  # the pool task that runs the current turn

    def __len__(self) -> int:
        return len(self.lanes[0]) + len(self.lanes[1]) + len(self.lanes[2])

    @property
    def idle(self) -> bool:
        """Nothing waits, nothing runs, nothing is on its way to the journal: memory can be freed."""
        return not self.running and not self.unsettled and not len(self)
