# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The usual turn, compiled: an agent in memory whose handler returns without waiting, and the loop over such turns.

`Pool` and `TurnRunner` do the same and everything else. Whatever is unusual about a turn is found before its message is
taken, and left to them; a handler that has to wait is handed to them with what it waits for, an error as it is.
"""

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport int64_t

from rookery.schemas._wire cimport CLOSED, OPEN, Frame, body_of
from rookery.streams.core._mailboxes cimport Finished, Item, Mailbox, RunQueue, Sent, Waiting

from asyncio import CancelledError
from inspect import isawaitable
from types import CoroutineType, GeneratorType

from rookery.agents import guard
from rookery.agents.effects import Outgoing, reply_body
from rookery.schemas import payload as codecs
from rookery.schemas.envelope import SEAL_BYTES
from rookery.schemas.errors import BatchTooLarge
from rookery.schemas.system import ASK_PREFIX, REPLY
from rookery.streams.engine.pool import CHANGED, DRAINED, OVER

cdef extern from "Python.h":
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    PySendResult PyIter_Send(object iterator, object value, PyObject** result)
    PyObject* PyDict_GetItemWithError(object mapping, object key) except? NULL
    object PyContext_CopyCurrent()
    object PyObject_Vectorcall(object function, PyObject** args, size_t count, PyObject* names)
    ctypedef struct PyAsyncMethods:
        void* am_await
    ctypedef struct PyTypeObject:
        PyAsyncMethods* tp_as_async
    PyTypeObject* Py_TYPE(object value)

cdef enum:
    FIELDS_MAX = 64
    TYPES_MAX = 4_096

cdef object GUARD = guard.ATTRIBUTE
cdef Py_ssize_t SEAL_SIZE = SEAL_BYTES

cdef tuple FAILURES = (CancelledError, Exception, SystemExit)


@cython.final
cdef class Begun:
    """A handler that waits: awaited, it gives first what it has asked the event loop for, then goes on."""

    cdef object coroutine
    cdef object first
    cdef bint given

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if not self.given:
            self.given = True
            first, self.first = self.first, None
            return first
        return self.coroutine.send(None)

    def send(self, value):
        """Go on."""
        return self.coroutine.send(value)

    def throw(self, *args):
        """Go on with an error."""
        return self.coroutine.throw(*args)

    def close(self):
        """End the handler."""
        self.coroutine.close()


@cython.final
cdef class Handling:
    """One handler: its function, and how it reads a payload."""

    cdef object function, decode
    cdef dict readers

    def __init__(self, bound):
        self.function, self.decode = bound.function, bound.decode
        self.readers = getattr(bound.decode, "readers", None)

    cdef object read(self, Frame frame):
        cdef PyObject* reader
        if self.readers is not None:
            reader = PyDict_GetItemWithError(self.readers, frame.content_type)
            if reader != NULL:
                try:
                    return (<object>reader)(frame.payload)
                except Exception:
                    pass  # once more, for the error that tells what is wrong
        return self.decode(frame.payload, frame.content_type)


@cython.final
cdef class Plan:
    """What the turns of one agent type need of it."""

    cdef object kind, struct, encode
    cdef dict handlings
    cdef tuple fields
    cdef bytes record_head
    cdef bint timed

    def __init__(self, kind):
        self.kind = kind
        self.handlings = {name: Handling(kind.find(name)) for name in kind.message_types}
        schema = kind.schema
        self.struct, self.encode, self.fields = schema.struct, schema.encode, schema.fields
        self.record_head = kind.record_head
        self.timed = kind.timeout is not None or len(self.fields) > FIELDS_MAX

    cdef Handling handling(self, str message_type):
        """The handler of a message; None if it is the catch-all, or none."""
        return self.handlings.get(message_type)

    cdef bytes dump(self, agent):
        """See StateSchema.dump."""
        cdef PyObject* values[FIELDS_MAX]
        cdef dict attributes = agent.__dict__
        cdef Py_ssize_t index = 0
        cdef PyObject* value
        if PyDict_GetItemWithError(attributes, GUARD) == NULL:
            for field in self.fields:
                value = PyDict_GetItemWithError(attributes, field)
                if value == NULL:
                    break
                values[index] = value
                index += 1
            else:
                try:
                    return self.encode(PyObject_Vectorcall(self.struct, values, index, NULL))
                except Exception:
                    pass  # once more, for the error that names the field
        return self.kind.dump(agent)


@cython.final
cdef class Slice:
    """Runs turns until there are no more, the time is up, or Python has to look."""

    cdef object turns, router, now_ns, clock, new_id, observe, partition_of
    cdef RunQueue queue
    cdef dict plans, encoders, clients
    cdef tuple routes
    cdef Py_ssize_t body_max, size_max

    def __init__(
        self, turns, router, RunQueue queue, partition_of, now_ns, clock, new_id, observe,
        Py_ssize_t message_bytes_max, Py_ssize_t batch_bytes_max,
    ):
        """The parts of a TurnRunner, and the run queue; a turn that adds more than a quarter of a batch is unusual."""
        self.turns, self.router, self.queue = turns, router, queue
        self.partition_of = partition_of
        self.now_ns, self.clock, self.new_id, self.observe = now_ns, clock, new_id, observe
        self.clients, self.routes = router.clients, router.routes
        self.body_max = message_bytes_max - SEAL_SIZE
        self.size_max = batch_bytes_max // 4
        self.plans, self.encoders = {}, {}

    def run(self, me, clean, double now, double end):
        """Run turns in the task `me` until `end`, on the clock; `clean` is the context that they begin in.

        Returns (mailbox, lane, what is begun of its turn, now) if Python has to run or to go on with a turn, else
        (None, why, None, now).
        """
        cdef Mailbox mailbox
        cdef int lane = 0
        cdef RunQueue queue = self.queue
        while True:
            mailbox = queue.take(&lane)
            if mailbox is None:
                return None, DRAINED, None, now
            mailbox.running = True
            mailbox.runner = me
            begun = self.turn(mailbox, lane, &now)
            if begun is not None:
                return mailbox, lane, None if begun is False else begun, now
            mailbox.running = False
            if not mailbox.closed:
                if mailbox.high.size():
                    queue.push(mailbox, 2)
                if mailbox.normal.size():
                    queue.push(mailbox, 1)
                if mailbox.low.size():
                    queue.push(mailbox, 0)
            context = PyContext_CopyCurrent()
            try:
                changed = context != clean
            except Exception:  # what it holds now can't be compared
                changed = True
            if changed:
                return None, CHANGED, None, now
            clean = context
            if now >= end:
                return None, OVER, None, now

    cdef object turn(self, Mailbox mailbox, int lane, double* now):
        """Run the turn of the first message of a lane; None if it has ended, else what Python needs for it: False if
        all is still to be done, or a Begun."""
        cdef Waiting waiting = mailbox.lane(lane)
        cdef Item item = waiting.first()
        cdef Plan plan
        cdef Frame frame
        cdef Handling handling
        cdef PyObject* result = NULL
        cdef PySendResult outcome
        if mailbox.agent is None or mailbox.first_lane is not None or mailbox.ledger is not None:
            return False
        if item.record is None:
            return False
        frame = item.envelope
        plan = self.plans.get(mailbox.kind)
        if plan is None:
            plan = self.plans[mailbox.kind] = Plan(mailbox.kind)
        handling = plan.handling(frame.type)
        if handling is None or frame.deadline or plan.timed:
            return False
        partition = self.partition_of(mailbox.partition)
        if partition is None:
            return None
        waiting.popleft()
        mailbox.current, mailbox.current_lane = item, lane
        context = mailbox.context
        try:
            context.begin(frame, self.now_ns())
            answer = handling.function(mailbox.agent, handling.read(frame))
            if type(answer) is CoroutineType:
                outcome = PyIter_Send(answer, None, &result)
                if outcome == PYGEN_NEXT:
                    begun = Begun.__new__(Begun)
                    (<Begun>begun).coroutine, (<Begun>begun).first = answer, <object>result
                    Py_XDECREF(result)
                    return begun
                if outcome == PYGEN_ERROR:
                    reraise()
                answer = <object>result
                Py_XDECREF(result)
            elif is_awaitable(answer):
                return answer
            if mailbox.ledger is not None or context.steps is not None or mailbox.closed:
                now[0] = self.turns.end(partition, mailbox, lane, item, answer, now[0])
                return None
            self.finish(partition, mailbox, lane, item, frame, plan, context, answer)
        except FAILURES as error:
            now[0] = self.turns.end_failed(partition, mailbox, lane, item, error, now[0])
            return None
        mailbox.current = None
        cdef double started = now[0]
        now[0] = mailbox.used_at = self.clock()
        self.observe(mailbox, lane, now[0] - started, False)
        return None

    cdef int finish(
        self, partition, Mailbox mailbox, int lane, Item item, Frame frame, Plan plan, context, answer
    ) except -1:
        """See TurnRunner._effects."""
        cdef bytes state = plan.dump(mailbox.agent), record = None
        cdef Finished finished
        cdef list sent
        if state != mailbox.state:
            record = plan.record_head + state
        sends = context.sends
        context.sends = None
        sent = [self.routed(send) for send in sends] if sends else []
        if frame.reply_to:
            sent.append(self.reply(frame, context, answer))
        finished = Finished(mailbox, lane, item.offset, record, sent)
        if finished.size > self.size_max and not partition.fits(finished):
            raise BatchTooLarge(finished.size, partition.limits.batch_bytes_max, mailbox.address)
        mailbox.state = state
        mailbox.unsettled += 1
        (<Waiting>partition.finished.fresh).push(finished)
        return 0

    cdef Sent routed(self, send):
        """See Router.sent; an agent whose route is known."""
        cdef PyObject* found = PyDict_GetItemWithError(self.routes[send.priority], send.target)
        if found == NULL:
            return self.router.sent(send)
        destination, key = <tuple><object>found
        return Sent(destination, key, send.body, True)

    cdef Sent reply(self, Frame frame, context, answer):
        """See effects.reply_body and Router.sent."""
        cdef str name, content_type, target = frame.reply_to, correlation_id
        cdef tuple destination
        cdef bytes payload, body
        cdef PyObject* found
        if frame.headers or not 0 <= frame.priority <= 2:
            return self.router.sent(reply_body(context, answer))
        name, content_type, payload = self.encoded(answer)
        if frame.id.startswith(ASK_PREFIX):
            name = REPLY
        correlation_id = frame.correlation_id or frame.id
        found = PyDict_GetItemWithError(self.clients, target)
        if found != NULL:
            destination, key, mode = <tuple><object>found, correlation_id.encode(), CLOSED
        else:
            found = PyDict_GetItemWithError(self.routes[frame.priority], target)
            if found == NULL:
                return self.router.sent(reply_body(context, answer))
            destination, key = <tuple><object>found
            mode = OPEN
        body = body_of(
            context.address, target, payload, <int64_t>context.now_ns, frame.priority, self.new_id(), name,
            content_type, correlation_id, frame.id, mode, 0, 0,
        )
        if len(body) > self.body_max:
            context.bound(body, target)
        return Sent(destination, key, body, mode == OPEN)

    cdef tuple encoded(self, answer):
        """See payload.encode."""
        cdef PyObject* found = PyDict_GetItemWithError(self.encoders, type(answer))
        if found == NULL:
            name, content_type, to_bytes = codecs.encoder_of(type(answer))
            if isinstance(answer, dict):
                return codecs.encode(answer)
            if len(self.encoders) >= TYPES_MAX:
                self.encoders.clear()
            self.encoders[type(answer)] = name, content_type, to_bytes
        else:
            name, content_type, to_bytes = <tuple><object>found
        try:
            return name, content_type, to_bytes(answer)
        except Exception:
            return codecs.encode(answer)  # once more, for the error that names the type


cdef int reraise() except -1:
    """The error that PyIter_Send has set."""
    return -1


cdef inline bint is_awaitable(value):
    """See inspect.isawaitable; a generator may be a coroutine of the old kind."""
    cdef PyAsyncMethods* methods = Py_TYPE(value).tp_as_async
    return (methods != NULL and methods.am_await != NULL) or (type(value) is GeneratorType and isawaitable(value))
