# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Compiled twins of what is made or touched for each message: see mailbox.py and batch.py."""

cimport cython
from cpython.list cimport PyList_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove

# What batch.py, which imports this, tells it.
cdef Py_ssize_t RECORD_OVERHEAD = 0, MESSAGE_OVERHEAD = 0
# What is taken from the head stays in the list, as None, until it is so much; then it is cut off at once.
cdef Py_ssize_t CUT = 1_024

cdef enum:
    OWN = 2  # messages for which a lane has room in itself
    LANE_MAX = 1 << 29


@cython.final
@cython.freelist(256)
cdef class Waiting:
    """A queue with what a deque has and we use; empty it takes a tenth of one."""

    def __cinit__(self):
        self.items = []
        self.head = 0

    cdef Py_ssize_t size(self) noexcept:
        return PyList_GET_SIZE(self.items) - self.head

    cdef void push(self, object item):
        self.items.append(item)

    cdef object first(self):
        """The head; there must be one."""
        return self.items[self.head]

    cpdef object popleft(self):
        """Remove and return the head; raises IndexError."""
        cdef list items = self.items
        if PyList_GET_SIZE(items) == self.head:
            raise IndexError("nothing waits here")
        item = items[self.head]
        items[self.head] = None
        self.head += 1
        if self.head == PyList_GET_SIZE(items):
            items.clear()
            self.head = 0
        elif self.head >= CUT and self.head * 2 >= PyList_GET_SIZE(items):
            del items[: self.head]
            self.head = 0
        return item

    def append(self, item):
        """Put an item at the end."""
        self.items.append(item)

    def appendleft(self, item):
        """Put an item at the head."""
        if self.head:
            self.head -= 1
            self.items[self.head] = item
        else:
            self.items.insert(0, item)

    def extend(self, items):
        """Put items at the end."""
        self.items.extend(items)

    def clear(self):
        """Remove all."""
        self.items.clear()
        self.head = 0

    def __len__(self):
        return self.size()

    def __bool__(self):
        return self.size() > 0

    def __getitem__(self, Py_ssize_t index):
        cdef Py_ssize_t size = self.size()
        if index < 0:
            index += size
        if not 0 <= index < size:
            raise IndexError(index)
        return self.items[self.head + index]

    def __iter__(self):
        return iter(self.items[self.head:])


@cython.final
@cython.no_gc
@cython.freelist(4096)
cdef class Lane:
    """The same for messages, which are in no cycle: the collector need not look at the lanes of all agents."""

    def __cinit__(self):
        self.items, self.room = self.own, OWN

    def __dealloc__(self):
        while self.count:
            self.popleft()
        if self.items != self.own:
            free(self.items)

    cdef int push(self, object item) except -1:
        cdef int place
        if self.count == self.room:
            self.grow()
        place = self.head + self.count
        if place >= self.room:
            place -= self.room
        Py_INCREF(item)
        self.items[place] = <PyObject*>item
        self.count += 1
        return 0

    cdef int grow(self) except -1:
        """Take twice the room; what stood at the end of the ring stays behind what it was behind."""
        cdef int room = self.room * 2, wrapped
        cdef PyObject** items = NULL
        if self.room <= LANE_MAX:
            items = <PyObject**>realloc(self.items if self.items != self.own else NULL, room * sizeof(PyObject*))
        if items == NULL:
            raise MemoryError()
        if self.items == self.own:
            memcpy(items, self.own, OWN * sizeof(PyObject*))
        wrapped = self.room - self.head
        if self.head:
            memmove(items + room - wrapped, items + self.head, wrapped * sizeof(PyObject*))
            self.head = room - wrapped
        self.items, self.room = items, room
        return 0

    cdef object first(self):
        """The head; there must be one."""
        return <object>self.items[self.head]

    cpdef object popleft(self):
        """Remove and return the head; raises IndexError."""
        if not self.count:
            raise IndexError("nothing waits here")
        item = <object>self.items[self.head]
        Py_DECREF(item)
        self.head += 1
        self.count -= 1
        if self.head == self.room or not self.count:
            self.head = 0
        return item

    def append(self, item):
        """Put a message at the end."""
        self.push(item)

    def appendleft(self, item):
        """Put a message at the head."""
        if self.count == self.room:
            self.grow()
        self.head = (self.head if self.head else self.room) - 1
        Py_INCREF(item)
        self.items[self.head] = <PyObject*>item
        self.count += 1

    def extend(self, items):
        """Put messages at the end."""
        for item in items:
            self.push(item)

    def clear(self):
        """Remove all."""
        while self.count:
            self.popleft()

    def __len__(self):
        return self.count

    def __bool__(self):
        return self.count > 0

    def __getitem__(self, Py_ssize_t index):
        if index < 0:
            index += self.count
        if not 0 <= index < self.count:
            raise IndexError(index)
        return <object>self.items[(self.head + index) % self.room]

    def __iter__(self):
        cdef Py_ssize_t index
        return iter([<object>self.items[(self.head + index) % self.room] for index in range(self.count)])


@cython.final
@cython.no_gc
@cython.freelist(4096)
cdef class Item:
    """See mailbox.Item."""

    def __init__(self, long long offset, envelope, record):
        self.offset = offset
        self.envelope = envelope
        self.record = record

    @staticmethod
    def parked(long long offset):
        """The place of a message that is in the journal; to be read before its turn."""
        return new_item(offset, None, None)

    @property
    def is_parked(self):
        """Whether it has to be read first."""
        return self.record is None


# What other compiled modules make things by: a call of a class boxes its numbers and takes three times as long.
cdef Item new_item(long long offset, object envelope, object record):
    cdef Item item = Item.__new__(Item)
    item.offset, item.envelope, item.record = offset, envelope, record
    return item


# For the collector: an agent that keeps a step in an attribute leads back to its mailbox, and nobody else lets go of
# either when a lease is lost.
@cython.final
@cython.freelist(4096)
cdef class Mailbox:
    """See mailbox.Mailbox."""

    def __init__(self, str address, int partition):
        self.address = address
        self.key = address.encode()
        self.partition = partition
        self.kind_name = ""

    # Most agents are written to with one priority, and what comes and goes by the hundred thousand must be small.
    cdef Lane lane(self, int number):
        if number == 1:
            if self.normal is None:
                self.normal = Lane.__new__(Lane)
                if self.only is not None:
                    self.normal.push(self.only)
                    self.only = None
            return self.normal
        if number == 0:
            if self.low is None:
                self.low = Lane.__new__(Lane)
            return self.low
        if self.high is None:
            self.high = Lane.__new__(Lane)
        return self.high

    cdef int push(self, int number, Item item) except -1:
        """Put a message at the end of a lane."""
        if number == 1 and self.normal is None and self.only is None:
            self.only = item
            return 0
        return self.lane(number).push(item)

    cdef Item first(self, int number):
        """The head of a lane; there must be one."""
        return self.only if number == 1 and self.only is not None else <Item>self.lane(number).first()

    cdef int pop(self, int number) except -1:
        """Remove it."""
        if number == 1 and self.only is not None:
            self.only = None
        else:
            self.lane(number).popleft()
        return 0

    cpdef int count(self, int number) noexcept:
        """How many messages wait in a lane."""
        if number == 1:
            return self.only is not None if self.normal is None else self.normal.count
        if number == 0:
            return 0 if self.low is None else self.low.count
        return 0 if self.high is None else self.high.count

    cdef bint waits(self, int number) noexcept:
        """Whether a lane holds something."""
        return self.count(number) > 0

    @property
    def lanes(self):
        """The three queues, by lane."""
        return self.lane(0), self.lane(1), self.lane(2)

    @property
    def queued(self):
        """Whether the run queue holds it, by lane."""
        return [bool(self.in_queue[number]) for number in range(3)]

    def __len__(self):
        return self.count(0) + self.count(1) + self.count(2)

    @property
    def idle(self):
        """Nothing waits, nothing runs, nothing is on its way to the journal: memory can be freed."""
        return self.is_idle()

    cdef bint waiting(self) noexcept:
        """Whether any lane holds something."""
        return self.waits(1) or self.waits(0) or self.waits(2)

    cdef bint is_idle(self) noexcept:
        return not self.running and not self.unsettled and not self.waiting() and self.ledger is None

    cdef int let_go(self) except -1:
        """Take the agent from memory. Its end may be a finalizer of the user's, which sees what is here: it is in nobody's
        place any more."""
        agent, self.agent = self.agent, None
        context, self.context = self.context, None
        agent = context = None
        return 0


cdef Mailbox new_mailbox(str address, bytes key, int partition):
    """`key` is the address, encoded."""
    cdef Mailbox mailbox = Mailbox.__new__(Mailbox)
    mailbox.address, mailbox.key, mailbox.partition, mailbox.kind_name = address, key, partition, ""
    return mailbox


@cython.final
@cython.no_gc
@cython.freelist(4096)
cdef class Sent:
    """See batch.Sent."""

    def __init__(self, tuple destination, bytes key, bytes body, bint sequenced):
        self.destination = destination
        self.key = key
        self.body = body
        self.sequenced = sequenced


cdef Sent new_sent(tuple destination, bytes key, bytes body, bint sequenced):
    cdef Sent message = Sent.__new__(Sent)
    message.destination, message.key, message.body, message.sequenced = destination, key, body, sequenced
    return message


@cython.final
@cython.no_gc  # what holds it lets go of it: batches when they are acknowledged, partitions when they are closed
@cython.freelist(4096)
cdef class Finished:
    """See batch.Finished."""

    def __init__(
        self,
        Mailbox mailbox,
        int lane,
        long long offset,
        bytes state,
        sent,
        *,
        cells=None,
        bint ends=True,
        acked=None,
    ):
        self.mailbox = mailbox
        self.lane = lane
        self.offset = offset
        self.state = state
        self.sent = sent
        self.cells = cells
        self.ends = ends
        self.acked = acked
        self.measure()

    def __post_init__(self):
        """Work out the size anew."""
        self.measure()

    cdef int measure(self) except -1:
        cdef long long size = 0
        cdef Sent message
        if self.state is not None:
            size = len(self.state) + RECORD_OVERHEAD
        for message in self.sent:
            size += len(message.body) + MESSAGE_OVERHEAD
            if message.key is not None:
                size += len(message.key)
        if self.cells:
            for key, value in self.cells.items():
                size += len(key) + len(value or b"") + RECORD_OVERHEAD
        self.size = size
        return 0


cdef Finished new_finished(Mailbox mailbox, int lane, long long offset, bytes state, object sent):
    """The usual one."""
    cdef Finished finished = Finished.__new__(Finished)
    finished.mailbox, finished.lane, finished.offset, finished.state = mailbox, lane, offset, state
    finished.sent, finished.ends = sent, True
    finished.measure()
    return finished


def count_overheads(Py_ssize_t record, Py_ssize_t message):
    """Take what batch.py adds to the sizes of records and messages, bytes."""
    global RECORD_OVERHEAD, MESSAGE_OVERHEAD
    RECORD_OVERHEAD, MESSAGE_OVERHEAD = record, message
