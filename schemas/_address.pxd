from libc.stdint cimport uint32_t


cdef bint is_plain_address(str address) except -1
cdef uint32_t murmur2_of(bytes data) except? 0
