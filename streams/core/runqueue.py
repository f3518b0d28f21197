"""The run queue: agents that have work, by priority, weighted 8:3:1 so that LOW keeps its share."""

from collections import deque

from rookery.streams.core.mailbox import Mailbox

# HIGH (lane 2) 8 times, NORMAL 3 times, LOW once and last; lanes without work are passed over. So LOW waits for
# at most eleven others, whatever comes and goes.
CYCLE = (2, 2, 1, 2, 2, 1, 2, 2, 1, 2, 2, 0)


class RunQueue:
    """Mailboxes with work, first in first out within a lane; between lanes weighted round robin."""

    __slots__ = ("_lanes", "_turn")

    def __init__(self) -> None:
        self._lanes: tuple[deque[Mailbox], ...] = (deque(), deque(), deque())
        self._turn = 0  # place in the cycle

    def __len__(self) -> int:
        return sum(map(len, self._lanes))

    def push(self, mailbox: Mailbox, lane: int) -> None:
        """Queue a mailbox for the work in one of its lanes; again has no effect until it was popped."""
        if not mailbox.queued[lane]:
            mailbox.queued[lane] = True
            self._lanes[lane].append(mailbox)

    def pop(self) -> tuple[Mailbox, int] | None:
        """The next mailbox that can run, and the lane to serve; None if there is none.

        A mailbox that runs already, was closed, or has nothing left in the lane is dropped here: whoever ends its turn
        queues it again for what it still holds.
        """
        lanes = self._lanes
        while True:
            if not (lanes[2] or lanes[1] or lanes[0]):
                return None
            lane = self._choose()
            mailbox = lanes[lane].popleft()
            mailbox.queued[lane] = False
            if mailbox.lanes[lane] and not mailbox.running and not mailbox.closed:
                return mailbox, lane

    def _choose(self) -> int:
        """The next lane of the cycle that has something waiting."""
        while True:
            lane = CYCLE[self._turn]
            self._turn = (self._turn + 1) % len(CYCLE)
            if self._lanes[lane]:
                return lane
