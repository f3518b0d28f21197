# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Compiled twin of loops.py; see there for what each function does."""

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_SIZE
from cpython.object cimport PyObject_Hash
from cpython.tuple cimport PyTuple_GET_SIZE
from libc.math cimport INFINITY
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp

from rookery.schemas._address cimport is_plain_address, murmur2_of
from rookery.schemas._memory cimport list_item, prefetch, tuple_item, untrack
from rookery.schemas._wire cimport DELIVERED, Frame, decode_frame, sealed
from rookery.streams.core._directory cimport Directory
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

cdef extern from "Python.h":
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    const void* PyUnicode_DATA(object text)

cdef enum:
    AHEAD = 8  # turns
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


cdef inline int items_ahead(list items, Py_ssize_t at, Directory mailboxes) except -1:
    """Ask memory for what the next messages lead to: they were read in one go, more than the nearest caches hold."""
    cdef Py_ssize_t last = PyList_GET_SIZE(items) - 1
    cdef Item item
    if at + AHEAD <= last:
        prefetch(list_item(items, at + AHEAD), 1)
    if at + 6 <= last:
        item = <Item>list_item(items, at + 6)
        prefetch(<void*>item.envelope, 2)
        prefetch(<void*>item.record, 1)
    if at + 4 <= last:
        item = <Item>list_item(items, at + 4)
        prefetch(<void*>(<Frame>item.envelope).target, 1)
        if type(item.record) is FetchedRecord:
            prefetch(<void*>(<FetchedRecord>item.record).key, 1)
    if at + 3 <= last:
        mailboxes.near(hash_of(<Item>list_item(items, at + 3)))
    if at + 2 <= last:
        mailboxes.nearer(hash_of(<Item>list_item(items, at + 2)))
    return 0


cdef inline uint64_t hash_of(Item item):
    return <uint64_t>PyObject_Hash((<Frame>item.envelope).target)


def deliver(list items, int lane, partition, RunQueue queue, double now, special):
    """See loops.deliver, and Inbound._open: agents of a class are brought to memory here."""
    cdef Directory mailboxes = partition.mailboxes
    cdef int number = partition.number
    cdef uint32_t partitions = partition.partitions
    cdef Py_ssize_t room = partition.room
    cdef str target
    cdef Item item
    cdef Mailbox mailbox
    cdef Py_ssize_t at
    for at, item in enumerate(items):
        items_ahead(items, at, mailboxes)
        target = (<Frame>item.envelope).target
        mailbox = mailboxes.found(target)
        if mailbox is None:
            mailbox = opened(target, item.record, number, partitions)
            if mailbox is not None:
                mailbox.passing = mailboxes.count >= room and <uint32_t>item.offset * GOLDEN >> STAYS_SHIFT != 0
                mailboxes.put(target, mailbox)
        if mailbox is None or mailbox.unborn or mailbox.ledger is not None:
            special(item, mailbox)
            continue
        mailbox.used_at = now
        mailbox.push(lane, item)
        if not mailbox.running:
            queue.push(mailbox, lane)


cdef Mailbox opened(str target, record, int number, uint32_t partitions):
    """A mailbox for an agent of a class; None if there is anything else about its address."""
    cdef bytes key = (<FetchedRecord>record).key if type(record) is FetchedRecord else None
    if not is_plain_address(target):
        return None
    if key is None or not same(key, target):  # as a rule records have the address as their key
        key = target.encode()
    if (murmur2_of(key) & 0x7FFFFFFF) % partitions != <uint32_t>number:
        return None
    return new_mailbox(target, key, number)


cdef inline bint same(bytes key, str address) noexcept:
    """Whether a key is this address, which is ASCII."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(key)
    return PyUnicode_GET_LENGTH(address) == size and not memcmp(
        PyBytes_AS_STRING(key), PyUnicode_DATA(address), <size_t>size
    )


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


cdef inline int sent_ahead(list turns, Py_ssize_t at) except -1:
    """Ask memory for what the next turns have sent: they may have waited for this batch for long."""
    cdef Py_ssize_t last = PyList_GET_SIZE(turns) - 1
    cdef Finished turn
    cdef void* message
    if at + AHEAD <= last:
        prefetch(list_item(turns, at + AHEAD), 2)
    if at + 6 <= last:
        turn = <Finished>list_item(turns, at + 6)
        prefetch(<void*>turn.sent, 1)
        prefetch(<void*>turn.mailbox, 3)
        prefetch(<void*>turn.state, 2)
    if at + 4 <= last:
        prefetch(first_sent(<Finished>list_item(turns, at + 4)), 1)
    if at + 2 <= last:
        turn = <Finished>list_item(turns, at + 2)
        message = first_sent(turn)
        if message != NULL and type(<object>message) is Sent:
            prefetch(<void*>(<Sent>message).body, 5)
        if turn.mailbox is not None:
            prefetch(<void*>turn.mailbox.key, 1)
    return 0


cdef inline void* first_sent(Finished turn) noexcept:
    """The first message of a turn as it usually is, else NULL."""
    if type(turn.sent) is tuple and PyTuple_GET_SIZE(turn.sent):
        return tuple_item(turn.sent, 0)
    return NULL


cdef inline int gone_ahead(list turns, Py_ssize_t at, Directory mailboxes) except -1:
    """Ask memory for what the next turns lead to, whose batch was under way for long."""
    cdef Py_ssize_t last = PyList_GET_SIZE(turns) - 1
    cdef Mailbox mailbox
    if at + AHEAD <= last:
        prefetch(list_item(turns, at + AHEAD), 2)
    if at + 5 <= last:
        prefetch(<void*>(<Finished>list_item(turns, at + 5)).mailbox, 4)
    if at + 3 <= last:
        mailbox = (<Finished>list_item(turns, at + 3)).mailbox
        if mailbox is not None:
            prefetch(<void*>mailbox.address, 1)
            prefetch(<void*>mailbox.key, 1)
    if at + 2 <= last:
        mailbox = (<Finished>list_item(turns, at + 2)).mailbox
        if mailbox is not None and mailbox.passing:
            mailboxes.near(<uint64_t>PyObject_Hash(mailbox.address))
    return 0


def number(list turns, unsigned int source, unsigned long long sequence, dict released):
    """See loops.number."""
    cdef Finished turn
    cdef Sent message
    cdef list group = None
    cdef bytes value
    cdef tuple pair, destination = None
    cdef Py_ssize_t at
    for at, turn in enumerate(turns):
        sent_ahead(turns, at)
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
            pair = (message.key, value)
            untrack(<void*>pair)
            group.append(pair)
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


def acknowledge(list turns, ledgers, Directory mailboxes, store):
    """See loops.acknowledge."""
    cdef Finished turn
    cdef Mailbox mailbox
    cdef Py_ssize_t at
    for at, turn in enumerate(turns):
        gone_ahead(turns, at, mailboxes)
        mailbox = turn.mailbox
        if mailbox is not None:
            mailbox.unsettled -= 1
            if mailbox.ledger is not None:
                ledgers.settled(mailbox)
        if turn.acked is not None:
            turn.acked()
        if mailbox is not None and mailbox.passing and mailbox.is_idle() and not mailbox.stopped:
            if turn.state is not None or mailbox.key in store:
                drop(mailboxes, mailbox)


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


def busy(Directory mailboxes):
    """See loops.busy."""
    cdef Mailbox mailbox
    return [mailbox for mailbox in mailboxes.mailboxes if mailbox is not None and (mailbox.running or mailbox.held)]


def idle(partitions, double before, Py_ssize_t excess):
    """See loops.idle."""
    cdef Mailbox mailbox
    cdef Directory mailboxes
    cdef list idlers, chosen, found = [[] for _ in partitions]
    cdef Py_ssize_t room = sum([len(mailboxes) for mailboxes in partitions]), count = 0, late = 0, at
    # When each was used last, and once more those that go only as an excess, which are put in order as far as needed.
    cdef bytearray memory = bytearray(2 * room * sizeof(double))
    cdef double* used = <double*>PyByteArray_AS_STRING(memory)
    cdef double* used_late = used + room
    cdef double last = -INFINITY
    for mailboxes, idlers in zip(partitions, found):
        for mailbox in mailboxes.mailboxes:
            if mailbox is not None and count < room and mailbox.is_idle():
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


def forget(Directory mailboxes, list idle, Py_ssize_t left, double now):
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


cdef int drop(Directory mailboxes, Mailbox mailbox) except -1:
    """See loops.drop."""
    mailbox.let_go()
    if mailbox.is_idle() and not mailbox.closed:
        mailbox.closed = True
        mailboxes.remove(mailbox.address)
    return 0
