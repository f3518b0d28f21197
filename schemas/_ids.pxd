from libc.stdint cimport uint64_t


cdef class IdSource:
    cdef bytes prefix
    cdef uint64_t number
    cdef str next_id(self)
