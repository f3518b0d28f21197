"""The loops over messages and turns of one partition: what each of them costs, all of them cost.

Decisions that are rare stay with the partition; `_loops.pyx` is the compiled twin.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from rookery.schemas import native
from rookery.schemas.envelope import Received, decode, seal
from rookery.schemas.errors import EnvelopeError
from rookery.streams.core.batch import Finished
from rookery.streams.core.ledger import Ledgers
from rookery.streams.core.mailbox import Item, Mailbox
from rookery.streams.core.outbox import Destination, Message
from rookery.streams.core.progress import LaneProgress
from rookery.streams.core.runqueue import RunQueue
from rookery.streams.log import Record

if TYPE_CHECKING:
    from rookery.streams.core.partition import Partition


def admit(
    progress: LaneProgress,
    records: Sequence[Record],
    at: int,
    partitions: int,
    read: Callable[[Record], Received],
    items: list[Item],
    refused: list[tuple[Record, EnvelopeError]],
) -> int:
    """Admit the records from index `at` on, up to the first that does not come next (R2, R3); returns its index.

    `items` takes what is to be handled, `refused` what can't be read; `read` is for records with headers.
    """
    for index in range(at, len(records)):
        record = records[index]
        offset = record.offset
        if offset != progress.next:
            return index
        try:
            envelope = read(record) if record.headers else decode(record.value)
        except EnvelopeError as error:
            if progress.admit_outside(""):
                refused.append((record, error))
            continue
        delivery = envelope.delivery
        sequence = delivery.sequence
        if sequence and delivery.source < partitions:
            admitted = progress.admit(delivery.source, sequence)
        else:
            admitted = progress.admit_outside(envelope.id)
        if admitted:
            items.append(Item(offset, envelope, record))
    return len(records)


def size(records: Iterable[Record]) -> int:
    """The bytes of their values."""
    return sum([len(record.value or b"") for record in records])


def deliver(
    items: Iterable[Item],
    lane: int,
    partition: Partition,
    queue: RunQueue,
    now: float,
    special: Callable[[Item, Mailbox | None], None],
) -> None:
    """Put messages into the mailboxes of their agents; `special` takes those whose agent needs a closer look."""
    find, push = partition.mailboxes.get, queue.push
    for item in items:
        mailbox = find(item.envelope.target)
        if mailbox is None or mailbox.unborn or mailbox.ledger is not None:
            special(item, mailbox)
            continue
        mailbox.used_at = now
        mailbox.lanes[lane].append(item)
        if not mailbox.running:
            push(mailbox, lane)


def is_passing(crowded: bool, offset: int) -> bool:
    """Whether an agent that is brought to memory by the message at `offset` leaves it again as soon as it idles.

    With too many agents there, it does not pay to keep each one until it has idled longest: most would leave before
    they are written to again, and what is let go at once is still in the processor's caches. One in 32 stays, so that
    those that are written to often do in the end: bimodal insertion (Qureshi et al., Adaptive insertion policies for
    high performance caching, ISCA 2007).
    """
    # Which one, the bits of a product say (Fibonacci hashing), since offsets of one agent may all be odd.
    return crowded and (offset * 2_654_435_761 & 0xFFFFFFFF) >> 27 != 0


def take(finished: deque[Finished], turns: list[Finished], turns_max: int, size: int, bytes_max: int) -> int:
    """Move turns of `finished` to `turns`, of which `size` says how large they are, as many as fit; the first always
    does. Returns the size."""
    while finished and len(turns) < turns_max:
        more = size + finished[0].size
        if more > bytes_max and turns:
            break
        size = more
        turns.append(finished.popleft())
    return size


def number(turns: Iterable[Finished], source: int, sequence: int, released: dict[Destination, list[Message]]) -> int:
    """Seal the messages of turns in commit order and group them by destination; returns the next sequence."""
    for turn in turns:
        for message in turn.sent:
            if message.sequenced:
                value = seal(message.body, source, sequence)
                sequence += 1
            else:
                value = message.body
            group = released.get(message.destination)
            if group is None:
                released[message.destination] = [(message.key, value)]
            else:
                group.append((message.key, value))
        turn.sent = ()  # what is sealed is a copy
    return sequence


def settle(
    turns: Iterable[Finished], lanes: Sequence[LaneProgress], ledgers: Ledgers, records: dict[bytes, bytes | None]
) -> None:
    """Mark the messages of turns as done, and put what their agents are now into the records of a batch."""
    for turn in turns:
        mailbox, state = turn.mailbox, turn.state
        if mailbox is None:
            lanes[turn.lane].give_up(turn.offset)
            continue
        ledger = mailbox.ledger
        if ledger is None or ledgers.settle(turn, ledger, records):
            lanes[turn.lane].done(turn.offset)
        if state is not None:
            records[mailbox.key] = state or None


def acknowledge(
    turns: Iterable[Finished], ledgers: Ledgers, mailboxes: dict[str, Mailbox], store: Container[bytes]
) -> None:
    """The batch of these turns is stored; with too many agents in memory, those that are only passing leave it."""
    for turn in turns:
        mailbox = turn.mailbox
        if mailbox is not None:
            mailbox.unsettled -= 1
            if mailbox.ledger is not None:
                ledgers.settled(mailbox)
        if turn.acked is not None:
            turn.acked()
        if mailbox is not None and mailbox.passing and _leaves(mailbox, turn.state is not None or mailbox.key in store):
            drop(mailboxes, mailbox)


def _leaves(mailbox: Mailbox, is_stored: bool) -> bool:
    """Whether an agent that passes can go. Not one that was stopped, and is to say so for a while, nor one that is not
    stored yet: it would be made anew for each message, perhaps with other defaults."""
    return is_stored and mailbox.idle and not mailbox.stopped


def tally(turns: Iterable[Finished], unknown: str) -> dict[tuple[str, int], int]:
    """How many of the turns are of each agent type and lane; `unknown` is the type of an agent that was never made."""
    counts: dict[tuple[str, int], int] = {}
    for turn in turns:
        mailbox = turn.mailbox
        place = unknown if mailbox is None or mailbox.kind is None else mailbox.kind.name, turn.lane
        counts[place] = counts.get(place, 0) + 1
    return counts


def busy(mailboxes: Mapping[str, Mailbox]) -> list[Mailbox]:
    """The agents with a turn in hand, and those that are held."""
    return [mailbox for mailbox in mailboxes.values() if mailbox.running or mailbox.held]


def idle(partitions: Sequence[Mapping[str, Mailbox]], before: float, excess: int) -> list[list[Mailbox]]:
    """The agents that idle, by partition: all that were used last at `before` or earlier, in any case the `excess` that
    have idled longest of all."""
    found = [[mailbox for mailbox in mailboxes.values() if mailbox.idle] for mailboxes in partitions]
    longest = set(sorted(chain.from_iterable(found), key=_used_at)[: max(excess, 0)])
    return [[mailbox for mailbox in idlers if mailbox.used_at <= before or mailbox in longest] for idlers in found]


def _used_at(mailbox: Mailbox) -> float:
    return mailbox.used_at


def forget(mailboxes: dict[str, Mailbox], idle: list[Mailbox], left: int, now: float) -> Mailbox | None:
    """Free the memory of agents from the end of `idle` until `left` remain there, but not of those that were used after
    `now` or don't idle any more. Returns early, with one whose hook has to be called first."""
    while len(idle) > left:
        mailbox = idle.pop()
        # Turns have gone on, or a hook was awaited meanwhile.
        if mailbox.closed or not mailbox.idle or mailbox.used_at > now:
            continue
        if mailbox.agent is not None and mailbox.kind.has_passivate:
            return mailbox
        drop(mailboxes, mailbox)
    return None


def drop(mailboxes: dict[str, Mailbox], mailbox: Mailbox) -> None:
    """Free the memory of an agent that idles; its state is in the store."""
    mailbox.agent = mailbox.context = None
    if mailbox.idle and not mailbox.closed:
        mailbox.closed = True
        if mailbox.address in mailboxes:
            del mailboxes[mailbox.address]


if (_compiled := native.load("rookery.streams.core._loops")) is not None:
    admit, size, deliver, take = _compiled.admit, _compiled.size, _compiled.deliver, _compiled.take
    number, settle, acknowledge = _compiled.number, _compiled.settle, _compiled.acknowledge
    tally, busy = _compiled.tally, _compiled.busy
    idle, forget = _compiled.idle, _compiled.forget
