# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The usual turn, compiled: an agent in memory whose handler returns without waiting, and the loop over such turns.

`Pool` and `TurnRunner` do the same and everything else. Whatever is unusual about a turn is found before its message is
taken, and left to them; a handler that has to wait is handed to them with what it waits for, an error as it is.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport int64_t

from rookery.agents._effects cimport TurnFields
from rookery.ops._observe cimport TurnObserver
from rookery.schemas._ids cimport IdSource
from rookery.schemas._memory cimport untrack
from rookery.schemas._wire cimport CLOSED, OPEN, Frame, body_of
from rookery.schemas._write cimport CRC_BYTES
from rookery.streams.core._mailboxes cimport (
    Finished,
    Item,
    Mailbox,
    Sent,
    new_finished,
    new_sent,
)
from rookery.streams.core._runqueue cimport RunQueue
from rookery.streams.engine._ahead cimport Running, look_ahead
from rookery.streams.engine._plans cimport Handling, Plan

from asyncio import CancelledError
from inspect import isawaitable
from types import CoroutineType, GeneratorType

from rookery.agents.effects import TurnContext, reply_body
from rookery.schemas import payload as codecs
from rookery.schemas.envelope import SEAL_BYTES
from rookery.schemas.errors import BatchTooLarge, PayloadError, UnknownAgentType
from rookery.schemas.journal import FORMAT
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
    ctypedef struct PyAsyncMethods:
        void* am_await
    ctypedef struct PyTypeObject:
        PyAsyncMethods* tp_as_async
        object (*tp_new)(PyTypeObject* kind, object args, PyObject* keywords)
    PyTypeObject* Py_TYPE(object value)

cdef enum:
    TYPES_MAX = 4_096

    HEAD_BYTES = 8  # of an agent's record: format, flags, version of 4, size of its type of 2; see journal.py

cdef PyObject* CONTEXT = <PyObject*>TurnContext
cdef tuple NOTHING = ()

cdef int FORMAT_NUMBER = FORMAT
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
cdef class Slice:
    """Runs turns until there are no more, the time is up, or Python has to look."""

    cdef object turns, open_steps, registry, router, now_ns, clock, new_id, observe, partition_of
    cdef RunQueue queue
    cdef TurnObserver observer  # `observe` and `new_id`, if they are compiled; else None
    cdef IdSource ids
    cdef list spare  # for what the next turn sends, if the last one sent nothing
    cdef dict partitions, plans, named, encoders, clients
    cdef tuple routes
    cdef Plan latest  # of the agent that was brought to memory last
    cdef TurnFields context  # of one that has left it, for the next
    cdef bytes stored
    cdef Py_ssize_t bytes_max, body_max, size_max

    def __init__(
        self, turns, registry, router, RunQueue queue, partition_of, now_ns, clock, new_id, observe,
        Py_ssize_t message_bytes_max, Py_ssize_t batch_bytes_max,
    ):
        """The parts of a TurnRunner, and the run queue; a turn that adds more than a quarter of a batch is unusual."""
        self.turns, self.registry, self.router, self.queue = turns, registry, router, queue
        self.partition_of, self.open_steps = partition_of, turns.open_steps
        self.now_ns, self.clock, self.new_id, self.observe = now_ns, clock, new_id, observe
        self.observer = observe if isinstance(observe, TurnObserver) else None
        self.ids = new_id if isinstance(new_id, IdSource) else None
        self.clients, self.routes = router.clients, router.routes
        self.bytes_max = message_bytes_max
        self.body_max = message_bytes_max - SEAL_SIZE
        self.size_max = batch_bytes_max // 4
        self.partitions, self.plans, self.named, self.encoders = {}, {}, {}, {}

    def run(self, me, clean, double now, double end):
        """Run turns in the task `me` until `end`, on the clock; `clean` is the context that they begin in.

        Returns (mailbox, lane, what is begun of its turn, now) if Python has to run or to go on with a turn, else
        (None, why, None, now).
        """
        try:
            return self.until(me, clean, now, end)
        finally:
            self.partitions.clear()  # one that is lost meanwhile is to leave memory

    cdef tuple until(self, me, clean, double now, double end):
        cdef Mailbox mailbox
        cdef int lane = 0
        cdef RunQueue queue = self.queue
        while True:
            mailbox = queue.take(&lane)
            if mailbox is None:
                return None, DRAINED, None, now
            look_ahead(queue.queue(lane), self.partitions)
            mailbox.running = True
            mailbox.runner = me
            begun = self.turn(mailbox, lane, &now)
            if begun is not None:
                return mailbox, lane, None if begun is False else begun, now
            mailbox.running = False
            if not mailbox.closed:
                queue.push_waiting(mailbox)
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
        cdef Item item = mailbox.first(lane)
        cdef Plan plan
        cdef Frame frame
        cdef Handling handling
        cdef Running running
        cdef TurnFields context
        cdef PyObject* result = NULL
        cdef PySendResult outcome
        if mailbox.first_lane is not None or mailbox.ledger is not None or item.record is None:
            return False
        running = self.partitions.get(mailbox.partition)
        if running is None or running.partition.closed:
            running = self.running(mailbox.partition)
            if running is None:
                mailbox.closed = True
                return None
        frame = item.envelope
        if mailbox.agent is not None:
            plan = self.plan_of(mailbox.kind)
        else:
            try:
                plan = self.plan_asleep(running, mailbox)
            except FAILURES:  # a store that fails, a damaged record: Python meets it again, inside of the turn
                return False
            if plan is None or plan.hooked:
                return False
        handling = plan.handling(frame.type)
        if handling is None or frame.deadline or plan.timed:
            return False
        if mailbox.agent is None and not self.wake(mailbox, plan, self.stored):
            return False
        mailbox.pop(lane)
        mailbox.current, mailbox.current_lane = item, lane
        context = mailbox.context
        try:
            sends, self.spare = self.spare, None
            context.start(frame, self.now_ns(), [] if sends is None else sends)
            sends = None  # see `finish`
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
                now[0] = self.turns.end(running.partition, mailbox, lane, item, answer, now[0])
                return None
            self.finish(running, mailbox, lane, item, frame, plan, context, answer)
        except FAILURES as error:
            now[0] = self.turns.end_failed(running.partition, mailbox, lane, item, error, now[0])
            return None
        mailbox.current = None
        context.envelope = context._lineage = None  # see TurnFields.end
        if mailbox.passing and not mailbox.waiting():
            mailbox.let_go()  # all that it is made of is still at hand
            if (<PyObject*>context).ob_refcnt == 1:
                context.open_steps = context.new_id = None  # they would lead back here
                self.context = context
        cdef double started = now[0]
        now[0] = mailbox.used_at = self.clock()
        if self.observer is not None:
            self.observer.observe(mailbox.address, plan.name, lane, now[0] - started, False)
        else:
            self.observe(mailbox, lane, now[0] - started, False)
        return None

    cdef Running running(self, int number):
        """An owned partition that is running, or None."""
        partition = self.partition_of(number)
        if partition is None:
            return None
        running = self.partitions[number] = Running(partition)
        return running

    cdef Plan plan_of(self, kind):
        cdef Plan plan = self.plans.get(kind)
        if plan is None:
            plan = self.plans[kind] = Plan(kind)
        return plan

    cdef Plan plan_asleep(self, Running running, Mailbox mailbox):
        """The plan for an agent that is not in memory; its record is in `stored` then, None if it has none yet. None if it
        is unusual: it was stopped, is to be spawned, of an unknown type, or damaged."""
        cdef const unsigned char* head
        cdef Py_ssize_t size, end
        cdef bytes stored
        if mailbox.stopped:
            return None
        if mailbox.record is not None:  # not committed yet: newer than the store
            self.stored = mailbox.record
            return self.plan_of(mailbox.kind)
        stored = running.get(mailbox.key) if running.values is None else running.values.found(mailbox.key)
        self.stored = None
        if stored is None:
            size = mailbox.address.find("/")
            if size < 0:
                return None
            return self.plan_named(mailbox.address[:size])
        if self.latest is not None and self.latest.wrote(stored):
            self.stored = stored
            return self.latest
        size = PyBytes_GET_SIZE(stored)
        head = <const unsigned char*>PyBytes_AS_STRING(stored)
        if size < HEAD_BYTES or head[0] != FORMAT_NUMBER or head[1]:
            return None
        end = HEAD_BYTES + (head[6] | head[7] << 8)
        if end > size:
            return None
        self.stored = stored
        self.latest = self.plan_named(stored[HEAD_BYTES:end].decode())
        return self.latest

    cdef Plan plan_named(self, str name):
        cdef Plan plan = self.named.get(name)
        if plan is None:
            try:
                plan = self.named[name] = self.plan_of(self.registry.get(name))
            except UnknownAgentType:
                return None  # Python says so
        return plan

    cdef bint wake(self, Mailbox mailbox, Plan plan, bytes record) except -1:
        """See TurnRunner._activate; False if Python has to say what is wrong."""
        cdef TurnFields context = self.context
        self.context = None
        if context is None:
            context = (<PyTypeObject*>CONTEXT).tp_new(<PyTypeObject*>CONTEXT, NOTHING, NULL)
            untrack(<void*>context)  # see TurnFields: a class made in Python has what its base does without
        context.settle(mailbox.address, self.new_id, self.bytes_max, self.open_steps)
        try:
            agent = plan.make(context, record)
            if record is None:
                record = plan.record_head + plan.dump(agent)
        except FAILURES:
            return False
        mailbox.kind, mailbox.context = plan.kind, context
        mailbox.agent, mailbox.record = agent, record
        if plan.watched:
            mailbox.passing = False
        return True

    cdef int finish(
        self, Running running, Mailbox mailbox, int lane, Item item, Frame frame, Plan plan, TurnFields context, answer
    ) except -1:
        """See TurnRunner._effects."""
        cdef bytes record = plan.changed(mailbox.record, plan.dump(mailbox.agent))
        cdef Finished finished
        cdef tuple sent = NOTHING
        cdef list sends = context.sends
        context.sends = None
        if sends:
            routed = [self.routed(send) for send in sends]
            if frame.reply_to:
                routed.append(self.reply(frame, context, answer))
            sent = tuple(routed)
            untrack(<void*>sent)
        else:
            if (<PyObject*>sends).ob_refcnt == 1:  # else a thread may still put something there
                self.spare = sends
            if frame.reply_to:
                sent = (self.reply(frame, context, answer),)
                untrack(<void*>sent)
        finished = new_finished(mailbox, lane, item.offset, record, sent)
        if finished.size > self.size_max and not running.partition.fits(finished):
            raise BatchTooLarge(finished.size, running.partition.limits.batch_bytes_max, mailbox.address)
        if record is not None:
            mailbox.record = record
        mailbox.unsettled += 1
        running.fresh.push(finished)
        return 0

    cdef Sent routed(self, send):
        """See Router.sent; an agent whose route is known."""
        cdef PyObject* found = PyDict_GetItemWithError(self.routes[send.priority], send.target)
        if found == NULL:
            return self.router.sent(send)
        destination, key = <tuple><object>found
        return new_sent(destination, key, send.body, True)

    cdef Sent reply(self, Frame frame, TurnFields context, answer):
        """See effects.reply_body and Router.sent."""
        cdef str name, content_type, target = frame.reply_to, correlation_id, new_id
        cdef tuple destination
        cdef bytes payload, body
        cdef PyObject* found
        cdef Py_ssize_t size
        if frame.headers or not 0 <= frame.priority <= 2:
            return self.router.sent(reply_body(context, answer))
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
        spelled, content_type, payload = self.encoded(answer)
        # A dict may name its type by a member of a StrEnum.
        name = spelled if type(spelled) is str else str.__str__(spelled)
        if frame.id.startswith(ASK_PREFIX):
            name = REPLY
        new_id = self.ids.next_id() if self.ids is not None else self.new_id()
        body = body_of(
            context.address, target, payload, <int64_t>context.now_ns, frame.priority, new_id, name,
            content_type, correlation_id, frame.id, mode, 0, 0,
        )
        size = len(body) - (CRC_BYTES if mode == CLOSED else 0)
        if size > self.body_max:
            context.bound(body[:size], target)
        return new_sent(destination, key, body, mode == OPEN)

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
        except Exception as error:
            raise PayloadError(f"can't be encoded: {error}", name) from error


cdef int reraise() except -1:
    """The error that PyIter_Send has set."""
    return -1


cdef inline bint is_awaitable(value):
    """See inspect.isawaitable; a generator may be a coroutine of the old kind."""
    cdef PyAsyncMethods* methods = Py_TYPE(value).tp_as_async
    return (methods != NULL and methods.am_await != NULL) or (type(value) is GeneratorType and isawaitable(value))
