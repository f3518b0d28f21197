"""What other compiled modules take from `_progress.pyx`."""

from rookery.streams.core._recent cimport RecentIds


cdef class LaneProgress:
    cdef readonly bytes incarnation
    cdef readonly long long prefix, next
    cdef long long base
    cdef bytearray flags
    cdef object seen, seen_stored
    cdef unsigned long long[:] last
    # Of the records in [prefix, next): the source (-1: a client's) and the sequence.
    cdef int* sources
    cdef unsigned long long* sequences
    cdef Py_ssize_t origins_head, origins_size, origins_room
    cdef dict lost
    cdef RecentIds ids
    cdef bint admit_one(self, long long source, unsigned long long sequence) except -1
    cdef bint admit_client(self, str message_id) except -1
    cdef bint enter(self, int source, unsigned long long sequence, bint known) except -1
    cdef int finish(self, long long offset) except -1
    cdef int note_origin(self, int source, unsigned long long sequence) except -1
