"""The run queue: agents that have work, by priority, weighted 8:3:1 so that LOW keeps its share."""

from collections import deque

from rookery.streams.core.mailbox import Mailbox

# HIGH : NORMAL : LOW, by lane number (LOW is lane 0).
WEIGHTS = (1, 3, 8)


class RunQueue:
    """Mailboxes with work, first in first out within a lane; between lanes smooth weighted round robin."""

    __slots__ = ("_credit", "_lanes")

    def __init__(self) -> None:
        self._lanes: tuple[deque[Mailbox], ...] = (deque(), deque(), deque())
        self._credit = [0, 0, 0]

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
            waiting = [lane for lane in (2, 1, 0) if lanes[lane]]
            if not waiting:
                return None
            lane = waiting[0] if len(waiting) == 1 else self._choose(waiting)
            mailbox = lanes[lane].popleft()
            mailbox.queued[lane] = False
            if mailbox.lanes[lane] and not mailbox.running and not mailbox.closed:
                return mailbox, lane

    def _choose(self, waiting: list[int]) -> int:
        """Smooth weighted round robin: every waiting lane earns its weight, the richest is served and pays the sum."""
        credit = self._credit
        best, total = waiting[0], 0
        for lane in waiting:
            credit[lane] += WEIGHTS[lane]
            total += WEIGHTS[lane]
            if credit[lane] > credit[best]:
                best = lane
        credit[best] -= total
        return best
