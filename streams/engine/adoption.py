"""Adoption: which messages are taken over by the journal, so that a slow agent does not pin its inbox's prefix.

Looked at now and then, not at each turn: an agent whose message has been in hand for `adopt_after` seconds, or for
a moment while a lane of its partition is half full, has its messages parked, those in hand and those that wait behind.
"""

from collections.abc import Iterable

from rookery.streams.core import loops
from rookery.streams.core.mailbox import LANES, Item, Mailbox
from rookery.streams.core.partition import Partition


class Adoption:
    """Remembers since when an agent has had its message in hand."""

    def __init__(self, adopt_after: float) -> None:
        """`adopt_after` is seconds."""
        self._adopt_after = adopt_after
        self._since: dict[Mailbox, tuple[Item | None, float]] = {}
        self._looked_at = 0.0

    def long_turns(self) -> set[int]:
        """Partitions with a turn that was in hand at two looks. A shorter one is run again sooner than waited for."""
        return {
            m.partition
            for m, (_, start) in self._since.items()
            if m.running and not m.closed and start < self._looked_at
        }

    def look(self, partitions: Iterable[Partition], now: float) -> None:
        """Request the adoption of what has been in hand for too long at `now`, monotonic seconds."""
        before, since = self._since, {}
        self._looked_at = now
        for partition in partitions:
            pressed = any(partition.is_full(lane, share=0.5) for lane in range(LANES))
            for mailbox in loops.busy(partition.mailboxes):
                item, start = before.get(mailbox, (None, now))
                if item is not mailbox.current or mailbox not in before:
                    start = now
                since[mailbox] = (mailbox.current, start)
                if ((pressed and now > start) or now - start >= self._adopt_after) and _unparked(mailbox):
                    partition.ledgers.request(mailbox)
        self._since = since


def _unparked(mailbox: Mailbox) -> bool:
    """Whether some message of the agent is in its inbox only."""
    ledger = mailbox.ledger
    adopted = [-1] * LANES if ledger is None else ledger.adopted
    if mailbox.current is not None and mailbox.current.offset > adopted[mailbox.current_lane]:
        return True
    return any(
        waiting and waiting[-1].offset > through for waiting, through in zip(mailbox.lanes, adopted, strict=True)
    )
