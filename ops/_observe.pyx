# cython: language_level=3
"""What metrics.py does for each turn, compiled: see `Metrics._make_observer`."""

cimport cython
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF

from rookery.schemas._memory cimport prefetch

cdef extern from "Python.h":
    PyObject* PyDict_GetItemWithError(object mapping, object key) except? NULL

# What metrics.py, which imports this, tells it.
cdef double[BUCKETS_MAX] BOUNDS
cdef int LAST = 0
cdef int SAMPLE = 1
cdef object UNKNOWN = None


def learn(tuple bounds, int sample, str unknown):
    """Take the upper bounds of the buckets, one in how many short turns is sampled, and the type of no agent."""
    global LAST, SAMPLE, UNKNOWN
    if len(bounds) >= BUCKETS_MAX:
        raise ValueError(f"more than {BUCKETS_MAX} buckets")
    for index, bound in enumerate(bounds):
        BOUNDS[index] = bound
    LAST, SAMPLE, UNKNOWN = len(bounds), sample, unknown


@cython.final
cdef class Slots:
    """The slots of a series; read like the list of the twin."""

    cdef void count(self, int bucket, double seconds) noexcept:
        self.counts[bucket] += 1
        self.seconds += seconds

    def __getitem__(self, key):
        cdef int bucket
        return [*[self.counts[bucket] for bucket in range(LAST + 1)], self.seconds, self.failed][key]


@cython.final
@cython.no_gc  # texts only
cdef class Latest:
    """The last so many addresses, in no order: what a deque with `maxlen` has, but the one that goes next, which nobody has
    looked at for thousands of turns, is asked for before."""

    def __cinit__(self, Py_ssize_t room):
        self.places = <PyObject**>PyMem_Calloc(<size_t>room, sizeof(PyObject*))
        if self.places == NULL:
            raise MemoryError()
        self.room = room

    def __dealloc__(self):
        cdef Py_ssize_t at
        if self.places != NULL:
            for at in range(self.room):
                Py_XDECREF(self.places[at])
            PyMem_Free(self.places)

    cdef int append(self, str address) except -1:
        cdef PyObject* gone = self.places[self.at]
        Py_INCREF(address)
        self.places[self.at] = <PyObject*>address
        self.at = self.at + 1 if self.at + 1 < self.room else 0
        prefetch(self.places[self.at], 1)
        Py_XDECREF(gone)
        return 0

    def __iter__(self):
        return iter([<object>self.places[at] for at in range(self.room) if self.places[at] != NULL])


@cython.final
cdef class TurnObserver:
    """See metrics.TurnObserver; `agents` and `types` are that module's, and stay with it."""

    def __init__(self, agents, types, take):
        self.labelled, self.other, self.first_max = agents.labelled, agents.other, agents.first_max
        self.strangers, self.types, self.take = agents.strangers, types, take

    def __call__(self, mailbox, int lane, double seconds, bint failed):
        kind = mailbox.kind
        self.observe(mailbox.address, None if kind is None else kind.name, lane, seconds, failed)

    cdef int observe(self, object address, object name, int lane, double seconds, bint failed) except -1:
        """Count a turn of the agent at `address`; `name` is that of its type, or None if it was never made."""
        cdef int bucket = 0
        cdef PyObject* found
        cdef Slots slots
        while bucket < LAST and BOUNDS[bucket] < seconds:
            bucket += 1
        if bucket:
            self.take((address, seconds, 1))
        else:
            if not self.rest:
                self.take((address, seconds, SAMPLE))
                self.rest = SAMPLE
            self.rest -= 1
        found = PyDict_GetItemWithError(self.labelled, address)
        if found != NULL:
            slots = <Slots>found
        elif len(self.labelled) < self.first_max:
            slots = self.labelled[address] = Slots()
        else:
            slots = self.other
            self.strangers.append(address)
        slots.count(bucket, seconds)
        if name is None:
            name = UNKNOWN
        found = PyDict_GetItemWithError(self.types, name)
        lanes = <object>found if found != NULL else self.types[name]
        slots = (<tuple?>lanes)[lane]
        slots.count(bucket, seconds)
        if failed:
            slots.failed += 1
        return 0
