from cpython.object cimport PyObject

cdef extern from *:
    ctypedef bint flag "unsigned char"


cdef class Waiting:
    cdef list items
    cdef Py_ssize_t head
    cdef object first(self)
    cpdef object popleft(self)
    cdef void push(self, object item)
    cdef Py_ssize_t size(self) noexcept


cdef class Lane:
    cdef PyObject** items
    cdef int room, head, count
    cdef PyObject* own[2]  # what most agents need
    cdef int push(self, object item) except -1
    cdef int grow(self) except -1
    cdef object first(self)
    cpdef object popleft(self)


cdef class Item:
    cdef public long long offset
    cdef public object envelope
    cdef public object record


cdef Item new_item(long long offset, object envelope, object record)


cdef class Mailbox:
    # What is looked at most comes first, and there are as few lines of memory as it takes: with many agents, each is in
    # no cache.
    cdef readonly int partition
    cdef flag[3] in_queue
    cdef public flag running, closed, held, unborn, stopped, passing
    cdef public int unsettled, current_lane
    cdef Item only  # all that waits in the normal lane, while that was never more
    cdef Lane low, normal, high
    cdef readonly str address
    cdef readonly bytes key
    cdef public double used_at
    # What is bytes or text the collector does not look at: for that it would have to come from memory.
    cdef public str kind_name
    cdef public bytes record
    cdef public object first_lane, ledger, current, kind, agent, context, runner
    cdef Lane lane(self, int number)
    cdef int push(self, int number, Item item) except -1
    cdef Item first(self, int number)
    cdef int pop(self, int number) except -1
    cpdef int count(self, int number) noexcept
    cdef bint waits(self, int number) noexcept
    cdef bint waiting(self) noexcept
    cdef bint is_idle(self) noexcept
    cdef int let_go(self) except -1


cdef Mailbox new_mailbox(str address, bytes key, int partition)


cdef class Sent:
    cdef readonly tuple destination
    cdef readonly bytes key
    cdef readonly bytes body
    cdef readonly bint sequenced


cdef Sent new_sent(tuple destination, bytes key, bytes body, bint sequenced)


cdef class Finished:
    cdef readonly Mailbox mailbox
    cdef readonly int lane
    cdef readonly long long offset
    cdef readonly bytes state
    cdef public object sent
    cdef public long long size
    cdef public object cells
    cdef readonly bint ends
    cdef readonly object acked
    cdef int measure(self) except -1


cdef Finished new_finished(Mailbox mailbox, int lane, long long offset, bytes state, object sent)
