# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Compiled twin of effects.TurnFields, the base of the contexts of turns."""

cimport cython


# There is one for each agent in memory, so the collector does not look at them. They lead to the engine; it lets go of the
# agents when a partition is closed, of steps at the end of a turn, and of the rest when it stops.
@cython.no_gc
cdef class TurnFields:
    """See effects.TurnFields."""

    def __init__(self, str address, new_id, Py_ssize_t message_bytes_max, open_steps=None):
        self.settle(address, new_id, message_bytes_max, open_steps)

    cdef int settle(self, str address, new_id, Py_ssize_t message_bytes_max, open_steps) except -1:
        self.address, self.new_id, self.open_steps = address, new_id, open_steps
        self.message_bytes_max, self.attempt = message_bytes_max, 0
        return 0

    def begin(self, envelope, long long now_ns):
        """See effects.TurnFields."""
        self.start(envelope, now_ns, [])

    cdef int start(self, envelope, long long now_ns, list sends) except -1:
        """The same with a list for what is sent."""
        self.envelope, self.now_ns, self.sends = envelope, now_ns, sends
        self.steps = self._lineage = None
        return 0

    cpdef end(self):
        """See effects.TurnFields."""
        self.envelope = self._lineage = None
