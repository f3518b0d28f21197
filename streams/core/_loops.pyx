# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Compiled twin of loops.py; see there for what each function does."""

from libc.stdint cimport uint32_t

from rookery.schemas._address cimport is_plain_address, murmur2_of
from rookery.schemas._wire cimport DELIVERED, Frame, decode_frame, sealed
from rookery.streams.core._fetched cimport FetchedRecord
from rookery.streams.core._mailboxes cimport (
    Finished,
    Item,
    Mailbox,
    RunQueue,
    Sent,
    Waiting,
    new_item,
    new_mailbox,
)
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
        if type(record) is FetchedRecord:
            offset, headers, value = (
                (<FetchedRecord>record).offset, (<FetchedRecord>record).headers, (<FetchedRecord>record).value
            )
        else:
            offset, headers, value = record.offset, record.headers, record.value
        if offset != progress.next:
            return index
        try:
            frame = read(record) if headers else decode_frame(value)
        except EnvelopeError as error:
            if progress.admit_client(""):
                refused.append((record, error))
            continue
        if frame.sequence and frame.source < partitions:
            admitted = progress.admit_one(frame.source, frame.sequence)
        else:
            admitted = progress.admit_client(frame.id)
        if admitted:
            items.append(new_item(offset, frame, record))
    return count


def deliver(list items, int lane, partition, RunQueue queue, double now, special):
    """See loops.deliver, and Inbound._open: agents of a class are brought to memory here."""
    cdef dict mailboxes = partition.mailboxes
    cdef int number = partition.number
    cdef uint32_t partitions = partition.partitions
    cdef str target
    cdef Item item
    cdef Mailbox mailbox
    for item in items:
        target = (<Frame>item.envelope).target
        mailbox = mailboxes.get(target)
        if mailbox is None:
            mailbox = opened(target, number, partitions)
            if mailbox is not None:
                mailboxes[target] = mailbox
        if mailbox is None or mailbox.unborn or mailbox.ledger is not None:
            special(item, mailbox)
            continue
        mailbox.used_at = now
        mailbox.lane(lane).push(item)
        if not mailbox.running:
            queue.push(mailbox, lane)


cdef Mailbox opened(str target, int number, uint32_t partitions):
    """A mailbox for an agent of a class; None if there is anything else about its address."""
    cdef bytes key
    if not is_plain_address(target):
        return None
    key = target.encode()
    if (murmur2_of(key) & 0x7FFFFFFF) % partitions != <uint32_t>number:
        return None
    return new_mailbox(target, key, number)


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
