# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""What the compiled turns of one agent type need of it: its handlers, and how an agent is made, read and stored."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.string cimport memcmp, memcpy

from rookery.agents._effects cimport TurnFields
from rookery.schemas._wire cimport Frame

from types import MemberDescriptorType

from msgspec import UNSET

from rookery.agents import guard
from rookery.agents.agent import Agent
from rookery.schemas.errors import PayloadError

cdef extern from "Python.h":
    PyObject* PyDict_GetItemWithError(object mapping, object key) except? NULL
    object PyObject_Vectorcall(object function, PyObject** args, size_t count, PyObject* names)
    object PyObject_GenericGetDict(object value, void* context)
    ctypedef struct PyTypeObject:
        object (*tp_new)(PyTypeObject* kind, object args, PyObject* keywords)

cdef extern from "structmember.h":
    ctypedef struct PyMemberDef:
        int type
        Py_ssize_t offset
    ctypedef struct PyMemberDescrObject:
        PyMemberDef* d_member
    int T_OBJECT_EX

# What Agent.__init__ does, and what it is.
cdef object INIT = Agent.__init__
cdef object ID = Agent.id
cdef object GUARD = guard.ATTRIBUTE
cdef tuple NOTHING = ()


cdef bint is_plain(cls):
    """Whether nobody would see that its agents are made without calling it."""
    return (
        cls.__init__ is INIT and cls.__new__ is object.__new__ and cls.__setattr__ is object.__setattr__
        and cls.id is ID and type(cls).__call__ is type.__call__
    )


cdef Py_ssize_t place_of(struct, str field) except -1:
    """Where a field is in the instances of a class that has it as a slot."""
    slot = getattr(struct, field)
    if type(slot) is not MemberDescriptorType or (<PyMemberDescrObject*>slot).d_member.type != T_OBJECT_EX:
        raise TypeError(f"{struct.__name__}.{field} is no slot")
    return (<PyMemberDescrObject*>slot).d_member.offset


cdef inline object in_place(stored, Py_ssize_t place):
    """What stands there."""
    return <object>(<PyObject**>(<char*><PyObject*>stored + place))[0]


cdef inline void put_in_place(thing, Py_ssize_t place, value) noexcept:
    """Fill a slot that is empty."""
    Py_INCREF(value)
    (<PyObject**>(<char*><PyObject*>thing + place))[0] = <PyObject*>value


cdef Py_ssize_t ID_PLACE = place_of(Agent, "id")
cdef Py_ssize_t CONTEXT_PLACE = place_of(Agent, "_Agent__context")
cdef Py_ssize_t LOG_PLACE = place_of(Agent, "_Agent__log")


@cython.final
cdef class Handling:
    """One handler: its function, and how it reads a payload."""

    def __init__(self, bound):
        self.function, self.decode = bound.function, bound.decode
        self.readers, self.name = getattr(bound.decode, "readers", None), getattr(bound.decode, "name", "")

    cdef object read(self, Frame frame):
        cdef PyObject* reader
        if self.readers is not None:
            reader = PyDict_GetItemWithError(self.readers, frame.content_type)
            if reader != NULL:
                try:
                    return (<object>reader)(frame.payload)
                except Exception as error:
                    raise PayloadError(str(error) or type(error).__name__, self.name) from error
        return self.decode(frame.payload, frame.content_type)


@cython.final
cdef class Plan:
    """What the turns of one agent type need of it."""

    def __init__(self, kind):
        self.kind, self.name, self.cls = kind, kind.name, kind.cls
        self.handlings = {name: Handling(kind.find(name)) for name in kind.message_types}
        schema = kind.schema
        self.struct, self.encode, self.fields = schema.struct, schema.encode, schema.fields
        self.decode, self.parse = schema.decode, schema.parse
        self.record_head = kind.record_head
        self.hooked, self.watched = kind.has_activate, kind.has_activate or kind.has_passivate
        self.timed = kind.timeout is not None or len(self.fields) > FIELDS_MAX
        self.plain = is_plain(self.cls)
        for index, field in enumerate(() if self.timed else (*self.fields, GUARD)):
            self.places[index] = place_of(self.struct, field)

    cdef Handling handling(self, str message_type):
        """The handler of a message; None if it is the catch-all, or none."""
        return self.handlings.get(message_type)

    cdef bint wrote(self, bytes record) noexcept:
        """Whether a record is of an agent of this type, in this version."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(self.record_head)
        return PyBytes_GET_SIZE(record) >= size and not memcmp(
            PyBytes_AS_STRING(record), PyBytes_AS_STRING(self.record_head), <size_t>size
        )

    cdef bytes dump(self, agent):
        """See StateSchema.dump."""
        # Owned: making the struct may run the collector, and so a finalizer that changes the agent.
        cdef PyObject* values[FIELDS_MAX]
        cdef dict attributes = PyObject_GenericGetDict(agent, NULL)
        cdef Py_ssize_t index = 0, held
        cdef PyObject* value
        if PyDict_GetItemWithError(attributes, GUARD) == NULL:
            try:
                for field in self.fields:
                    value = PyDict_GetItemWithError(attributes, field)
                    if value == NULL:
                        break
                    Py_INCREF(<object>value)
                    values[index] = value
                    index += 1
                else:
                    return self.encode(PyObject_Vectorcall(self.struct, values, index, NULL))
            except Exception:
                pass  # once more, for the error that names the field
            finally:
                for held in range(index):
                    Py_XDECREF(values[held])
        return self.kind.dump(agent)

    cdef bytes changed(self, bytes before, bytes state):
        """The record with this state, or None if the one before has the same."""
        cdef Py_ssize_t head = PyBytes_GET_SIZE(self.record_head), size = PyBytes_GET_SIZE(state)
        cdef bytes record
        if PyBytes_GET_SIZE(before) == head + size:
            if memcmp(PyBytes_AS_STRING(before) + head, PyBytes_AS_STRING(state), <size_t>size) == 0:
                return None
        record = PyBytes_FromStringAndSize(NULL, head + size)
        memcpy(PyBytes_AS_STRING(record), PyBytes_AS_STRING(self.record_head), <size_t>head)
        memcpy(PyBytes_AS_STRING(record) + head, PyBytes_AS_STRING(state), <size_t>size)
        return record

    cdef object make(self, TurnFields context, bytes record):
        """A new agent as this record has it, with defaults for None; see AgentType.create and load."""
        cdef PyObject* cls = <PyObject*>self.cls
        if self.plain:
            agent = (<PyTypeObject*>cls).tp_new(<PyTypeObject*>cls, NOTHING, NULL)
            put_in_place(agent, ID_PLACE, context.address)
            put_in_place(agent, CONTEXT_PLACE, context)
            put_in_place(agent, LOG_PLACE, None)
        else:
            agent = self.cls(context)
        cdef dict attributes = PyObject_GenericGetDict(agent, NULL)
        cdef Py_ssize_t index = 0
        stored = self.stored(record)
        for field in self.fields:
            attributes[field] = in_place(stored, self.places[index])
            index += 1
        guarded = in_place(stored, self.places[index])
        if guarded is not UNSET:
            attributes[GUARD] = guarded
        return agent

    cdef object stored(self, bytes record):
        """The state in a record as a struct, or the defaults for None."""
        cdef bytes state
        if record is None:
            return self.decode(None)
        state = record[PyBytes_GET_SIZE(self.record_head):]
        try:
            return self.parse(state)
        except Exception:  # once more, for the error that names the class
            return self.decode(state)
