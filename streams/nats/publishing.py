"""Publishing what agents send: one ordered queue for each subject, so that none holds up another."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Any

from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord
from msgspec import Struct

from rookery.schemas.envelope import FRAME_BYTES_MAX, Received
from rookery.schemas.errors import Expired, MessageTooLarge, RookeryError
from rookery.streams.nats.connect import Link, nats
from rookery.streams.nats.errors import InvalidSubject, NatsRefused
from rookery.streams.nats.messages import headers_of

log = logging.getLogger(__name__)

# How long NATS may take to confirm messages; seconds.
CONFIRM_TIMEOUT = 5.0
AGAIN_FIRST, AGAIN_MAX = 0.1, 2.0  # seconds between tries
# Messages that a stream refuses this often are put aside, about 15 s; those that come after them at once, until it
# takes one. What is only not confirmed is tried for ever.
REFUSALS_MAX = 12
# Which stream takes a subject is asked again after this; seconds. So many subjects are remembered at most.
STREAMS_KEPT, SUBJECTS_MAX = 30.0, 10_000


class Message(Struct, eq=False):
    """A record of the topic, what it says, and for which subject it is."""

    tp: TopicPartition
    record: ConsumerRecord[Any, Any]
    envelope: Received
    subject: str


class Publisher:
    """See the head of this module. Messages of one subject leave in order; one that is tried again may come later than
    those that were sent beside it."""

    def __init__(
        self, link: Link, done: Callable[[Message], None], give_up: Callable[[Message, RookeryError], Awaitable[None]]
    ) -> None:
        """`done` hears of each message that NATS has, `give_up` of each that it can't get."""
        self._link, self._tell, self._give_up = link, done, give_up
        self._queues: dict[str, deque[Message]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._refusals: dict[str, int] = {}  # by subject; none for one whose last message was taken
        self._streams: dict[str, tuple[str | None, float]] = {}  # subject -> stream, when to ask again
        self._settled = asyncio.Event()
        self.queued = 0
        self.error: Exception | None = None  # what nobody expected
        self.counts = {"published": 0, "retries": 0}

    def put(self, message: Message) -> None:
        """Queue a message."""
        self.queued += 1
        queue = self._queues.setdefault(message.subject, deque())
        queue.append(message)
        if message.subject not in self._tasks:
            self._tasks[message.subject] = asyncio.create_task(self._publish(message.subject, queue))

    async def fewer_than(self, count: int) -> None:
        """Return when fewer messages than that are queued; raises what nobody expected."""
        while self.queued >= count and self.error is None:
            self._settled.clear()
            await self._settled.wait()
        if self.error is not None:
            raise self.error

    async def finish(self, timeout: float) -> None:
        """Wait for so many seconds until all is published, then leave the rest."""
        tasks = list(self._tasks.values())
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _publish(self, subject: str, queue: deque[Message]) -> None:
        again = AGAIN_FIRST
        try:
            while queue:
                await self._link.up()
                messages = list(islice(queue, 500))
                failed = await self._send(subject, messages)
                for _ in messages:
                    queue.popleft()
                queue.extendleft(reversed(failed))
                self.queued -= len(messages) - len(failed)
                self._settled.set()
                if failed:
                    self.counts["retries"] += 1
                    await asyncio.sleep(again)
                    again = min(again * 2, AGAIN_MAX)
                else:
                    again = AGAIN_FIRST
        except Exception as error:
            self.error = error
            self._settled.set()
        finally:
            del self._tasks[subject], self._queues[subject]

    async def _send(self, subject: str, messages: Sequence[Message]) -> list[Message]:
        """Publish messages; returns those that have to go again."""
        try:
            stream = await self._stream(subject)
            outcomes = await asyncio.gather(
                *(self._one(message, stream) for message in messages), return_exceptions=True
            )
            if stream is None:
                await self._link.nc.flush(timeout=CONFIRM_TIMEOUT)
        except (TimeoutError, nats.errors.Error, nats.js.errors.Error) as error:
            log.warning("NATS did not confirm messages to %s: %s", subject, str(error) or type(error).__name__)
            return list(messages)
        if self._link.was_refused(subject):
            why = NatsRefused(f"nats/{subject}", "not-authorized", "the server does not let the edge publish there")
            outcomes = [why] * len(messages)
        failed = []
        refused = next((outcome for outcome in outcomes if isinstance(outcome, NatsRefused)), None)
        given_up = refused is not None and self._refused(subject, refused)
        for message, outcome in zip(messages, outcomes, strict=True):
            if outcome is None:
                self._refusals.pop(subject, None)
                self.counts["published"] += 1
                self._tell(message)
            elif isinstance(outcome, NatsRefused) and not given_up:
                failed.append(message)
            elif isinstance(outcome, RookeryError):
                await self._give_up(message, outcome)
            elif isinstance(outcome, TimeoutError | nats.errors.Error | nats.js.errors.Error):
                failed.append(message)
            else:
                raise outcome
        if failed:
            self._streams.pop(subject, None)
            log.warning("%d messages to %s have to go again: %s", len(failed), subject, refused or "not confirmed")
        return failed

    def _refused(self, subject: str, why: NatsRefused) -> bool:
        """Count a refusal; whether it was one too many."""
        if len(self._refusals) >= SUBJECTS_MAX:
            self._refusals.clear()
        self._refusals[subject] = self._refusals.get(subject, 0) + 1
        return why.code == "not-authorized" or self._refusals[subject] >= REFUSALS_MAX

    async def _one(self, message: Message, stream: str | None) -> None:
        """Publish one message, confirmed by the stream that takes it, else by the flush that follows."""
        envelope = message.envelope
        if 0 < envelope.deadline < time.time_ns():
            raise Expired(envelope.target, envelope.deadline)
        room = self._link.nc.max_payload - FRAME_BYTES_MAX
        if len(envelope.payload) > room:
            raise MessageTooLarge(len(envelope.payload), room, envelope.target)
        headers = headers_of(envelope)
        try:
            if stream is None:
                await self._link.nc.publish(message.subject, envelope.payload, headers=headers)
            else:
                await self._link.js.publish(message.subject, envelope.payload, timeout=CONFIRM_TIMEOUT, headers=headers)
        except nats.js.errors.APIError as error:
            raise NatsRefused(envelope.target, "stream", error.description or str(error)) from error
        except (nats.errors.BadSubjectError, nats.errors.BadHeaderError) as error:
            raise InvalidSubject(message.subject, str(error) or type(error).__name__) from error

    async def _stream(self, subject: str) -> str | None:
        """The stream that takes a subject, None if there is none: then nobody but the server confirms."""
        stream, ask_again = self._streams.get(subject, (None, 0.0))
        if time.monotonic() < ask_again:
            return stream
        stream = await self._link.stream_of(subject)
        if len(self._streams) >= SUBJECTS_MAX:
            self._streams.clear()
        self._streams[subject] = stream, time.monotonic() + STREAMS_KEPT
        return stream
