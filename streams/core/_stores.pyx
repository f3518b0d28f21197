# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Compiled twin of what a store in memory keeps its values in, and of what it does with each commit batch; see store.py.

A dict of bytes spreads what it has of one agent over five places in memory, and among the objects of turns. Here it is two,
a slot and a block with key and value, apart from Python's own; and both can be asked for before they are needed.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject, PyObject_Hash
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from rookery.schemas._memory cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawRealloc, prefetch

cdef extern from "Python.h":
    int PyDict_Next(object mapping, Py_ssize_t* at, PyObject** key, PyObject** value)

cdef enum:
    SLOTS_MIN = 8
    HEAD = 8  # bytes of a block before its data
    GRAIN = 16  # bytes that the sizes of blocks are multiples of
    GROUP = 32  # changes whose places are asked for together
    INLINE_MAX = 512  # bytes of a value that is copied; of a larger one the object is kept

cdef uint32_t OBJECT = 0xFFFFFFFF  # instead of the size of a value: there is the address of an object


cdef inline Py_ssize_t block_size(Py_ssize_t key_size, uint32_t value_size) noexcept:
    cdef Py_ssize_t size = HEAD + key_size + (<Py_ssize_t>sizeof(PyObject*) if value_size == OBJECT else value_size)
    return (size + GRAIN - 1) & ~(GRAIN - 1)


cdef inline PyObject* kept(Block* block) noexcept:
    """The object of a large value."""
    cdef PyObject* value
    memcpy(&value, block.data + block.key_size, sizeof(PyObject*))
    return value


cdef inline int let_go(Block* block) except -1:
    cdef PyObject* value = NULL
    if block.value_size == OBJECT:
        value = kept(block)
    PyMem_RawFree(block)
    if value != NULL:
        Py_DECREF(<object>value)
    return 0


cdef inline bytes value_of(Block* block):
    if block.value_size == OBJECT:
        return <bytes>kept(block)
    return PyBytes_FromStringAndSize(block.data + block.key_size, block.value_size)


@cython.no_gc  # bytes only
cdef class Values:
    """Bytes by bytes, as a dict has them: an open table with linear probing."""

    def __cinit__(self):
        self.slots = <Slot*>PyMem_RawCalloc(SLOTS_MIN, sizeof(Slot))
        if self.slots == NULL:
            raise MemoryError()
        self.mask = SLOTS_MIN - 1

    def __init__(self, values=()):
        for key, value in dict(values).items():
            self.put(<bytes?>key, <bytes?>value)

    def __dealloc__(self):
        cdef size_t at
        if self.slots == NULL:
            return
        for at in range(self.mask + 1):
            if self.slots[at].block != NULL:
                let_go(self.slots[at].block)
        PyMem_RawFree(self.slots)

    def get(self, bytes key not None):
        """The value, or None."""
        return self.found(key)

    def __contains__(self, key):
        return isinstance(key, bytes) and self.slots[self.place(key, <uint64_t>PyObject_Hash(key))].block != NULL

    def __len__(self):
        return self.count

    def items(self):
        """Keys and values; raises RuntimeError when keys come or go meanwhile."""
        cdef size_t at
        cdef Block* block
        cdef unsigned long long version = self.version
        for at in range(self.mask + 1):
            block = self.slots[at].block
            if block != NULL:
                yield PyBytes_FromStringAndSize(block.data, block.key_size), value_of(block)
                if self.version != version:
                    raise RuntimeError("the keys changed during iteration")

    def clear(self):
        """Remove all."""
        cdef Slot* slots = self.slots
        cdef size_t at, mask = self.mask
        self.slots = <Slot*>PyMem_RawCalloc(SLOTS_MIN, sizeof(Slot))
        if self.slots == NULL:
            self.slots = slots
            raise MemoryError()
        self.mask, self.count = SLOTS_MIN - 1, 0
        self.version += 1
        for at in range(mask + 1):
            if slots[at].block != NULL:
                let_go(slots[at].block)
        PyMem_RawFree(slots)

    cdef bytes found(self, bytes key):
        cdef Block* block = self.slots[self.place(key, <uint64_t>PyObject_Hash(key))].block
        return None if block == NULL else value_of(block)

    cdef size_t place(self, bytes key, uint64_t hashed) noexcept:
        """The slot of a key, or the empty one where it would be."""
        cdef size_t at = hashed & self.mask
        cdef Py_ssize_t size = PyBytes_GET_SIZE(key)
        cdef Block* block
        while True:
            block = self.slots[at].block
            if block == NULL:
                return at
            if self.slots[at].hash == hashed and block.key_size == <uint32_t>size:
                if memcmp(block.data, PyBytes_AS_STRING(key), <size_t>size) == 0:
                    return at
            at = (at + 1) & self.mask

    cdef int put(self, bytes key, bytes value) except -1:
        cdef uint64_t hashed = <uint64_t>PyObject_Hash(key)
        cdef size_t at = self.place(key, hashed)
        if self.slots[at].block == NULL and <size_t>self.count * 3 > self.mask * 2:
            self.grow()
            at = self.place(key, hashed)
        cdef Py_ssize_t key_size = PyBytes_GET_SIZE(key), size = PyBytes_GET_SIZE(value)
        cdef uint32_t value_size = <uint32_t>size if size <= INLINE_MAX else OBJECT
        cdef Block* block = self.slots[at].block
        cdef Block* old = block
        cdef PyObject* gone = NULL
        cdef PyObject* kept_now = <PyObject*>value
        if key_size >= OBJECT:
            raise OverflowError("a key of 4 GiB")
        if old != NULL and old.value_size == OBJECT:
            gone = kept(old)
        if old == NULL or block_size(key_size, old.value_size) != block_size(key_size, value_size):
            block = <Block*>PyMem_RawRealloc(old, block_size(key_size, value_size))
            if block == NULL:
                raise MemoryError()
            if old == NULL:
                block.key_size = <uint32_t>key_size
                memcpy(block.data, PyBytes_AS_STRING(key), <size_t>key_size)
                self.slots[at].hash = hashed
                self.count += 1
                self.version += 1
            self.slots[at].block = block
        block.value_size = value_size
        if value_size == OBJECT:
            Py_INCREF(value)
            memcpy(block.data + key_size, &kept_now, sizeof(PyObject*))
        else:
            memcpy(block.data + key_size, PyBytes_AS_STRING(value), <size_t>size)
        if gone != NULL:
            Py_DECREF(<object>gone)
        return 0

    cdef int remove(self, bytes key) except -1:
        """Remove a key, if it is there; those behind it move up, so that each is found from its own place on."""
        cdef size_t at = self.place(key, <uint64_t>PyObject_Hash(key)), following = at, home
        cdef Block* block = self.slots[at].block
        if block == NULL:
            return 0
        while True:
            following = (following + 1) & self.mask
            if self.slots[following].block == NULL:
                break
            home = self.slots[following].hash & self.mask
            if ((following - home) & self.mask) >= ((following - at) & self.mask):
                self.slots[at] = self.slots[following]
                at = following
        self.slots[at].block = NULL
        self.count -= 1
        self.version += 1
        return let_go(block)

    cdef int grow(self) except -1:
        cdef size_t mask = 2 * self.mask + 1, at, to
        cdef Slot* slots = <Slot*>PyMem_RawCalloc(mask + 1, sizeof(Slot))
        if slots == NULL:
            raise MemoryError()
        for at in range(self.mask + 1):
            if self.slots[at].block != NULL:
                to = self.slots[at].hash & mask
                while slots[to].block != NULL:
                    to = (to + 1) & mask
                slots[to] = self.slots[at]
        PyMem_RawFree(self.slots)
        self.slots, self.mask = slots, mask
        return 0

    cdef void near(self, uint64_t hashed) noexcept:
        """Ask memory for the slot of a key."""
        prefetch(&self.slots[hashed & self.mask], 1)

    cdef void nearer(self, uint64_t hashed) noexcept:
        """Ask memory for its block, once the slot is there."""
        cdef Slot* slot = &self.slots[hashed & self.mask]
        if slot.block != NULL:
            prefetch(slot.block, 3)


def apply(Values values not None, control, dict changes):
    """See store._apply."""
    cdef PyObject* keys[GROUP]
    cdef PyObject* news[GROUP]
    cdef Py_ssize_t at = 0, count, index
    cdef bytes key
    cdef bint more = True
    while more:
        count = 0
        while count < GROUP:
            more = PyDict_Next(changes, &at, &keys[count], &news[count])
            if not more:
                break
            values.near(<uint64_t>PyObject_Hash(<object>keys[count]))
            count += 1
        for index in range(count):
            values.nearer(<uint64_t>PyObject_Hash(<object>keys[index]))
        for index in range(count):
            key = <bytes?><object>keys[index]
            if PyBytes_GET_SIZE(key) and PyBytes_AS_STRING(key)[0] == b"~":
                if control is None:
                    continue
                if news[index] == <PyObject*>None:
                    control.pop(key, None)
                else:
                    control[key] = <object>news[index]
            elif news[index] == <PyObject*>None:
                values.remove(key)
            else:
                values.put(key, <bytes?><object>news[index])
