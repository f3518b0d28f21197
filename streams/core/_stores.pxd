"""What other compiled modules take from `_stores.pyx`: the values of a store in memory at C speed."""

from libc.stdint cimport uint32_t, uint64_t


cdef struct Block:
    uint32_t key_size, value_size
    char data[1]  # the key, then the value


cdef struct Slot:
    uint64_t hash
    Block* block


cdef class Values:
    cdef Slot* slots  # a power of two
    cdef size_t mask
    cdef Py_ssize_t count
    cdef unsigned long long version  # of the keys
    cdef bytes found(self, bytes key)
    cdef int put(self, bytes key, bytes value) except -1
    cdef int remove(self, bytes key) except -1
    cdef size_t place(self, bytes key, uint64_t hashed) noexcept
    cdef int grow(self) except -1
    cdef void near(self, uint64_t hashed) noexcept
    cdef void nearer(self, uint64_t hashed) noexcept
