"""One turn, from a message in a mailbox to the effects that wait for a commit batch.

A turn either finishes whole (state, messages, reply) or leaves nothing but a dead letter and, if it was asked, an error
reply. The agent's attributes are put back to what they were before, so the next turn starts from accepted state.
"""

import asyncio
import logging
from collections.abc import Callable
from inspect import isawaitable
from types import CoroutineType
from typing import Any

from rookery.agents.effects import TurnContext, reply_body
from rookery.agents.handlers import BoundHandler
from rookery.agents.system import handle_system, read_spawn
from rookery.agents.types import Registry
from rookery.schemas.address import parse
from rookery.schemas.envelope import Envelope
from rookery.schemas.errors import AgentStopped, BatchTooLarge, Expired, NotSpawned
from rookery.schemas.journal import RETIRED, decode_agent, encode_agent
from rookery.schemas.system import PREFIX, SPAWN, STOP
from rookery.streams.core.mailbox import Item, Mailbox
from rookery.streams.core.partition import Finished, Partition
from rookery.streams.core.routing import Router
from rookery.streams.engine.deadletters import DeadLetters

log = logging.getLogger(__name__)

# A hook that hangs must not keep others from being passivated; seconds.
PASSIVATE_SECONDS_MAX = 10.0


class TurnRunner:
    """Runs turns for the pool; `partition_of(number)` gives an owned partition or None."""

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of an engine that meet in a turn
        self,
        registry: Registry,
        router: Router,
        dead_letters: DeadLetters,
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
        self._dead_letters = dead_letters
        self._partition_of = partition_of
        self._now_ns = now_ns
        self._clock = clock
        self._new_id = new_id
        self._message_bytes_max = message_bytes_max
        self._observe = observe
        self.stopping = False  # cancellations come from the pool's end, not from handlers

    async def run(self, mailbox: Mailbox, lane: int, started: float) -> float:
        """Run the turn of the first message of a lane; `started` is now, and so is what it returns, on the clock.

        Never raises, but for the cancellation of a runner at rest.
        """
        partition = self._partition_of(mailbox.partition)
        if partition is None:
            return started
        if mailbox.spawn_lane is not None:
            lane, mailbox.spawn_lane = mailbox.spawn_lane, None
        item = mailbox.lanes[lane].popleft()
        finished, failed, fresh = None, False, False
        try:
            # One coroutine for all of a turn, since each more costs as much as a small handler.
            envelope, now_ns = item.envelope, self._now_ns()
            if deadline := envelope.deadline:
                _in_time(mailbox.address, deadline, now_ns)
            if mailbox.agent is None:
                fresh = await self._activate(partition, mailbox, envelope, now_ns)
            else:
                mailbox.context.begin(envelope, now_ns)
            message_type = envelope.type
            bound: BoundHandler | None = mailbox.kind.find(message_type)
            if bound is not None:
                result = bound.function(mailbox.agent, bound.decode(envelope.payload, envelope.content_type))
                # Coroutines are the rule; the general question costs ten times as much.
                if type(result) is CoroutineType or isawaitable(result):
                    result = await result
                finished = self._effects(partition, mailbox, lane, item, result)
            elif message_type == STOP:
                finished = await self._stop(partition, mailbox, lane, item)
            else:
                finished = await self._system(partition, mailbox, lane, item, fresh)
        except (asyncio.CancelledError, Exception) as error:
            if not mailbox.closed:
                if self.stopping and isinstance(error, asyncio.CancelledError):
                    raise
                failed, finished = True, self._fail(partition, mailbox, lane, item, error)
        now = self._clock()
        if mailbox.closed or finished is None:
            _uncancel()
            return now
        partition.finish(finished)
        mailbox.used_at = now
        self._observe(mailbox, lane, now - started, failed)
        return now

    def _effects(self, partition: Partition, mailbox: Mailbox, lane: int, item: Item, result: Any) -> Finished:
        """Close a turn whose handler returned: what it changed and sends. Nothing is accepted if this raises."""
        kind, context = mailbox.kind, mailbox.context
        state = kind.dump(mailbox.agent)
        record = kind.record_head + state if state != mailbox.state or item.envelope.type == SPAWN else None
        sends = context.take()
        if (reply := reply_body(context, result)) is not None:
            sends.append(reply)
        sent = self._router.sent
        finished = Finished(mailbox, lane, item.offset, record, [sent(send) for send in sends] if sends else ())
        if not partition.fits(finished):
            raise BatchTooLarge(finished.size, partition.limits.batch_bytes_max, mailbox.address)
        mailbox.state = state
        return finished

    async def _system(self, partition: Partition, mailbox: Mailbox, lane: int, item: Item, fresh: bool) -> Finished:
        """Handle a message that no handler takes: Rookery's own, or one of an unknown type."""
        kind, envelope = mailbox.kind, item.envelope
        if not envelope.type.startswith(PREFIX):
            raise kind.unknown_handler(envelope.type)
        result = None
        # Spawned before: the same answer, and on_spawn does not run again.
        if envelope.type != SPAWN or fresh:
            result = await handle_system(kind, mailbox.agent, mailbox.context, envelope)
        return self._effects(partition, mailbox, lane, item, result)

    async def _activate(self, partition: Partition, mailbox: Mailbox, envelope: Envelope, now_ns: int) -> bool:
        """Bring the agent to memory with its committed state, and open the turn. True if it has no record yet."""
        if mailbox.stopped:
            raise AgentStopped(mailbox.address)
        stored = partition.store.get(mailbox.key)
        fresh = mailbox.state is None and stored is None
        if mailbox.state is not None:  # not committed yet: newer than the store
            kind, state = mailbox.kind, mailbox.state
        elif stored is not None:
            record = decode_agent(stored)
            if record.flags & RETIRED:
                raise AgentStopped(mailbox.address)
            kind, state = self._registry.get(record.type), record.state
        else:
            if envelope.type == SPAWN:
                mailbox.kind_name = read_spawn(envelope).type
            name = mailbox.kind_name or parse(mailbox.address)[0]
            if not name:
                raise NotSpawned(mailbox.address, 0.0)  # its spawn came and was refused
            kind = self._registry.get(name)
            state = None
        context = TurnContext(mailbox.address, self._new_id, self._message_bytes_max)
        agent = kind.create(context)
        if state is None:
            state = kind.dump(agent)
        else:
            kind.load(agent, state)
        mailbox.kind, mailbox.context = kind, context
        context.begin(envelope, now_ns)
        if kind.has_activate:
            result: Any = agent.on_activate()
            if isawaitable(result):
                await result
        mailbox.agent, mailbox.state = agent, state
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

    def _fail(self, partition: Partition, mailbox: Mailbox, lane: int, item: Item, error: BaseException) -> Finished:
        """The effects of a turn that failed: a dead letter, and an error reply if it was asked."""
        if mailbox.context is not None:
            mailbox.context.take()
        if mailbox.agent is not None:
            try:
                mailbox.kind.load(mailbox.agent, mailbox.state)
            except Exception:
                # It stored what its class does not declare; each message will say so until the class is mended.
                log.exception("the state of %s can't be read back", mailbox.address)
                mailbox.agent = None
        if item.envelope.type == SPAWN and not mailbox.unsettled and mailbox.key not in partition.store:
            mailbox.agent = mailbox.state = None  # refused: there is no such agent
            mailbox.kind_name = ""
        return self._dead_letters.finished(partition, lane, item, error, mailbox)

    async def passivate(self, partition: Partition, mailbox: Mailbox) -> None:
        """Free the memory of an idle agent; its state is in the store. What arrives meanwhile activates it again."""
        if mailbox.agent is not None and mailbox.kind.has_passivate:
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
        mailbox.agent = None
        if mailbox.idle and not mailbox.closed:
            mailbox.closed = True
            partition.mailboxes.pop(mailbox.address, None)


def _in_time(address: str, deadline: int, now_ns: int) -> None:
    if deadline < now_ns:
        raise Expired(address, deadline)


def _uncancel() -> None:
    """The partition was lost and the handler ended: the runner itself goes on."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
