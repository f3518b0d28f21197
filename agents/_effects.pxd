"""What other compiled modules take from `_effects.pyx`: the fields of a TurnContext at C speed."""


cdef class TurnFields:
    cdef readonly str address
    cdef readonly object new_id, open_steps
    cdef public Py_ssize_t message_bytes_max
    cdef public object steps, envelope, sends, _lineage
    cdef public int attempt
    cdef public long long now_ns
    cdef int settle(self, str address, new_id, Py_ssize_t message_bytes_max, open_steps) except -1
    cpdef end(self)
    cdef int start(self, envelope, long long now_ns, list sends) except -1
