# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The ids of clients' messages in the last records of a lane: what LaneProgress in Python keeps in a dict and a deque.

Ids lie in a ring, in the order in which they will be forgotten, with a table of short marks that says where. So a message
touches three lines of memory of which one is the next, and no text stays among the objects of turns.
"""

cimport cython
from cpython.object cimport PyObject, PyObject_Hash
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from rookery.schemas._memory cimport PyMem_RawCalloc, PyMem_RawFree, prefetch

cdef extern from "Python.h":
    const void* PyUnicode_DATA(object text)
    int PyUnicode_KIND(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)

cdef enum:
    ROOM = 64  # entries at first
    AHEAD = 4  # entries whose slot is asked for before they are forgotten

cdef uint32_t TAKEN = 0x80000000  # in every tag, so that none is 0
cdef uint32_t FIRST = 0xFFFFFF00  # number: they begin again soon, so that tests see it and not only a worker after a day


cdef inline PyObject* kept(Entry* entry) noexcept:
    """The object of a long id."""
    cdef PyObject* text
    memcpy(&text, entry.data, sizeof(PyObject*))
    return text


@cython.final
@cython.no_gc  # texts only
cdef class RecentIds:
    """Ids of the records whose offsets are at most `window` below the latest one."""

    def __cinit__(self, long long window):
        self.window = window
        self.entries = <Entry*>PyMem_RawCalloc(ROOM, sizeof(Entry))
        self.slots = <Slot*>PyMem_RawCalloc(ROOM * 2, sizeof(Slot))
        if self.entries == NULL or self.slots == NULL:
            raise MemoryError()
        self.mask, self.slot_mask = ROOM - 1, ROOM * 2 - 1
        self.first = self.next = FIRST

    def __dealloc__(self):
        cdef Entry* entry
        while self.first != self.next:
            entry = &self.entries[self.first & self.mask]
            if not entry.kind:
                Py_DECREF(<object>kept(entry))
            self.first += 1
        PyMem_RawFree(self.entries)
        PyMem_RawFree(self.slots)

    cdef bint remember(self, long long offset, str text) except -1:
        """Forget what is too old, and put in the id of the record at `offset`; True if it was there already."""
        cdef long long oldest = offset - self.window
        while self.first != self.next and self.entries[self.first & self.mask].offset < oldest:
            self.forget()
        if self.next - self.first > self.mask:
            self.grow()
        cdef uint64_t hashed = <uint64_t>PyObject_Hash(text)
        cdef uint32_t tag = <uint32_t>(hashed ^ hashed >> 32) | TAKEN
        cdef uint32_t at = self.place(tag, text)
        cdef bint known = self.slots[at].tag != 0
        cdef Entry* entry = &self.entries[self.next & self.mask]
        cdef Py_ssize_t size = PyUnicode_GET_LENGTH(text) * PyUnicode_KIND(text)
        entry.offset, entry.tag = offset, tag
        cdef PyObject* long_one = <PyObject*>text
        if size <= INLINE_MAX:
            entry.kind, entry.size = PyUnicode_KIND(text), size
            memcpy(entry.data, PyUnicode_DATA(text), <size_t>size)
        else:
            entry.kind = entry.size = 0
            memcpy(entry.data, &long_one, sizeof(PyObject*))
            Py_INCREF(text)
        self.slots[at] = Slot(tag, self.next)
        self.next += 1
        return known

    cdef uint32_t place(self, uint32_t tag, str text) except? 0xFFFFFFFF:
        """The slot of an id, or the empty one where it would be."""
        cdef uint32_t at = tag & self.slot_mask
        cdef Entry* entry
        cdef int kind = PyUnicode_KIND(text)
        cdef Py_ssize_t size = PyUnicode_GET_LENGTH(text) * kind
        while self.slots[at].tag:
            if self.slots[at].tag == tag:
                entry = &self.entries[self.slots[at].number & self.mask]
                if not entry.kind:
                    if <str>kept(entry) == text:
                        break
                elif entry.kind == kind and entry.size == size:
                    if memcmp(entry.data, PyUnicode_DATA(text), <size_t>size) == 0:
                        break
            at = (at + 1) & self.slot_mask
        return at

    cdef int forget(self) except -1:
        """The oldest entry goes, and its id, unless a later record has it, too."""
        cdef Entry* entry = &self.entries[self.first & self.mask]
        prefetch(&self.slots[self.entries[(self.first + AHEAD) & self.mask].tag & self.slot_mask], 1)
        cdef uint32_t at = entry.tag & self.slot_mask
        while self.slots[at].tag and self.slots[at].number != self.first:
            at = (at + 1) & self.slot_mask
        if self.slots[at].tag:
            self.vacate(at)
        self.first += 1
        if not entry.kind:
            Py_DECREF(<object>kept(entry))
        return 0

    cdef void vacate(self, uint32_t at) noexcept:
        """Empty a slot, and move up those that were put behind it because it was taken."""
        cdef uint32_t later = at, mask = self.slot_mask
        while True:
            later = (later + 1) & mask
            if not self.slots[later].tag:
                break
            if ((later - self.slots[later].tag) & mask) >= ((later - at) & mask):
                self.slots[at] = self.slots[later]
                at = later
        self.slots[at].tag = 0

    cdef int grow(self) except -1:
        """Twice the room, of both."""
        cdef uint32_t mask = self.mask * 2 + 1, slot_mask = self.slot_mask * 2 + 1, number, old, at
        cdef Entry* entries = <Entry*>PyMem_RawCalloc(<size_t>mask + 1, sizeof(Entry))
        cdef Slot* slots = <Slot*>PyMem_RawCalloc(<size_t>slot_mask + 1, sizeof(Slot))
        if entries == NULL or slots == NULL:
            PyMem_RawFree(entries)
            PyMem_RawFree(slots)
            raise MemoryError()
        number = self.first
        while number != self.next:
            entries[number & mask] = self.entries[number & self.mask]
            number += 1
        for old in range(self.slot_mask + 1):
            if self.slots[old].tag:
                at = self.slots[old].tag & slot_mask
                while slots[at].tag:
                    at = (at + 1) & slot_mask
                slots[at] = self.slots[old]
        PyMem_RawFree(self.entries)
        PyMem_RawFree(self.slots)
        self.entries, self.slots, self.mask, self.slot_mask = entries, slots, mask, slot_mask
        return 0
