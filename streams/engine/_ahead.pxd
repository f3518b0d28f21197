"""What `_slice.pyx` takes from `_ahead.pyx`."""

from rookery.streams.core._mailboxes cimport Waiting
from rookery.streams.core._stores cimport Values


cdef class Running:
    cdef object partition, get
    cdef Values values  # of a store in memory
    cdef Waiting fresh


cdef int look_ahead(Waiting waiting, dict partitions) except -1
