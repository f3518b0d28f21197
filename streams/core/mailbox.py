"""The mailbox of one agent: its waiting messages in three lanes, and what the engine knows of its activation."""

from collections import deque
from typing import Any

from rookery.schemas.envelope import Envelope

LANES = 3


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
        "lanes",
        "partition",
        "queued",
        "runner",
        "running",
        "state",
        "unsettled",
        "used_at",
    )

    def __init__(self, address: str, partition: int) -> None:
        self.address = address
        self.key = address.encode()
        self.partition = partition
        self.lanes: tuple[deque[tuple[int, Envelope]], ...] = (deque(), deque(), deque())
        self.queued = [False, False, False]
        self.running = False
        self.closed = False  # its partition was dropped, or the agent passivated
        self.unsettled = 0  # finished turns whose commit batch is not acknowledged yet
        self.used_at = 0.0  # engine's clock, seconds
        self.kind: Any = None  # AgentType, once known
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
