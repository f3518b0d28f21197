# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Compiled twin of loops.py; see there for what each function does."""

from cpython.bytearray cimport PyByteArray_AS_STRING
from libc.math cimport INFINITY
from libc.stdint cimport uint32_t

from rookery.schemas._address cimport is_plain_address, murmur2_of
from rookery.schemas._wire cimport DELIVERED, Frame, decode_frame, sealed
from rookery.streams.core._fetched cimport FetchedRecord
from rookery.streams.core._mailboxes cimport (
    Finished,
    Item,
    Mailbox,
    Sent,
    Waiting,
    new_item,
    new_mailbox,
)
from rookery.streams.core._progress cimport LaneProgress
from rookery.streams.core._runqueue cimport RunQueue

from rookery.schemas.errors import EnvelopeError

cdef enum:
    STAYS_SHIFT = 27  # see loops.is_passing

cdef uint32_t GOLDEN = 2_654_435_761


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


def size(records):
    """See loops.size."""
    cdef long long total = 0
    cdef bytes value
    for record in records:
        value = (<FetchedRecord>record).value if type(record) is FetchedRecord else record.value
        if value is not None:
            total += len(value)
    return total


def deliver(list items, int lane, partition, RunQueue queue, double now, special):
    """See loops.deliver, and Inbound._open: agents of a class are brought to memory here."""
    cdef dict mailboxes = partition.mailboxes
    cdef int number = partition.number
    cdef uint32_t partitions = partition.partitions
    cdef Py_ssize_t room = partition.room
    cdef str target
    cdef Item item
    cdef Mailbox mailbox
    for item in items:
        target = (<Frame>item.envelope).target
        mailbox = mailboxes.get(target)
        if mailbox is None:
            mailbox = opened(target, number, partitions)
            if mailbox is not None:
                mailbox.passing = len(mailboxes) >= room and <uint32_t>item.offset * GOLDEN >> STAYS_SHIFT != 0
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
        turn.sent = ()  # what is sealed is a copy
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


def acknowledge(list turns, ledgers, dict mailboxes, store):
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
        if mailbox is not None and mailbox.passing and leaves(mailbox):
            if turn.state is not None or mailbox.key in store:
                drop(mailboxes, mailbox)


cdef inline bint leaves(Mailbox mailbox) except -1:
    """See loops._leaves."""
    kind = mailbox.kind
    if not mailbox.is_idle() or mailbox.closed or mailbox.stopped:
        return False
    return kind is None or not (kind.has_activate or kind.has_passivate)


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


def busy(dict mailboxes):
    """See loops.busy."""
    cdef Mailbox mailbox
    return [mailbox for mailbox in mailboxes.values() if mailbox.running or mailbox.held]


def idle(partitions, double before, Py_ssize_t excess):
    """See loops.idle."""
    cdef Mailbox mailbox
    cdef dict mailboxes
    cdef list idlers, chosen, found = [[] for _ in partitions]
    cdef Py_ssize_t room = sum([len(mailboxes) for mailboxes in partitions]), count = 0, late = 0, at
    # When each was used last, and once more those that go only as an excess, which are put in order as far as needed.
    cdef bytearray memory = bytearray(2 * room * sizeof(double))
    cdef double* used = <double*>PyByteArray_AS_STRING(memory)
    cdef double* used_late = used + room
    cdef double last = -INFINITY
    for mailboxes, idlers in zip(partitions, found):
        for mailbox in mailboxes.values():
            if count < room and mailbox.is_idle():
                idlers.append(mailbox)
                used[count] = mailbox.used_at
                if used[count] > before:
                    used_late[late] = used[count]
                    late += 1
                count += 1
    excess -= count - late
    if excess >= late:
        return found
    if excess > 0:
        last = select(used_late, late, excess - 1)
        for at in range(late):
            excess -= used_late[at] < last
    # What is left of the excess is for the first of those that were used at `last`.
    at = 0
    for number, idlers in enumerate(found):
        chosen = []
        for mailbox in idlers:
            if used[at] <= before or used[at] < last:
                chosen.append(mailbox)
            elif used[at] == last and excess > 0:
                chosen.append(mailbox)
                excess -= 1
            at += 1
        found[number] = chosen
    return found


cdef double select(double* values, Py_ssize_t count, Py_ssize_t place) noexcept:
    """The value at a place if they were in order (Hoare); those before it are put there, those behind it behind."""
    cdef Py_ssize_t first = 0, end = count - 1, left, right
    cdef double middle
    while first < end:
        middle = values[first + (end - first) // 2]
        left, right = first, end
        while left <= right:
            while values[left] < middle:
                left += 1
            while values[right] > middle:
                right -= 1
            if left <= right:
                values[left], values[right] = values[right], values[left]
                left += 1
                right -= 1
        if place <= right:
            end = right
        elif place >= left:
            first = left
        else:
            break
    return values[place]


def forget(dict mailboxes, list idle, Py_ssize_t left, double now):
    """See loops.forget."""
    cdef Mailbox mailbox
    while len(idle) > left:
        mailbox = idle.pop()
        if mailbox.closed or not mailbox.is_idle() or mailbox.used_at > now:
            continue
        if mailbox.agent is not None and mailbox.kind.has_passivate:
            return mailbox
        drop(mailboxes, mailbox)
    return None


cdef int drop(dict mailboxes, Mailbox mailbox) except -1:
    """See loops.drop."""
    mailbox.let_go()
    if mailbox.is_idle() and not mailbox.closed:
        mailbox.closed = True
        mailboxes.pop(mailbox.address, None)
    return 0
