"""The steps of one running turn, between the agent (agents.steps.StepLog) and the journal.

A step is committed by a note in the partition's queue of finished turns, so it keeps its place among them: what the
agent did before is in the journal no later. The reply to an ask is found by the ledger, not by the running turn, since
it may be fetched before its turn runs again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from rookery.agents.effects import Outgoing
from rookery.agents.errors import OutsideTurn
from rookery.agents.steps import answered
from rookery.schemas.cells import Place, Step, StepState, encode_cell, step_key
from rookery.schemas.errors import BatchTooLarge
from rookery.schemas.system import ERROR_HEADER
from rookery.streams.core.batch import Finished
from rookery.streams.core.ledger import steps_max
from rookery.streams.core.mailbox import Item, Mailbox
from rookery.streams.core.partition import Partition
from rookery.streams.core.routing import Router
from rookery.streams.engine.pool import Pool


class Host(NamedTuple):
    """What the steps of all turns share; `ask_timeout` is seconds."""

    router: Router
    pool: Pool
    now_ns: Callable[[], int]
    commit_soon: Callable[[], None]
    ask_timeout: float


class TurnSteps:
    """See the head of this module; made at the first step of a turn."""

    def __init__(self, host: Host, partition: Partition, mailbox: Mailbox, lane: int, item: Item) -> None:
        self._host = host
        self._partition = partition
        self._mailbox = mailbox
        self._item = item
        self._place = Place(lane, item.offset)
        self._ledger = partition.ledgers.open(mailbox)
        self._next = 0
        self._closed = False
        self._waiting = 0  # steps and asks that are under way
        self._asking = 0  # those that wait for a reply
        self._only_asks = False
        self._signals: set[_Signal] = set()
        self._branches: set[asyncio.Task[Any] | None] = set()  # of a gather; the turn's own is cancelled with it

    def close(self) -> None:
        """The turn is over, however it ended: steps that still run in tasks of their own are cancelled."""
        self._closed = True
        self._ledger.answers.clear()
        for signal in self._signals:
            signal.future.cancel()
        for task in self._branches:
            if task is not None:
                task.cancel()

    @property
    def _is_over(self) -> bool:
        # A handler that tidies up in a `finally` may outlive its partition: nobody would ever commit what it does.
        return self._closed or self._mailbox.closed

    @property
    def ask_timeout(self) -> float:
        """See StepLog."""
        return self._host.ask_timeout

    def now_ns(self) -> int:
        """See StepLog."""
        return self._host.now_ns()

    def key(self, index: int) -> str:
        """See StepLog."""
        here = f"{self._partition.number}/{self._place.lane}/{self._place.offset}"
        return f"{self._item.envelope.id or here}/{self._mailbox.address}/{index}"

    def begin(self) -> tuple[int, Step | None]:
        """See StepLog."""
        most = steps_max(len(self._mailbox.key))
        if self._is_over or self._next >= most:
            raise OutsideTurn(self._mailbox.address, f"step {self._next} ({most} are allowed)")
        index = self._next
        self._next += 1
        return index, self._ledger.steps.get(index)

    async def record(self, index: int, step: Step, request: Outgoing | None = None) -> None:
        """See StepLog."""
        if self._is_over:
            raise OutsideTurn(self._mailbox.address, f"the end of step {step.name!r}")
        committed = _Signal()
        place, mailbox = self._place, self._mailbox
        sent = () if request is None else (self._host.router.sent(request),)
        note = Finished(
            mailbox,
            place.lane,
            place.offset,
            None,
            sent,
            cells={step_key(mailbox.address, place, index): encode_cell(step)},
            ends=False,
            acked=committed.give,
        )
        if not self._partition.fits(note):
            raise BatchTooLarge(note.size, self._partition.limits.batch_bytes_max, mailbox.address)
        self._ledger.place = place
        self._ledger.note(index, step)
        self._partition.finish(note)
        self._host.commit_soon()
        await self._wait(committed)

    async def reply(self, index: int) -> Step:
        """See StepLog."""
        self._asking += 1
        try:
            while self._ledger.steps[index].state is StepState.PENDING:
                answer = _Signal()
                self._ledger.answers[index] = answer.give
                self._tell_pool()
                await self._wait(answer)
        finally:
            self._asking -= 1
            self._tell_pool()
        return self._ledger.steps[index]

    async def expire(self, index: int, step: Step) -> Step:
        """See StepLog."""
        if self._ledger.asks.pop(step.request_id, None) is None:
            return await self.reply(index)  # it is on its way into the journal
        await self.record(index, step)
        return step

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """See StepLog; steps that run side by side give one slot back together."""
        pool, task = self._host.pool, asyncio.current_task()
        if task is not None and task is not self._mailbox.runner:
            self._branches.add(task)
        self._waiting += 1
        self._tell_pool()
        if self._waiting == 1:
            pool.give_back()
        try:
            try:
                yield
            except BaseException:
                self._waiting -= 1
                self._tell_pool()
                if not self._waiting:
                    pool.forget()
                raise
            self._waiting -= 1
            self._tell_pool()
            if not self._waiting:
                await pool.take_back()
        finally:
            self._branches.discard(task)  # only now: the turn may end before its branch has a slot again

    def _tell_pool(self) -> None:
        """Whether this turn waits for other agents only: it can't end by itself, and a stop need not wait for it."""
        only_asks = 0 < self._asking == self._waiting
        self._host.pool.asking_count += only_asks - self._only_asks
        self._only_asks = only_asks

    async def _wait(self, signal: _Signal) -> None:
        self._signals.add(signal)
        try:
            await signal.future
        finally:
            self._signals.discard(signal)


class _Signal:
    """Something that one task waits for."""

    def __init__(self) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def give(self) -> None:
        """It has happened; whoever waited may be gone."""
        if not self.future.done():
            self.future.set_result(None)


def take_reply(partition: Partition, mailbox: Mailbox, lane: int, item: Item) -> bool:
    """Give an ask its reply, if a step waits for this one; the message is done with the commit of the step."""
    ledger, envelope = mailbox.ledger, item.envelope
    if ledger is None or (place := ledger.place) is None:
        return False
    number = ledger.asks.pop(envelope.causation_id, None)
    if number is None:
        return False
    error = envelope.headers.get(ERROR_HEADER)
    step = answered(ledger.steps[number], error, envelope.content_type, envelope.payload)

    def acked() -> None:
        if ledger.place == place:
            ledger.steps[number] = step
            if (wake := ledger.answers.pop(number, None)) is not None:
                wake()

    cells = {step_key(mailbox.address, place, number): encode_cell(step)}
    partition.finish(Finished(mailbox, lane, item.offset, None, (), cells=cells, acked=acked))
    return True
