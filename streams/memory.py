"""An in-memory log: the same port as Kafka's, with the same rules of leases and fences, for tests without servers.

One `MemoryLog` plays the cluster; each worker gets a `MemoryWorker` of its own, which drives an engine from it.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from typing import NamedTuple

from rookery.schemas.partition_errors import LeaseLost
from rookery.streams.core.mailbox import LANES
from rookery.streams.core.routing import Topics
from rookery.streams.engine.engine import Engine
from rookery.streams.log import Append, Followed, JournalRecord, Lease, OutsideJournal

# Virtual seconds between a request and its answer; lets turns gather into batches as a broker's round trip does.
LATENCY_SECONDS = 0.001
# Records handed over at once, like a consumer's max.poll.records.
FETCH_RECORDS_MAX = 500
# Virtual seconds between looks at the journals that are followed.
FOLLOW_SECONDS = 0.05


class MemoryRecord(NamedTuple):
    """One stored record."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    timestamp: int


class MemoryLog:
    """Topics, journals and their fences."""

    def __init__(self, topics: Topics, partitions: int) -> None:
        self.topics = topics
        self.partitions = partitions
        self._records: defaultdict[tuple[str, int], list[MemoryRecord]] = defaultdict(list)
        self.journals: list[list[JournalRecord]] = [[] for _ in range(partitions)]
        self.epochs = [0] * partitions  # handed out by the coordinator
        self._fences = [0] * partitions  # the newest epoch that has appended
        self._watchers: list[asyncio.Event] = []
        self._starts: defaultdict[tuple[str, int], int] = defaultdict(int)
        self._made: defaultdict[str, int] = defaultdict(lambda: 1)  # how often a topic was made

    def start(self, topic: str, partition: int) -> int:
        """The first offset that is left."""
        return self._starts[topic, partition]

    def incarnation(self, topic: str) -> bytes:
        """Another one each time a topic is made."""
        return self._made[topic].to_bytes(16)

    def truncate(self, topic: str, partition: int, start: int) -> None:
        """Delete the records below `start`, as retention does."""
        self._starts[topic, partition] = start

    def recreate(self, topic: str) -> None:
        """Delete a topic and make it again, empty."""
        self._made[topic] += 1
        for partition in range(self.partitions):
            self._records.pop((topic, partition), None)
            self._starts.pop((topic, partition), None)

    def records(self, topic: str, partition: int) -> Sequence[MemoryRecord]:
        """All records of a topic partition, in order."""
        return self._records[topic, partition]

    def append(
        self,
        topic: str,
        partition: int,
        messages: Sequence[tuple[bytes | None, bytes]],
        headers: Sequence[tuple[str, bytes]] = (),
        timestamp: int = 0,
    ) -> None:
        """Store messages in order and wake whoever reads; `timestamp` is milliseconds since the Unix epoch."""
        log = self._records[topic, partition]
        for key, value in messages:
            log.append(MemoryRecord(len(log), key, value, headers, timestamp))
        for watcher in self._watchers:
            watcher.set()

    def append_journal(self, partition: int, epoch: int, records: Collection[Append], number: int | None) -> int | None:
        """Store a journal batch whole and return its first offset; None if a newer epoch has appended before."""
        if epoch < self._fences[partition]:
            return None
        self._fences[partition] = epoch
        journal = self.journals[partition]
        base = len(journal)
        journal.extend(JournalRecord(base + i, key, value, number) for i, (key, value) in enumerate(records))
        return base

    def watch(self, watcher: asyncio.Event) -> None:
        """Set `watcher` whenever something is appended to a topic."""
        self._watchers.append(watcher)

    def unwatch(self, watcher: asyncio.Event) -> None:
        """Forget a watcher."""
        self._watchers.remove(watcher)


class MemoryLease:
    """A lease of the in-memory log."""

    def __init__(self, log: MemoryLog, partition: int, epoch: int) -> None:
        self._log, self._partition, self._epoch = log, partition, epoch

    async def append(self, records: Collection[Append], number: int | None) -> int:
        """See `Lease.append`."""
        await asyncio.sleep(LATENCY_SECONDS)
        base = self._log.append_journal(self._partition, self._epoch, records, number)
        await asyncio.sleep(LATENCY_SECONDS)
        if base is None:
            raise LeaseLost(self._partition, "fenced by a newer lease")
        return base


class MemoryPort:
    """The `Log` of one worker, and where its fetching stands."""

    def __init__(self, log: MemoryLog) -> None:
        self.log = log
        self.positions: dict[tuple[int, int], int] = {}
        self.paused: set[tuple[int, int]] = set()
        self.changed = asyncio.Event()

    async def acquire(self, partition: int) -> Lease:
        """See `Log.acquire`."""
        await asyncio.sleep(LATENCY_SECONDS)
        self.log.epochs[partition] += 1
        return MemoryLease(self.log, partition, self.log.epochs[partition])

    async def journal_end(self, partition: int) -> int:
        """See `Log.journal_end`."""
        await asyncio.sleep(LATENCY_SECONDS)
        return len(self.log.journals[partition])

    async def journal_start(self, partition: int) -> int:
        """See `Log.journal_start`; nothing is ever deleted here."""
        await asyncio.sleep(LATENCY_SECONDS)
        return 0

    async def read_journal(self, partition: int, start: int, stop: int) -> AsyncIterator[Sequence[JournalRecord]]:
        """See `Log.read_journal`."""
        await asyncio.sleep(LATENCY_SECONDS)
        yield self.log.journals[partition][start:stop]

    async def follow_journals(self, offsets: Mapping[int, int]) -> AsyncGenerator[Followed]:
        """See `Log.follow_journals`."""
        positions = dict(offsets)
        told = dict.fromkeys(offsets, -1)
        while True:
            for number, position in positions.items():
                records = self.log.journals[number][position : position + FETCH_RECORDS_MAX]
                end = len(self.log.journals[number])
                if position > end:
                    raise OutsideJournal(number, position, 0)
                if records or told[number] != end:
                    positions[number], told[number] = position + len(records), end
                    yield Followed(number, records, positions[number], end)
            await asyncio.sleep(FOLLOW_SECONDS)

    async def inbox_bounds(self, partition: int) -> Sequence[tuple[int, int]]:
        """See `Log.inbox_bounds`."""
        await asyncio.sleep(LATENCY_SECONDS)
        log = self.log
        return [(log.start(topic, partition), len(log.records(topic, partition))) for topic in log.topics.inboxes]

    async def incarnations(self) -> Sequence[bytes]:
        """See `Log.incarnations`."""
        await asyncio.sleep(LATENCY_SECONDS)
        return [self.log.incarnation(topic) for topic in self.log.topics.inboxes]

    async def read_inbox(
        self, partition: int, lane: int, start: int, stop: int
    ) -> AsyncIterator[Sequence[MemoryRecord]]:
        """See `Log.read_inbox`."""
        await asyncio.sleep(LATENCY_SECONDS)
        topic = self.log.topics.inboxes[lane]
        yield self.log.records(topic, partition)[max(start, self.log.start(topic, partition)) : stop]

    async def ship(self, topic: str, partition: int, messages: Sequence[tuple[bytes | None, bytes]]) -> None:
        """See `Log.ship`."""
        await asyncio.sleep(LATENCY_SECONDS)
        self.log.append(topic, partition, messages)
        await asyncio.sleep(LATENCY_SECONDS)

    def seek(self, partition: int, lane: int, offset: int) -> None:
        """See `Log.seek`."""
        self.positions[partition, lane] = offset
        self.changed.set()

    def pause(self, partition: int, lane: int) -> None:
        """See `Log.pause`."""
        self.paused.add((partition, lane))

    def resume(self, partition: int, lane: int) -> None:
        """See `Log.resume`."""
        self.paused.discard((partition, lane))
        self.changed.set()

    async def confirm_assignment(self, partition: int) -> bool:
        """See `Log.confirm_assignment`."""
        await asyncio.sleep(LATENCY_SECONDS)
        return True


class MemoryWorker:
    """Drives one engine: fetches what its port allows."""

    def __init__(self, engine: Engine, port: MemoryPort) -> None:
        self.engine = engine
        self.port = port
        self._task: asyncio.Task[None] | None = None
        self._generation = 0

    async def start(self) -> None:
        """Start the engine and fetching."""
        await self.engine.start()
        self.port.log.watch(self.port.changed)
        self._task = asyncio.create_task(self._fetch(), name="memory-fetch")

    async def assign(self, partitions: set[int], standbys: set[int] | None = None) -> None:
        """Give this worker exactly these partitions, and copies of others."""
        self._generation += 1
        for partition, lane in list(self.port.positions):
            if partition not in partitions:
                del self.port.positions[partition, lane]
        await self.engine.assigned(partitions, self._generation, standbys or set())

    @property
    def is_quiet(self) -> bool:
        """Whether everything in the assigned inboxes is handled, committed and sent."""
        return self.engine.is_quiet and all(
            offset >= len(self._inbox(partition, lane)) for (partition, lane), offset in self.port.positions.items()
        )

    def _inbox(self, partition: int, lane: int) -> Sequence[MemoryRecord]:
        return self.port.log.records(self.port.log.topics.inboxes[lane], partition)

    def _bounds(self, partition: int, lane: int) -> tuple[int, int]:
        topic = self.port.log.topics.inboxes[lane]
        return self.port.log.start(topic, partition), len(self._inbox(partition, lane))

    async def _fetch(self) -> None:
        port = self.port
        while True:
            await port.changed.wait()
            port.changed.clear()
            await asyncio.sleep(LATENCY_SECONDS)
            for lane in reversed(range(LANES)):
                for partition in sorted({number for number, _ in port.positions}):
                    position = port.positions.get((partition, lane))
                    if position is None or (partition, lane) in port.paused:
                        continue
                    # Like aiokafka: a position that the log does not have any more becomes its start.
                    start, end = self._bounds(partition, lane)
                    if not start <= position <= end:
                        position = start
                    records = self._inbox(partition, lane)[position : position + FETCH_RECORDS_MAX]
                    if records:
                        port.positions[partition, lane] = position + len(records)
                        self.engine.fetched(partition, lane, records)
                        port.changed.set()

    async def stop(self) -> None:
        """Stop at once, like a crash that tidies up its tasks."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.port.log.unwatch(self.port.changed)
        await self.engine.stop()
