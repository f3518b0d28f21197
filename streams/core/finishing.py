"""Finished turns on their way into commit batches, in the order in which they ended.

While the outbox ring is full, turns that send stay here, and with them everything that their agents did after (R7).
They are set aside when they are first met: a backlog of many batches must not be looked through for each of them.
"""

from collections import deque

from rookery.streams.core import loops
from rookery.streams.core.batch import Finished
from rookery.streams.core.mailbox import Mailbox, Waiting


class Finishing:
    """See the head of this module; `fresh` takes turns as they finish."""

    __slots__ = ("_aside", "_blocked", "fresh")

    def __init__(self) -> None:
        self.fresh: deque[Finished] = Waiting()
        self._aside: deque[Finished] = Waiting()  # all older than those in `fresh`
        self._blocked: dict[Mailbox | None, int] = {}  # whose turns were set aside, and how many

    def __len__(self) -> int:
        return len(self.fresh) + len(self._aside)

    def clear(self) -> None:
        """Forget all."""
        self.fresh.clear()
        self._aside.clear()
        self._blocked.clear()

    def take(self, turns_max: int, size: int, bytes_max: int) -> list[Finished]:
        """The next turns, as many as `bytes_max` leaves room for beside `size`; at least one if there is any."""
        turns: list[Finished] = []
        if self._aside:
            size = loops.take(self._aside, turns, turns_max, size, bytes_max)
            for turn in turns:
                left = self._blocked[turn.mailbox] - 1
                if left:
                    self._blocked[turn.mailbox] = left
                else:
                    del self._blocked[turn.mailbox]
        if not self._aside:
            loops.take(self.fresh, turns, turns_max, size, bytes_max)
        return turns

    def take_silent(self, turns_max: int, size: int, bytes_max: int) -> list[Finished]:
        """The same of turns that send nothing, and whose agents have none set aside."""
        turns: list[Finished] = []
        fresh, blocked = self.fresh, self._blocked
        while fresh and len(turns) < turns_max:
            turn = fresh[0]
            if turn.sent or turn.mailbox in blocked:
                blocked[turn.mailbox] = blocked.get(turn.mailbox, 0) + 1
                self._aside.append(fresh.popleft())
                continue
            size += turn.size
            if size > bytes_max and turns:
                break
            turns.append(fresh.popleft())
        return turns
