"""The run queue: agents that have work, by priority, weighted 8:3:1 so that LOW keeps its share."""

from collections import deque

from rookery.schemas import native
from rookery.streams.core.mailbox import Mailbox

# HIGH (lane 2) 8 times, NORMAL 3 times, LOW once and last; lanes without work are passed over. So LOW waits for
# at most eleven others, whatever comes and goes.
CYCLE = (2, 2, 1, 2, 2, 1, 2, 2, 1, 2, 2, 0)

# Messages of one agent that count as work for the worker: a busy agent must not keep others from being fetched.
AGENT_COUNTS = 32


def _choices() -> list[list[tuple[int, int]]]:
    """For each set of lanes with work (bits) and each place in the cycle: the lane to serve, and the place after it."""
    size = len(CYCLE)
    rows: list[list[tuple[int, int]]] = [[]]
    for waiting in range(1, 8):
        steps = [[place + step for step in range(size)] for place in range(size)]
        found = [next(at for at in ahead if waiting >> CYCLE[at % size] & 1) for ahead in steps]
        rows.append([(CYCLE[at % size], (at + 1) % size) for at in found])
    return rows


# Looked up once per turn; walking the cycle takes four steps on average when only one lane has work.
_CHOICES = _choices()


class RunQueue:
    """Mailboxes with work, first in first out within a lane; between lanes weighted round robin."""

    __slots__ = ("_lanes", "_turn")

    def __init__(self) -> None:
        self._lanes: tuple[deque[Mailbox], ...] = (deque(), deque(), deque())
        self._turn = 0  # place in the cycle

    def __len__(self) -> int:
        return sum(map(len, self._lanes))

    def holds(self, lane: int, count: int) -> bool:
        """Whether ready agents have at least `count` messages in a lane, of each agent counted up to AGENT_COUNTS."""
        for mailbox in self._lanes[lane]:
            count -= min(len(mailbox.lanes[lane]), AGENT_COUNTS)
            if count <= 0:
                return True
        return count <= 0

    def push(self, mailbox: Mailbox, lane: int) -> None:
        """Queue a mailbox for the work in one of its lanes; again has no effect until it was popped."""
        if not mailbox.queued[lane]:
            mailbox.queued[lane] = True
            self._lanes[lane].append(mailbox)

    def push_waiting(self, mailbox: Mailbox) -> None:
        """Queue a mailbox for every lane in which something waits."""
        for lane, waiting in enumerate(mailbox.lanes):
            if waiting:
                self.push(mailbox, lane)

    def pop(self) -> tuple[Mailbox, int] | None:
        """The next mailbox that can run, and the lane to serve; None if there is none.

        A mailbox that runs already, was closed, or has nothing left in the lane is dropped here: whoever ends its turn
        queues it again for what it still holds.
        """
        low, normal, high = lanes = self._lanes
        while waiting := (1 if low else 0) | (2 if normal else 0) | (4 if high else 0):
            lane, self._turn = _CHOICES[waiting][self._turn]
            mailbox = lanes[lane].popleft()
            mailbox.queued[lane] = False
            if mailbox.lanes[lane] and not (mailbox.running or mailbox.held or mailbox.closed):
                return mailbox, lane
        return None


if (_compiled := native.load("rookery.streams.core._runqueue")) is not None:
    _compiled.learn(_CHOICES, AGENT_COUNTS)
    RunQueue = _compiled.RunQueue  # type: ignore[misc]
