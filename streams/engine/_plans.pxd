"""What `_slice.pyx` takes from `_plans.pyx`."""

from rookery.agents._effects cimport TurnFields
from rookery.schemas._wire cimport Frame


cdef class Handling:
    cdef object function, decode, name
    cdef dict readers
    cdef object read(self, Frame frame)


cdef class Plan:
    cdef object kind, name, cls, struct, encode, decode
    cdef dict handlings
    cdef tuple fields
    cdef bytes record_head
    cdef bint timed, hooked, kept, plain
    cdef Handling handling(self, str message_type)
    cdef bytes dump(self, agent)
    cdef bytes changed(self, bytes before, bytes state)
    cdef object make(self, TurnFields context, bytes record)
