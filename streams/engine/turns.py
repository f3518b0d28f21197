"""One turn, from a message in a mailbox to the effects that wait for a commit batch.

A turn either finishes whole (state, messages, reply) or leaves nothing but a dead letter and, if it was asked, an error
reply. The agent's attributes are put back to what they were before, so the next turn starts from accepted state.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from inspect import isawaitable
from types import CoroutineType
from typing import Any, NamedTuple

from rookery.agents.effects import TurnContext, reply_body
from rookery.agents.errors import OutsideTurn
from rookery.agents.handlers import BoundHandler
from rookery.agents.supervision import HandlerTimeout
from rookery.agents.system import handle_system, read_spawn
from rookery.agents.types import Registry
from rookery.schemas import native
from rookery.schemas.address import parse
from rookery.schemas.cells import Parked, Place, decode_cell, parked_key
from rookery.schemas.envelope import Received, decode
from rookery.schemas.errors import AgentStopped, BatchTooLarge, Expired, NotSpawned
from rookery.schemas.journal import RETIRED, decode_agent, encode_agent
from rookery.schemas.partition_errors import StoreDamaged, StoreFailed
from rookery.schemas.system import PAUSE, PREFIX, REPLY, RESUME, SPAWN, STOP
from rookery.streams.core.batch import Finished
from rookery.streams.core.loops import drop
from rookery.streams.core.mailbox import Item, Mailbox
from rookery.streams.core.partition import Partition
from rookery.streams.core.routing import Router
from rookery.streams.core.runqueue import RunQueue
from rookery.streams.engine.failures import Failures
from rookery.streams.engine.inbound import EnvelopeReader
from rookery.streams.engine.pool import Step
from rookery.streams.engine.steps import Host, TurnSteps
from rookery.streams.log import Record

log = logging.getLogger(__name__)

# What ends a turn without effects: whatever else a handler raises ends the worker.
FAILURES = (asyncio.CancelledError, Exception, SystemExit)
# A hook that hangs must not keep others from being passivated; seconds.
PASSIVATE_SECONDS_MAX = 10.0


class TurnRunner:
    """Runs turns for the pool; `partition_of(number)` gives an owned partition or None."""

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of an engine that meet in a turn
        self,
        registry: Registry,
        router: Router,
        failures: Failures,
        partition_of: Callable[[int], Partition | None],
        now_ns: Callable[[], int],
        clock: Callable[[], float],
        new_id: Callable[[], str],
        message_bytes_max: int,
        observe: Callable[[Mailbox, int, float, bool], None],
    ) -> None:
        """`now_ns` is the wall clock, `clock` monotonic seconds; `observe(mailbox, lane, seconds, failed)`
        hears of each turn."""
        self._registry = registry
        self._router = router
        self._failures = failures
        self.host: Host  # set once the pool is made
        self._partition_of = partition_of
        self._now_ns = now_ns
        self._clock = clock
        self._new_id = new_id
        self._message_bytes_max = message_bytes_max
        self._observe = observe
        self.late_replies = 0
        self.stopping = False  # cancellations come from the pool's end, not from handlers

    def compiled(self, queue: RunQueue, batch_bytes_max: int) -> Step | None:
        """What runs the usual turns of a queue without awaiting, if it is compiled."""
        module = native.load("rookery.streams.engine._slice")
        if module is None:
            return None
        usual = module.Slice(
            self,
            self._registry,
            self._router,
            queue,
            self._partition_of,
            self._now_ns,
            self._clock,
            self._new_id,
            self._observe,
            self._message_bytes_max,
            batch_bytes_max,
        )
        step: Step = usual.run
        return step

    async def run(self, mailbox: Mailbox, lane: int, started: float, begun: Awaitable[Any] | None = None) -> float:
        """Run the turn of the first message of a lane; `started` is now, and so is what it returns, on the clock. With
        `begun` a compiled step has begun it, and this is the rest of its handler.

        Never raises, but for the cancellation of a runner at rest.
        """
        if begun is not None:
            return await self._go_on(mailbox, lane, begun, started)
        partition = self._partition_of(mailbox.partition)
        if partition is None:
            mailbox.closed = True
            return started
        if mailbox.first_lane is not None:
            lane, mailbox.first_lane = mailbox.first_lane, None
        item = mailbox.lanes[lane].popleft()
        if item.is_parked and not self._load(partition, mailbox, lane, item):
            return started
        mailbox.current, mailbox.current_lane = item, lane
        fresh, woken = False, False
        try:
            # One coroutine for all of a turn, since each more costs as much as a small handler.
            envelope, now_ns = item.envelope, self._now_ns()
            if deadline := envelope.deadline:
                _in_time(mailbox, deadline, now_ns)
            if mailbox.agent is None:
                woken = True
                fresh = await self._activate(partition, mailbox, envelope, now_ns)
            else:
                mailbox.context.begin(envelope, now_ns)
            message_type = envelope.type
            bound: BoundHandler | None = mailbox.kind.find(message_type)
            if bound is not None:
                result = bound.function(mailbox.agent, bound.decode(envelope.payload, envelope.content_type))
                # Coroutines are the rule; the general question costs ten times as much.
                if type(result) is CoroutineType or isawaitable(result):
                    timeout = mailbox.kind.timeout
                    result = await (result if timeout is None else _bounded(result, timeout, mailbox.address))
                finished = self._effects(partition, mailbox, lane, item, result)
            elif message_type == STOP:
                finished = await self._stop(partition, mailbox, lane, item)
            else:
                finished = await self._system(partition, mailbox, lane, item, fresh)
        except FAILURES as error:
            if woken and not mailbox.closed and mailbox.kind is not None and mailbox.kind.has_activate:
                mailbox.agent = None  # what the hook changed and sent went with this turn: it runs again
            return self.end_failed(partition, mailbox, lane, item, error, started, fresh)
        return self._end(partition, mailbox, lane, started, finished, failed=False)

    async def _go_on(self, mailbox: Mailbox, lane: int, begun: Awaitable[Any], started: float) -> float:
        partition, item, finished = self._partition_of(mailbox.partition), mailbox.current, None
        try:
            result = await begun
            if partition is not None and item is not None:  # else it was lost before the handler began to wait
                finished = self._effects(partition, mailbox, lane, item, result)
        except FAILURES as error:
            if partition is not None and item is not None:
                return self.end_failed(partition, mailbox, lane, item, error, started)
        return self._end(partition, mailbox, lane, started, finished, failed=False)

    def end(self, partition: Partition, mailbox: Mailbox, lane: int, item: Item, result: Any, started: float) -> float:
        """End a turn whose handler returned in a slice; returns now."""
        finished = self._effects(partition, mailbox, lane, item, result)
        return self._end(partition, mailbox, lane, started, finished, failed=False)

    def end_failed(
        self,
        partition: Partition,
        mailbox: Mailbox,
        lane: int,
        item: Item,
        error: BaseException,
        started: float,
        fresh: bool = False,
    ) -> float:
        """End a turn that failed; `fresh`: it made the agent. Returns now. Raises what cancels the pool."""
        finished = None
        if failed := not mailbox.closed:
            if self.stopping and isinstance(error, asyncio.CancelledError):
                raise error
            finished = self._fail(partition, mailbox, lane, item, error, fresh)
        return self._end(partition, mailbox, lane, started, finished, failed)

    def _end(
        self,
        partition: Partition | None,
        mailbox: Mailbox,
        lane: int,
        started: float,
        finished: Finished | None,
        failed: bool,
    ) -> float:
        mailbox.current = None
        if mailbox.ledger is not None:
            self._close_steps(mailbox, finished)
        if mailbox.context is not None:
            mailbox.context.end()
        now = mailbox.used_at = self._clock()
        if mailbox.closed or finished is None or partition is None:
            _uncancel()
            return now
        partition.finish(finished)
        self._observe(mailbox, lane, now - started, failed)
        return now

    def _effects(self, partition: Partition, mailbox: Mailbox, lane: int, item: Item, result: Any) -> Finished:
        """Close a turn whose handler returned: what it changed and sends. Nothing is accepted if this raises."""
        kind, context = mailbox.kind, mailbox.context
        state, record = kind.dump(mailbox.agent), None
        if state != kind.state_in(mailbox.record) or item.envelope.type == SPAWN:
            record = kind.record_head + state
        sends = context.take()
        if (reply := reply_body(context, result)) is not None:
            sends.append(reply)
        sent = self._router.sent
        messages = [sent(send) for send in sends] if sends else ()
        finished = Finished(mailbox, lane, item.offset, record, messages)
        if not partition.fits(finished):
            raise BatchTooLarge(finished.size, partition.limits.batch_bytes_max, mailbox.address)
        if record is not None:
            mailbox.record = record
        return finished

    async def _system(self, partition: Partition, mailbox: Mailbox, lane: int, item: Item, fresh: bool) -> Finished:
        """Handle a message that no handler takes: Rookery's own, or one of an unknown type."""
        kind, envelope = mailbox.kind, item.envelope
        if not envelope.type.startswith(PREFIX):
            raise kind.unknown_handler(envelope.type)
        if envelope.type == PAUSE:
            # A resume that waits behind it came while the agent was busy, and would wait for ever.
            if not any(self._reread(partition, mailbox, lane, later).type == RESUME for later in mailbox.lanes[lane]):
                self._failures.pause(partition, mailbox, lane, item.offset, "somebody asked for it")
        elif envelope.type == REPLY:
            # Whoever asked has given up, or has heard it before.
            self.late_replies += 1
            mailbox.context.take()
            return Finished(mailbox, lane, item.offset, None, ())
        result = None
        # Spawned before: the same answer, and on_spawn does not run again.
        if envelope.type != SPAWN or fresh:
            result = await handle_system(kind, mailbox.agent, mailbox.context, envelope)
        return self._effects(partition, mailbox, lane, item, result)

    async def _activate(self, partition: Partition, mailbox: Mailbox, envelope: Received, now_ns: int) -> bool:
        """Bring the agent to memory with its committed state, and open the turn. True if it has no record yet."""
        if mailbox.stopped:
            raise AgentStopped(mailbox.address)
        stored = partition.store.get(mailbox.key)
        fresh = mailbox.record is None and stored is None
        if mailbox.record is not None:  # not committed yet: newer than the store
            kind, record = mailbox.kind, mailbox.record
        elif stored is not None:
            found = decode_agent(stored)
            if found.flags & RETIRED:
                raise AgentStopped(mailbox.address)
            kind, record = self._registry.get(found.type), stored
        else:
            if envelope.type == SPAWN:
                mailbox.kind_name = read_spawn(envelope).type
            name = mailbox.kind_name or parse(mailbox.address)[0]
            if not name:
                raise NotSpawned(mailbox.address, 0.0)  # its spawn came and was refused
            kind, record = self._registry.get(name), None
        context = TurnContext(mailbox.address, self._new_id, self._message_bytes_max, self.open_steps)
        agent = kind.create(context)
        if record is None:
            record = kind.record_head + kind.dump(agent)
        else:
            kind.load(agent, kind.state_in(record))
        mailbox.kind, mailbox.context = kind, context
        if kind.has_activate or kind.has_passivate:  # users see its agents come and go
            mailbox.passing = False
        context.begin(envelope, now_ns)
        if mailbox.ledger is not None:
            context.attempt = mailbox.ledger.attempts
        if kind.has_activate:
            result: Any = agent.on_activate()
            if isawaitable(result):
                await result
        mailbox.agent, mailbox.record = agent, record
        return fresh

    async def _stop(self, partition: Partition, mailbox: Mailbox, lane: int, item: Item) -> Finished:
        """End the agent for good: what comes later is refused, and its record goes once the stop is settled."""
        kind, context = mailbox.kind, mailbox.context
        if kind.has_passivate:
            result: Any = mailbox.agent.on_passivate()
            if isawaitable(result):
                await result
        sends = context.take()
        reply = reply_body(context, None)
        if reply is not None:
            sends.append(reply)
        record = encode_agent(kind.name, kind.state_version, RETIRED, b"")
        finished = Finished(mailbox, lane, item.offset, record, [self._router.sent(send) for send in sends])
        if not partition.fits(finished):
            raise BatchTooLarge(finished.size, partition.limits.batch_bytes_max, mailbox.address)
        if not mailbox.closed:
            partition.stopped(mailbox, lane, item.offset)
        return finished

    def open_steps(self, context: TurnContext) -> TurnSteps:
        """Begin the log of the turn in hand; raises OutsideTurn."""
        # Looked up, since an agent that knew its mailbox would be in a cycle, and each would wait for the collector.
        partition = self._partition_of(self._router.inbox(context.address, 0)[0][1])
        mailbox = None if partition is None else partition.mailboxes.get(context.address)
        if partition is None or mailbox is None or mailbox.context is not context or mailbox.current is None:
            raise OutsideTurn(context.address, "a step or ask")
        item = mailbox.current
        if mailbox.agent is None:  # the turn that runs again may find the agent in memory, and count other steps
            raise OutsideTurn(mailbox.address, "a step or ask in on_activate")
        return TurnSteps(self.host, partition, mailbox, mailbox.current_lane, item)

    def _close_steps(self, mailbox: Mailbox, finished: Finished | None) -> None:
        """End what a turn with a ledger leaves open; with its message its steps go, too."""
        if mailbox.context is not None and mailbox.context.steps is not None:
            mailbox.context.steps.close()
            mailbox.context.steps = None
        if finished is not None and mailbox.ledger is not None:
            if mailbox.context is not None:
                mailbox.context.attempt = 0
            gone = mailbox.ledger.end_turn(mailbox.address, Place(finished.lane, finished.offset))
            if gone:
                finished.cells = gone
                finished.__post_init__()

    def _load(self, partition: Partition, mailbox: Mailbox, lane: int, item: Item) -> bool:
        """Bring a parked message back from the journal; False if its next turn is not due yet: it is held then."""
        try:
            parked, item.record = _parked(partition, mailbox, lane, item.offset)
        except (StoreDamaged, StoreFailed):
            return False  # the partition is being dropped, and recovered
        item.envelope = self._read(partition, lane, item.record)
        if parked.attempts:
            ledger = partition.ledgers.open(mailbox)
            ledger.attempts, ledger.not_before, ledger.delay = parked.attempts, parked.not_before, parked.delay
            if mailbox.context is not None:
                mailbox.context.attempt = parked.attempts
        if (due := min(parked.not_before - self._now_ns(), parked.delay)) <= 0:
            return True
        mailbox.lanes[lane].appendleft(item)
        mailbox.first_lane = lane
        self._failures.hold(mailbox, due / 1e9)
        return False

    def _reread(self, partition: Partition, mailbox: Mailbox, lane: int, item: Item) -> Received:
        """The envelope of a waiting message, which stays where it is."""
        if not item.is_parked:
            return item.envelope
        return self._read(partition, lane, _parked(partition, mailbox, lane, item.offset)[1])

    def _read(self, partition: Partition, lane: int, record: Record) -> Received:
        if not record.headers:
            return decode(record.value)
        return EnvelopeReader(self._router.topics.inboxes[lane], partition.number, lane)(record)

    def _fail(
        self, partition: Partition, mailbox: Mailbox, lane: int, item: Item, error: BaseException, fresh: bool
    ) -> Finished | None:
        """What is left of a turn that failed; None if the message will be tried again. `fresh`: it made the agent."""
        if mailbox.context is not None:
            mailbox.context.take()
        if mailbox.agent is not None:
            try:
                mailbox.kind.load(mailbox.agent, mailbox.kind.state_in(mailbox.record))
            except Exception:
                # It stored what its class does not declare; each message will say so until the class is mended.
                log.exception("the state of %s can't be read back", mailbox.address)
                mailbox.agent = None
        if item.envelope.type == SPAWN and (fresh or (mailbox.record is None and mailbox.key not in partition.store)):
            mailbox.agent = mailbox.record = None  # refused: there is no such agent
            mailbox.kind_name = ""
        try:
            return self._failures.failed(partition, mailbox, lane, item, error)
        except Exception as worse:
            # An error class of the user's that fails itself, in a property or by a reason that is no text.
            log.exception("what failed a turn of %s can't be told: %s", mailbox.address, type(error).__qualname__)
            return self._failures.failed(partition, mailbox, lane, item, worse)

    async def passivate(self, partition: Partition, mailbox: Mailbox) -> None:
        """Call the hook of an idle agent, then free its memory. What arrives meanwhile activates it again."""
        mailbox.running = True  # no turn may start while the hook runs
        mailbox.runner = None
        try:
            async with asyncio.timeout(PASSIVATE_SECONDS_MAX):
                result: Any = mailbox.agent.on_passivate()
                if isawaitable(result):
                    await result
        except Exception:
            log.exception("on_passivate of %s failed", mailbox.address)
        mailbox.running = False
        drop(partition.mailboxes, mailbox)


class ParkedRecord(NamedTuple):
    """The inbox record of a parked message."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]  # one without a value has b"" here
    timestamp: int


def _parked(partition: Partition, mailbox: Mailbox, lane: int, offset: int) -> tuple[Parked, ParkedRecord]:
    """The cell of a parked message, and the inbox record in it."""
    parked = decode_cell(partition.cell(parked_key(mailbox.address, Place(lane, offset))) or b"", Parked)
    headers = [(name, content or b"") for name, content in parked.headers]
    return parked, ParkedRecord(offset, parked.key, parked.value, headers, parked.timestamp)


def _in_time(mailbox: Mailbox, deadline: int, now_ns: int) -> None:
    """Raise Expired for a message that comes too late, unless its turn has begun before."""
    ledger = mailbox.ledger
    if deadline < now_ns and (ledger is None or not (ledger.attempts or ledger.steps)):
        raise Expired(mailbox.address, deadline)


async def _bounded(result: Awaitable[Any], timeout: float, address: str) -> Any:
    """A handler's result, within its timeout in seconds."""
    scope = asyncio.timeout(timeout)
    try:
        async with scope:
            return await result
    except TimeoutError as error:
        if scope.expired():
            raise HandlerTimeout(address, timeout) from error
        raise


def _uncancel() -> None:
    """The partition was lost and the handler ended: the runner itself goes on."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
