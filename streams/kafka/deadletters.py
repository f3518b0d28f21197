"""Reading the dead-letter topic, from any program: what lies there, what of it was sent again, and making room.

Everything is read as a stream, up to the ends that the partitions had at the start. Which letters were sent again
stands in a topic of marks beside it, `<app>.replayed`, partition by partition; `replay` writes it.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.errors import KafkaError

from rookery.schemas.address import parse
from rookery.schemas.deadletter import DeadLetter, decode_dead_letter
from rookery.schemas.envelope import decode, is_json
from rookery.schemas.errors import EnvelopeError, InvalidAddress, Undecodable, WrongTopic
from rookery.schemas.replay import NOT_A_LETTER, REPLAY_ID, replay_id
from rookery.streams.core.routing import Topics
from rookery.streams.kafka import security
from rookery.streams.kafka import topics as admin
from rookery.streams.kafka.reader import Readers, ReadFailed, stop_consumer

# Seconds without progress after which reading gives up.
PATIENCE = 20.0
# Records read first from the end of a partition when the newest letters are wanted; doubled up to the second.
TAIL_FIRST, TAIL_MAX = 200, 20_000
# Key of the record that comes before the marks of a chunk; a mark's key is the `replay_id` of its letter.
SENDING = b"sending"


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter, where it lies and since when (milliseconds since the epoch); `replayed`: it was sent again."""

    partition: int
    offset: int
    time_ms: int
    content: DeadLetter
    replayed: bool

    @property
    def place(self) -> str:
        """`partition/offset` in the dead-letter topic."""
        return f"{self.partition}/{self.offset}"

    @property
    def agent_type(self) -> str:
        """Class of the agent; empty for a spawned agent that was never found."""
        if self.content.agent_type:
            return self.content.agent_type
        try:
            return parse(self.content.target)[0] or ""
        except InvalidAddress:
            return ""

    @property
    def payload(self) -> bytes:
        """The message body as far as the record can be read, else the record as it was received."""
        content = self.content
        if is_json([(header.key, header.value) for header in content.headers]):
            return content.value
        try:
            return decode(content.value).payload
        except EnvelopeError:
            return content.value

    def as_dict(self) -> dict[str, Any]:
        """What `dlq list --json` prints; `docs/dead-letters.md` explains the fields."""
        content = self.content
        return {
            "letter": self.place,
            "time": iso(self.time_ms),
            "reason": content.reason,
            "error": content.error,
            "attempts": content.attempts,
            "agent": content.target,
            "agent_type": self.agent_type,
            "type": content.type,
            "sender": content.sender,
            "id": content.id,
            "topic": content.topic,
            "partition": content.partition,
            "offset": content.offset,
            "last_offset": content.last_offset or content.offset,
            "sent": iso(content.timestamp),
            "bytes": len(content.value),
            "replayed": self.replayed,
        }

    def as_full_dict(self) -> dict[str, Any]:
        """The same with the original record, in base64, and the traceback: what `dlq export` writes."""
        content = self.content
        return {
            **self.as_dict(),
            "traceback": content.traceback,
            "rookery_version": content.rookery_version,
            "app_id": content.app_id,
            "key": _base64(content.key),
            "value": _base64(content.value),
            "headers": [[header.key, _base64(header.value)] for header in content.headers],
        }


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters; all that is given must hold, empty means any. Times are milliseconds since the epoch.

    `agent` is an address or a glob such as `Order/*`; `places` are (partition, offset) in the dead-letter topic.
    """

    reasons: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    agent_types: frozenset[str] = frozenset()
    agent: str = ""
    id: str = ""
    since_ms: int | None = None
    until_ms: int | None = None
    replayed: bool | None = None
    places: frozenset[tuple[int, int]] = frozenset()

    def __contains__(self, letter: Letter) -> bool:
        content = letter.content
        return (
            (not self.reasons or content.reason in self.reasons)
            and (not self.types or content.type in self.types)
            and (not self.agent_types or letter.agent_type in self.agent_types)
            and (not self.agent or content.target == self.agent or fnmatchcase(content.target, self.agent))
            and (not self.id or content.id == self.id)
            and (self.since_ms is None or letter.time_ms >= self.since_ms)
            and (self.until_ms is None or letter.time_ms < self.until_ms)
            and (self.replayed is None or letter.replayed == self.replayed)
            and (not self.places or (letter.partition, letter.offset) in self.places)
        )

    @property
    def is_everything(self) -> bool:
        """Whether nothing is asked for."""
        return self == Selection()


class Sending(NamedTuple):
    """Letters that a replay was about to send, by id, and where the inbox partitions ended before."""

    ids: frozenset[bytes]
    ends: dict[tuple[str, int], int]

    def encode(self) -> bytes:
        """The value of its record: JSON."""
        ends = [[topic, partition, end] for (topic, partition), end in self.ends.items()]
        return json.dumps({"ids": sorted(one.decode() for one in self.ids), "ends": ends}).encode()

    @classmethod
    def decode(cls, value: bytes) -> Sending:
        """Read the value of its record."""
        fields = json.loads(value)
        return cls(
            frozenset(one.encode() for one in fields["ids"]),
            {(topic, number): end for topic, number, end in fields["ends"]},
        )


class Cut(NamedTuple):
    """What purging does to one partition: `delete` letters before offset `stop` go, `keep` selected ones can't, since
    the letter at `behind` before them was not selected."""

    partition: int
    stop: int
    delete: int
    keep: int
    behind: int | None


class DeadLetterBox:
    """The dead letters of one application; use as an async context manager. `client_kwargs` are aiokafka's."""

    def __init__(self, app_id: str, client_kwargs: Mapping[str, Any]) -> None:
        self.topics = Topics(app_id)
        self._client_kwargs = client_kwargs
        self._readers = Readers(client_kwargs, PATIENCE)
        self._lookup = AIOKafkaConsumer(**client_kwargs, group_id=None, request_timeout_ms=int(PATIENCE * 1000))
        self.bounds: dict[int, tuple[int, int]] = {}  # by partition: first and end offset when the box was opened
        self._mark_bounds: dict[int, tuple[int, int]] = {}
        self._marks: dict[int, set[bytes]] = {}
        self._unmarked: list[Sending] = []  # of the partition whose marks are kept

    async def __aenter__(self) -> Self:
        """Connect and look where the partitions end now; raises WrongTopic when there is no dead-letter topic."""
        try:
            async with security.explained(self._client_kwargs):
                await self._lookup.start()
            self._mark_bounds = await self._bounds(self.topics.replayed)
            self.bounds = await self._bounds(self.topics.deadletter)
        finally:
            if not self.bounds:
                await self.__aexit__()
        if not self.bounds:
            mend = "start a worker of the application, or `faust -A <app> topics create`"
            raise WrongTopic(self.topics.deadletter, "it does not exist", mend)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Disconnect."""
        await self._readers.close()
        await stop_consumer(self._lookup, PATIENCE)

    async def letters(self, wanted: Selection, partitions: Iterable[int] | None = None) -> AsyncGenerator[Letter]:
        """The selected letters, partition by partition, the oldest first. Raises ReadFailed."""
        for number in self.bounds if partitions is None else partitions:
            start, stop = await self._stretch(number, wanted)
            async with aclosing(self.scan(number, start, stop)) as all_letters:
                async for letter in all_letters:
                    if letter in wanted:
                        yield letter

    async def newest(self, wanted: Selection, limit: int) -> list[Letter]:
        """At most `limit` selected letters, the newest first; reads backwards, so that a long topic costs little."""
        found: list[Letter] = []
        for number in self.bounds:
            found += await self._tail(number, wanted, limit)
            found.sort(key=lambda letter: (letter.time_ms, letter.offset), reverse=True)
            del found[limit:]
        return found

    async def scan(self, number: int, start: int, stop: int) -> AsyncGenerator[Letter]:
        """All letters of a partition from `start` up to `stop`, also what is no letter."""
        marks = await self.marks(number)
        async with aclosing(self._readers.read(self.topics.deadletter, number, start, stop)) as batches:
            async for records in batches:
                for record in records:
                    content = _content(record)
                    replayed = replay_id(content).encode() in marks
                    yield Letter(number, record.offset, record.timestamp, content, replayed)
                await asyncio.sleep(0)

    async def marks(self, number: int) -> set[bytes]:
        """Ids under which letters of a partition were sent again; one partition's are kept, about 100 bytes each."""
        if number not in self._marks:
            self._marks.clear()
            marks: set[bytes] = set()
            unmarked: list[Sending] = []
            start, stop = self._mark_bounds.get(number, (0, 0))
            async for records in self._readers.read(self.topics.replayed, number, start, stop):
                for record in records:
                    if record.key == SENDING:
                        # Few: a replay starts a chunk when the one before is marked.
                        unmarked = [one for one in unmarked if not one.ids <= marks]
                        unmarked.append(Sending.decode(record.value))
                    elif record.key:
                        marks.add(record.key)
            self._unmarked = [one for one in unmarked if not one.ids <= marks]
            self._marks[number] = marks
        return self._marks[number]

    async def arrived(self, number: int) -> set[bytes]:
        """Ids of letters of a partition that are in the inboxes though their replay died before it could mark them."""
        marks = await self.marks(number)
        starts: dict[tuple[str, int], int] = {}
        for one in self._unmarked:
            for where, end in one.ends.items():
                starts[where] = min(end, starts.get(where, end))
        missing = {message_id for one in self._unmarked for message_id in one.ids} - marks
        ends = await self.ends(starts)
        found: set[bytes] = set()
        for (topic, partition), start in starts.items():
            async for records in self._readers.read(topic, partition, start, ends[topic, partition]):
                found |= {value for record in records for name, value in record.headers if name == REPLAY_ID}
                found &= missing
        return found

    async def ends(self, partitions: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """Where (topic, partition) end now. Raises KafkaError."""
        found = await self._lookup.end_offsets([TopicPartition(*partition) for partition in partitions])
        return {(tp.topic, tp.partition): end for tp, end in found.items()}

    # -- making room --------------------------------------------------------------------------------------------------

    async def cuts(self, wanted: Selection) -> list[Cut]:
        """What purging the selected letters would do: Kafka deletes only from the front of a partition."""
        cuts = []
        for number, (start, stop) in self.bounds.items():
            delete = keep = 0
            behind: int | None = None
            cut = start
            async for letter in self.scan(number, start, stop):
                if letter in wanted:
                    if behind is None:
                        delete, cut = delete + 1, letter.offset + 1
                    else:
                        keep += 1
                elif behind is None:
                    behind = letter.offset
            cuts.append(Cut(number, cut, delete, keep, behind if keep else None))
        return cuts

    async def delete(self, cuts: Iterable[Cut]) -> None:
        """Delete what `cuts` says, for ever."""
        stops = {
            TopicPartition(self.topics.deadletter, cut.partition): RecordsToDelete(cut.stop)
            for cut in cuts
            if cut.delete
        }
        if stops:
            async with admin.admin(self._client_kwargs) as client:
                await client.delete_records(stops, timeout_ms=int(PATIENCE * 1000))

    # -- inside -------------------------------------------------------------------------------------------------------

    async def _bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        """First and end offset of each partition now; nothing for a topic that does not exist."""
        try:
            # All metadata: asking for one topic by name may create it.
            cluster = await self._lookup._client.fetch_all_metadata()
            tps = [TopicPartition(topic, number) for number in sorted(cluster.partitions_for_topic(topic) or ())]
            if not tps:
                return {}
            starts, ends = await asyncio.gather(self._lookup.beginning_offsets(tps), self._lookup.end_offsets(tps))
        except KafkaError as error:
            raise ReadFailed(topic, 0, f"{type(error).__name__}: {error}") from error
        return {tp.partition: (starts[tp], ends[tp]) for tp in tps}

    async def _stretch(self, number: int, wanted: Selection) -> tuple[int, int]:
        """The offsets of a partition between which the selected letters lie."""
        start, stop = self.bounds[number]
        if wanted.places:
            offsets = [offset for partition, offset in wanted.places if partition == number]
            start, stop = max(start, min(offsets, default=stop)), min(stop, max(offsets, default=start) + 1)
        if wanted.since_ms is not None and start < stop:
            tp = TopicPartition(self.topics.deadletter, number)
            found = (await self._lookup.offsets_for_times({tp: max(wanted.since_ms, 0)}))[tp]
            start = max(start, stop if found is None else found.offset)
        return start, stop

    async def _tail(self, number: int, wanted: Selection, limit: int) -> list[Letter]:
        start, stop = await self._stretch(number, wanted)
        found: list[Letter] = []
        size = max(TAIL_FIRST, min(limit, TAIL_MAX))
        while start < stop and len(found) < limit:
            low = max(start, stop - size)
            part = [letter async for letter in self.scan(number, low, stop) if letter in wanted]
            found = (part + found)[-limit:]
            stop, size = low, min(2 * size, TAIL_MAX)
        return found


def iso(time_ms: int) -> str:
    """Milliseconds since the epoch as ISO 8601 in UTC."""
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return str(time_ms)  # a plain client may write any number


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _content(record: Any) -> DeadLetter:
    try:
        content = decode_dead_letter(record.value or b"")
        if content.reason:
            return content
        error = "it has no reason"
    except Undecodable as undecodable:
        error = str(undecodable)
    return DeadLetter(value=record.value or b"", key=record.key or b"", reason=NOT_A_LETTER, error=error)
