from libc.stdint cimport int64_t


cdef class FetchedRecord:
    cdef readonly int64_t offset
    cdef readonly bytes key
    cdef readonly bytes value
    cdef readonly tuple headers
    cdef readonly int64_t timestamp  # milliseconds since the Unix epoch; -1 when there is none
    cdef readonly int timestamp_type
