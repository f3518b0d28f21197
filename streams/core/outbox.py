"""The outbox: messages of committed turns on their way out, ordered per target partition, bounded by a ring.

Every commit batch that sends holds all its messages in one journal slot, `~out/<n mod R>`. A slot is used again only
once everything up to its old number has been acknowledged, so recovery always finds what was not sent.
"""

from collections import deque
from collections.abc import Sequence
from itertools import chain

from msgspec import Struct
from msgspec.structs import replace

from rookery.schemas import native

# A target partition: topic and partition number.
Destination = tuple[str, int]
# What goes there: record key and value.
Message = tuple[bytes | None, bytes]


class Outbox:
    """The ring of one source partition: which slots are live, and through which number everything was sent."""

    __slots__ = ("_open", "closed", "next_slot", "ring", "sent_through")

    def __init__(self, ring: int, next_slot: int, sent_through: int) -> None:
        self.ring = ring
        self.next_slot = next_slot
        self.sent_through = sent_through
        self.closed = False  # the partition was dropped: nothing of it may be sent any more
        self._open: dict[int, int] = {}  # slot number -> messages not yet acknowledged

    @property
    def has_room(self) -> bool:
        """Whether the next slot may be written: what it held before has been sent."""
        return self.next_slot - self.ring <= self.sent_through

    @property
    def is_empty(self) -> bool:
        """Whether all that was committed has been sent."""
        return self.sent_through == self.next_slot - 1

    def release(self, number: int, count: int) -> None:
        """Slot `number` with `count` messages is committed and may be sent."""
        self._open[number] = count

    def acknowledge(self, number: int, count: int) -> None:
        """`count` messages of slot `number` were acknowledged by their target partition, or had no target left."""
        left = self._open[number] - count
        if left:
            self._open[number] = left
            return
        self._open[number] = 0
        while self._open.get(self.sent_through + 1) == 0:
            self.sent_through += 1
            del self._open[self.sent_through]


class Group(Struct, eq=False):
    """The messages of one slot for one destination, in commit order."""

    outbox: Outbox
    number: int
    messages: Sequence[Message]


class DestinationQueue:
    """One ordered queue per target partition, over all source partitions of this worker.

    `take` shows the head without removing it: one batch is in flight at a time, and only `settle` removes. After a
    failure the same head is taken again; messages are never skipped or reordered.
    """

    __slots__ = ("_groups", "_taken")

    def __init__(self) -> None:
        self._groups: deque[Group] = deque()
        self._taken: list[Group] = []

    def __len__(self) -> int:
        return len(self._groups)

    def put(self, group: Group) -> None:
        """Append a committed group."""
        self._groups.append(group)

    def take(self, bytes_max: int, overhead: int) -> list[Message]:
        """The messages of as many whole groups from the head as fit `bytes_max`, counting `overhead` bytes each.

        One group always goes, cut to what fits; groups of dropped partitions are removed unsent. Empty when nothing
        is left.
        """
        taken: list[Group] = []
        messages: list[Message] = []
        size = 0
        groups = self._groups
        while groups:
            group = groups[0]
            if group.outbox.closed:
                groups.popleft()
                continue
            fitting, size = _fit(group.messages, size, bytes_max, overhead, not taken)
            if fitting == len(group.messages):
                messages.extend(group.messages)
                taken.append(groups.popleft())
                continue
            if not taken:
                groups[0] = replace(group, messages=group.messages[fitting:])
                taken.append(replace(group, messages=group.messages[:fitting]))
                messages.extend(group.messages[:fitting])
            break
        groups.extendleft(reversed(taken))
        self._taken = taken
        return messages

    def settle(self) -> None:
        """What `take` gave last is acknowledged: remove it and tell its outboxes."""
        for group in self._taken:
            self._groups.popleft()
            if not group.outbox.closed:
                group.outbox.acknowledge(group.number, len(group.messages))
        self._taken = []


def _fitting(messages: Sequence[Message], size: int, bytes_max: int, overhead: int, one_goes: bool) -> tuple[int, int]:
    """How many messages from the first on fit, and the size with them; `one_goes` whatever its size."""
    try:  # nearly always all do, and then C adds up
        whole = size + overhead * len(messages) + sum(map(len, chain.from_iterable(messages)))  # type: ignore[arg-type]
        if whole <= bytes_max:
            return len(messages), whole
    except TypeError:  # a key is None
        pass
    for index, (key, value) in enumerate(messages):
        size += len(value) + len(key or b"") + overhead
        if size > bytes_max and not (one_goes and not index):
            return index, size
    return len(messages), size


_sizes = native.load("rookery.streams.core._sizes")
_fit = _fitting if _sizes is None else _sizes.fitting
