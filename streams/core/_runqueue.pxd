from rookery.streams.core._mailboxes cimport Mailbox, Waiting


cdef class RunQueue:
    cdef Waiting low, normal, high
    cdef int turn
    cdef Waiting queue(self, int lane)
    cpdef void push(self, Mailbox mailbox, int lane)
    cpdef void push_waiting(self, Mailbox mailbox)
    cdef Mailbox take(self, int* lane)
