"""What other compiled modules take from `_recent.pyx`."""

from libc.stdint cimport uint8_t, uint32_t

cdef enum:
    INLINE_MAX = 50  # bytes of an id that is copied; of a longer one the object is kept


cdef struct Entry:  # a line of memory
    long long offset
    uint32_t tag
    uint8_t kind  # bytes of a character, 0 for an object that is kept
    uint8_t size  # bytes of the id
    char data[INLINE_MAX]


cdef struct Slot:
    uint32_t tag  # 0: nothing here
    uint32_t number


cdef class RecentIds:
    cdef long long window
    # Entries by their number, in a ring as large as a power of two; numbers begin again at 2**32, which it divides.
    cdef Entry* entries
    cdef uint32_t mask, first, next
    cdef Slot* slots  # of the latest entry of each id: twice as many as there may be entries
    cdef uint32_t slot_mask
    cdef bint remember(self, long long offset, str text) except -1
    cdef uint32_t place(self, uint32_t tag, str text) except? 0xFFFFFFFF
    cdef int forget(self) except -1
    cdef void vacate(self, uint32_t at) noexcept
    cdef int grow(self) except -1
