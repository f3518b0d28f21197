"""What other compiled modules take from `_directory.pyx`: the agents of a partition at C speed."""

from libc.stdint cimport uint32_t, uint64_t

from rookery.streams.core._mailboxes cimport Mailbox


cdef struct Place:
    uint32_t hash
    uint32_t index  # in the list, and one; 0 where there is nothing


cdef class Directory:
    cdef list mailboxes  # as they came; None where one has gone
    cdef Place* places  # a power of two
    cdef size_t mask
    cdef Py_ssize_t count
    cdef unsigned long long version
    cdef Mailbox found(self, str address)
    cdef Mailbox remove(self, str address)
    cdef int put(self, str address, Mailbox mailbox) except -1
    cdef size_t place(self, str address, uint32_t hashed)
    cdef int check(self) noexcept
    cdef int grow(self) except -1
    cdef int close_up(self) except -1
    cdef void near(self, uint64_t hashed) noexcept
    cdef void nearer(self, uint64_t hashed) noexcept
