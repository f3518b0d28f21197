"""What `_slice.pyx` takes from `_plans.pyx`."""

from rookery.agents._effects cimport TurnFields
from rookery.schemas._wire cimport Frame


cdef enum:
    FIELDS_MAX = 64


cdef class Handling:
    cdef object function, decode, name
    cdef dict readers
    cdef object read(self, Frame frame)


cdef class Plan:
    cdef object kind, name, cls, struct, encode, decode, parse
    cdef dict handlings
    cdef tuple fields
    cdef Py_ssize_t[FIELDS_MAX + 1] places  # of the fields, and of what guards the state, in the struct
    cdef bytes record_head
    cdef bint timed, hooked, watched, plain
    cdef Handling handling(self, str message_type)
    cdef bint wrote(self, bytes record) noexcept
    cdef bytes dump(self, agent)
    cdef bytes changed(self, bytes before, bytes state)
    cdef object make(self, TurnFields context, bytes record)
    cdef object stored(self, bytes record)
