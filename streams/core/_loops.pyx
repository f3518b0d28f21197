# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Compiled twin of loops.py; see there for what each function does."""

from rookery.schemas._wire cimport DELIVERED, Frame, decode_frame, sealed
from rookery.streams.core._mailboxes cimport Finished, Item, Mailbox, RunQueue, Sent, Waiting
from rookery.streams.core._progress cimport LaneProgress

from heapq import nsmallest

from rookery.schemas.errors import EnvelopeError


def admit(LaneProgress progress, records, Py_ssize_t at, long long partitions, read, list items, list refused):
    """See loops.admit."""
    cdef Py_ssize_t index, count = len(records)
    cdef long long offset
    cdef Frame frame
    cdef bint admitted
    for index in range(at, count):
        record = records[index]
        offset = record.offset
        if offset != progress.next:
            return index
        try:
            frame = read(record) if record.headers else decode_frame(record.value)
        except EnvelopeError as error:
            if progress.admit_client(""):
                refused.append((record, error))
            continue
        if frame.sequence and frame.source < partitions:
            admitted = progress.admit_one(frame.source, frame.sequence)
        else:
            admitted = progress.admit_client(frame.id)
        if admitted:
            items.append(Item(offset, frame, record))
    return count


def deliver(list items, int lane, dict mailboxes, RunQueue queue, double now, special):
    """See loops.deliver."""
    cdef Item item
    cdef Mailbox mailbox
    for item in items:
        mailbox = mailboxes.get((<Frame>item.envelope).target)
        if mailbox is None or mailbox.unborn or mailbox.ledger is not None:
            special(item, mailbox)
            continue
        mailbox.used_at = now
        mailbox.lane(lane).push(item)
        if not mailbox.running:
            queue.push(mailbox, lane)


def take(Waiting finished, list turns, Py_ssize_t turns_max, long long size, long long bytes_max):
    """See loops.take."""
    cdef long long more
    while finished.size() and len(turns) < turns_max:
        more = size + (<Finished>finished.first()).size
        if more > bytes_max and turns:
            break
        size = more
        turns.append(finished.popleft())
    return size


def number(list turns, unsigned int source, unsigned long long sequence, dict released):
    """See loops.number."""
    cdef Finished turn
    cdef Sent message
    cdef list group = None
    cdef bytes value
    cdef tuple destination = None
    for turn in turns:
        for message in turn.sent:
            if message.sequenced:
                value = sealed(message.body, DELIVERED, source, sequence)
                sequence += 1
            else:
                value = message.body
            if message.destination is not destination:
                destination = message.destination
                group = released.get(destination)
                if group is None:
                    group = released[destination] = []
            group.append((message.key, value))
    return sequence


def settle(list turns, tuple lanes, ledgers, dict records):
    """See loops.settle."""
    cdef Finished turn
    cdef Mailbox mailbox
    cdef LaneProgress progress
    for turn in turns:
        mailbox = turn.mailbox
        progress = lanes[turn.lane]
        if mailbox is None:
            progress.give_up(turn.offset)
            continue
        if mailbox.ledger is None or ledgers.settle(turn, mailbox.ledger, records):
            progress.finish(turn.offset)
        if turn.state is not None:
            records[mailbox.key] = turn.state or None


def acknowledge(list turns, ledgers):
    """See loops.acknowledge."""
    cdef Finished turn
    cdef Mailbox mailbox
    for turn in turns:
        mailbox = turn.mailbox
        if mailbox is not None:
            mailbox.unsettled -= 1
            if mailbox.ledger is not None:
                ledgers.settled(mailbox)
        if turn.acked is not None:
            turn.acked()


def tally(list turns, str unknown):
    """See loops.tally."""
    cdef dict counts = {}
    cdef Finished turn
    cdef Py_ssize_t count = 0  # of the last turns, which are all of one kind and lane
    cdef int lane = 0
    kind = None
    for turn in turns:
        found = None if turn.mailbox is None else turn.mailbox.kind
        if found is not kind or turn.lane != lane:
            add(counts, kind, unknown, lane, count)
            kind, lane, count = found, turn.lane, 0
        count += 1
    add(counts, kind, unknown, lane, count)
    return counts


cdef int add(dict counts, kind, str unknown, int lane, Py_ssize_t count) except -1:
    if count:
        place = unknown if kind is None else kind.name, lane
        counts[place] = counts.get(place, 0) + count
    return 0


def idle(mailboxes, double before, Py_ssize_t excess):
    """See loops.idle."""
    cdef Mailbox mailbox
    cdef list found = [], late = []
    for mailbox in mailboxes:
        if mailbox.is_idle():
            (found if mailbox.used_at <= before else late).append((mailbox.used_at, len(found) + len(late), mailbox))
    excess -= len(found)
    if excess > 0:
        found += nsmallest(excess, late) if excess * 4 < len(late) else sorted(late)[:excess]
    found.sort()
    return [mailbox for _, _, mailbox in found]
