"""Replay: dead letters are sent again to their agents, in order, at a bounded rate, and each of them once.

For each chunk of letters of one partition, in this order:
1. write down which letters will be sent, and where the inboxes end now;
2. send the messages; each id is a function of the letter (`schemas.replay`), order is kept per agent and priority;
3. wait until the broker has all of them;
4. write a mark for each letter, and wait for that.
After a crash between 1 and 4 the next replay looks for the messages in the inboxes from those ends on, marks what it
finds and sends the rest. Two replays at once send the same ids, which the inboxes' window of ids drops.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from rookery.ops.settings import Settings
from rookery.schemas.address import partition_of
from rookery.schemas.errors import RookeryError
from rookery.schemas.replay import NotReplayable, Replay, replay, replay_id
from rookery.streams.kafka import topics
from rookery.streams.kafka.deadletters import SENDING, DeadLetterBox, Letter, Selection, Sending

# Messages that may be sent and not marked yet; a fourth of a second at lower rates, so that progress is smooth.
CHUNK_MAX = 500
CHUNK_BYTES_MAX = 4 * 1024 * 1024
REQUEST_TIMEOUT_MS = 30_000


class ReplayFailed(RookeryError):
    """A replay stopped in the middle; run it again, what was sent is not doubled."""

    reason = "replay-failed"
    retriable = True

    def __init__(self, why: str, sent: int) -> None:
        self.why, self.sent = why, sent
        super().__init__(f"replay stopped after {sent} messages: {why}; run it again, what was sent is not doubled")


@dataclass(slots=True)
class Tally:
    """How far a replay has come: messages sent, letters skipped since they were sent before, and refused by why."""

    sent: int = 0
    skipped: int = 0
    refused: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class How:
    """How to send: at most `rate` messages a second and `limit` in all; passed deadlines become `extend` seconds from
    now; `raw` sends what could not be read as it is; `again` sends also what was sent before; `dry_run` sends nothing.
    """

    rate: float = 100.0
    limit: int | None = None
    extend: float | None = None
    raw: bool = False
    again: bool = False
    dry_run: bool = False


class Replayer:
    """Sends the selected letters of a box again."""

    def __init__(self, box: DeadLetterBox, settings: Settings, client_kwargs: Mapping[str, Any], how: How) -> None:
        self.tally = Tally()
        self._box = box
        self._settings = settings
        self._client_kwargs = client_kwargs
        self._how = how
        self._producer: AIOKafkaProducer | None = None
        self._chunk: list[tuple[Letter, Replay, str]] = []
        self._chunk_bytes = 0
        self._next_at = 0.0  # when the next chunk may go, monotonic seconds

    async def run(self, wanted: Selection, progress: Callable[[Tally], None]) -> Tally:
        """Send; `progress` hears of each chunk. Raises ReplayFailed, ReadFailed."""
        if self._how.dry_run:
            return await self._run(wanted, progress)
        async with topics.admin(self._client_kwargs) as admin:
            await topics.create(admin, [topics.replayed_spec(self._settings)])
        self._producer = AIOKafkaProducer(
            **self._client_kwargs,
            acks="all",
            enable_idempotence=True,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            max_request_size=self._settings.topic_bytes_max,
        )
        await self._producer.start()
        try:
            return await self._run(wanted, progress)
        finally:
            await self._producer.stop()

    async def _run(self, wanted: Selection, progress: Callable[[Tally], None]) -> Tally:
        chunk_max = min(CHUNK_MAX, max(1, int(self._how.rate / 4)))
        for number in self._box.bounds:
            # Letters about one record may lie there twice, always in one partition: once in a run, whatever is asked.
            in_run: set[bytes] = set()
            if not self._how.again:
                await self._explained(self._mark_arrived(number))
            async with aclosing(self._box.letters(wanted, [number])) as letters:
                async for letter in letters:
                    if self._is_full:
                        break
                    self._take(letter, in_run if self._how.again else await self._box.marks(number))
                    if len(self._chunk) >= chunk_max or self._chunk_bytes >= CHUNK_BYTES_MAX:
                        await self._send(progress)
            await self._send(progress)
        return self.tally

    @property
    def _is_full(self) -> bool:
        limit = self._how.limit
        return limit is not None and self.tally.sent + len(self._chunk) >= limit

    def _take(self, letter: Letter, done: set[bytes]) -> None:
        """Put a letter into the chunk, unless it was sent before or can't be sent."""
        how, first_id = self._how, replay_id(letter.content)
        if first_id.encode() in done:
            self.tally.skipped += 1
            return
        message_id = uuid.uuid4().hex if how.again else first_id
        try:
            made = self._message(letter, message_id)
        except NotReplayable as error:
            self.tally.refused[error.why] += 1
            return
        done.add(first_id.encode())
        self._chunk.append((letter, made, message_id))
        self._chunk_bytes += made.size

    def _message(self, letter: Letter, message_id: str) -> Replay:
        if letter.content.topic not in (*self._box.topics.inboxes, self._box.topics.nats):
            raise NotReplayable(f"came from {letter.content.topic or 'nowhere'}, which is no inbox here")
        made = replay(letter.content, message_id, time.time_ns(), extend=self._how.extend, raw=self._how.raw)
        if made.size > self._settings.topic_bytes_max:
            raise NotReplayable("is too large for its topic with the header `replay-of`")
        return made

    async def _send(self, progress: Callable[[Tally], None]) -> None:
        chunk, self._chunk, self._chunk_bytes = self._chunk, [], 0
        if not chunk:
            return
        if self._producer is not None:
            await asyncio.sleep(self._next_at - time.monotonic())
            self._next_at = max(self._next_at, time.monotonic()) + len(chunk) / self._how.rate
            await self._explained(self._deliver(self._producer, chunk))
        self.tally.sent += len(chunk)
        progress(self.tally)

    async def _explained(self, doing: Awaitable[None]) -> None:
        try:
            await doing
        except (KafkaError, TimeoutError) as error:
            raise ReplayFailed(f"{type(error).__name__}: {error}", self.tally.sent) from error

    async def _deliver(self, producer: AIOKafkaProducer, chunk: list[tuple[Letter, Replay, str]]) -> None:
        count = len(self._box.bounds)  # the same for inboxes and dead letters
        routed = [
            (
                letter.content.topic,
                letter.content.partition if made.target is None else partition_of(made.target, count),
                made,
            )
            for letter, made, _ in chunk
        ]
        if not self._how.again:
            ids = frozenset(replay_id(letter.content).encode() for letter, _, _ in chunk)
            sending = Sending(ids, await self._box.ends({(topic, partition) for topic, partition, _ in routed}))
            await self._mark(producer, chunk[0][0].partition, [(SENDING, sending.encode())])
        # Idempotent and in the order of `send`: one producer keeps the order of each partition.
        await _all_acked(
            [
                await producer.send(topic, made.value, made.key or None, partition=partition, headers=made.headers)
                for topic, partition, made in routed
            ]
        )
        marks = [
            (replay_id(letter.content).encode(), json.dumps({"letter": letter.place, "id": message_id}).encode())
            for letter, _, message_id in chunk
        ]
        await self._mark(producer, chunk[0][0].partition, marks)

    async def _mark(self, producer: AIOKafkaProducer, partition: int, marks: list[tuple[bytes, bytes]]) -> None:
        topic = self._box.topics.replayed
        await _all_acked([await producer.send(topic, value, key, partition=partition) for key, value in marks])

    async def _mark_arrived(self, number: int) -> None:
        """Finish what a replay that died left open."""
        found = await self._box.arrived(number)
        (await self._box.marks(number)).update(found)
        if self._producer is not None and found:
            await self._mark(self._producer, number, [(message_id, b"{}") for message_id in found])


async def _all_acked(sending: list[asyncio.Future[Any]]) -> None:
    for outcome in await asyncio.gather(*sending, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
