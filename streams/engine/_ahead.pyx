# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""What the compiled turns need of a partition, and what is fetched from memory before its turn comes."""

cimport cython
from cpython.object cimport PyObject, PyObject_Hash
from libc.stdint cimport uint64_t

from rookery.schemas._memory cimport list_item, prefetch
from rookery.schemas._wire cimport Frame
from rookery.streams.core._mailboxes cimport Item, Mailbox, Waiting
from rookery.streams.core._stores cimport Values

cdef extern from "Python.h":
    PyObject** _PyObject_GetDictPtr(object thing)
    ctypedef struct PyDictObject:
        Py_ssize_t ma_used
        void* ma_values

cdef enum:
    AHEAD = 5  # turns
    DICT_BEFORE = 32  # bytes before an object, in which CPython keeps where its dict is
    VALUES = 4  # of a state that are asked for


@cython.final
cdef class Running:
    """A partition that is owned and recovered, and what its turns need of it."""

    def __init__(self, partition):
        self.partition, self.get, self.fresh = partition, partition.store.get, partition.finished.fresh
        values = getattr(partition.store, "values", None)
        self.values = values if isinstance(values, Values) else None


cdef int look_ahead(Waiting waiting, dict partitions) except -1:
    """Ask memory for what the next turns begin with: with many agents it is in no cache, and one thing leads to the next."""
    cdef Py_ssize_t at = waiting.head
    cdef list mailboxes = waiting.items
    if waiting.size() < AHEAD:
        return 0
    prefetch(list_item(mailboxes, at + 4), 3)
    of_mailbox(<Mailbox>list_item(mailboxes, at + 3))
    of_agent(<Mailbox>list_item(mailboxes, at + 2), partitions)
    of_message(<Mailbox>list_item(mailboxes, at + 1), partitions)
    of_state(<Mailbox>list_item(mailboxes, at))
    return 0


cdef inline int of_mailbox(Mailbox mailbox) except -1:
    """What a mailbox leads to, four turns before its own."""
    prefetch(<void*>(mailbox.normal if mailbox.only is None else mailbox.only), 1)
    prefetch(<void*>mailbox.key, 1)
    prefetch(<void*>mailbox.address, 1)
    if mailbox.agent is not None:
        prefetch(<char*><void*>mailbox.agent - DICT_BEFORE, 2)
        prefetch(<void*>mailbox.context, 2)
        prefetch(<void*>mailbox.record, 3)
    return 0


cdef inline int of_agent(Mailbox mailbox, dict partitions) except -1:
    """Its message, and where its state is."""
    cdef Values values
    if mailbox.only is not None:
        prefetch(<void*>mailbox.only.envelope, 3)
    elif mailbox.waits(1):
        prefetch(mailbox.normal.items[mailbox.normal.head], 1)  # without a look at it
    if mailbox.agent is not None:
        prefetch(attributes_of(mailbox.agent), 1)
    elif (values := asleep(mailbox, partitions)) is not None:
        values.near(<uint64_t>PyObject_Hash(mailbox.key))
    return 0


cdef inline int of_message(Mailbox mailbox, dict partitions) except -1:
    """What its message holds, and its state."""
    cdef PyDictObject* attributes
    cdef Values values
    cdef Item item
    cdef Frame frame
    if mailbox.only is not None:
        item = mailbox.only
        frame = <Frame>item.envelope  # whatever is parked has a lane
        prefetch(<void*>frame.payload, 3)
        # These go with the message.
        prefetch(<void*>frame.raw, 1)
        prefetch(<void*>frame.id, 1)
        prefetch(<void*>item.record, 2)
    elif mailbox.waits(1):
        item = mailbox.normal.first()
        prefetch(<void*>item.envelope, 3)
    if mailbox.agent is not None:
        attributes = attributes_of(mailbox.agent)
        if attributes != NULL:
            prefetch(attributes.ma_values, 1)
    elif (values := asleep(mailbox, partitions)) is not None:
        values.nearer(<uint64_t>PyObject_Hash(mailbox.key))
    return 0


cdef inline int of_state(Mailbox mailbox) except -1:
    """The first values of its state."""
    cdef PyDictObject* attributes
    cdef Py_ssize_t index
    if mailbox.agent is not None:
        attributes = attributes_of(mailbox.agent)
        if attributes != NULL and attributes.ma_values != NULL:
            for index in range(min(<Py_ssize_t>VALUES, attributes.ma_used)):
                prefetch((<void**>attributes.ma_values)[index], 1)
    return 0


cdef inline PyDictObject* attributes_of(agent) noexcept:
    """Its dict, without a look at it; NULL if it has none."""
    cdef PyObject** place = _PyObject_GetDictPtr(agent)
    return NULL if place == NULL else <PyDictObject*>place[0]


cdef inline Values asleep(Mailbox mailbox, dict partitions):
    """Where the record of an agent will be looked up, if it will."""
    cdef Running running = partitions.get(mailbox.partition) if mailbox.record is None else None
    return None if running is None else running.values
