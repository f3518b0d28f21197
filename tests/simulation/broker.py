"""The cluster of the simulation: the in-memory log behind a network, with compaction, and brokers that forget."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

from rookery.schemas.partition_errors import LeaseLost
from rookery.streams.core.routing import Topics
from rookery.streams.log import Append, Followed, JournalRecord, Lease, ShipFailed
from rookery.streams.memory import MemoryLog, MemoryPort, MemoryRecord
from tests.simulation.disk import Disk
from tests.simulation.faults import Fault, Plan
from tests.simulation.process import Gate

T = TypeVar("T")

# A worker gives a request up after this, virtual seconds.
REQUEST_TIMEOUT = 0.8
# Records that a follower of journals gets at once.
FOLLOWED_MAX = 50


class Batch(NamedTuple):
    """One journal batch as it was stored: nothing is ever taken out of this list."""

    base: int
    lease: int  # its number: the offset of its claim
    records: Collection[Append]


class Broker(MemoryLog):
    """Journals with everything that was ever stored in them beside what compaction left."""

    fencing: ClassVar[bool] = True  # a mutation switches it off

    def __init__(self, topics: Topics, partitions: int, copies_at: Callable[[int], Iterable[int]]) -> None:
        """`copies_at(partition)` is where stores in the memory of live workers stand."""
        super().__init__(topics, partitions)
        self._copies_at = copies_at
        self.followers: list[asyncio.Event] = []  # set when a journal has grown
        self.batches: list[list[Batch]] = [[] for _ in range(partitions)]
        self.ends = [0] * partitions
        self.readers: list[list[Gate]] = [[] for _ in range(partitions)]  # recoveries that read the journal now
        self.disks: list[Disk] = []  # whose stores go on where they stand
        self.refused_count = 0

    def append_journal(self, partition: int, epoch: int, records: Collection[Append], number: int | None) -> int | None:
        """See `MemoryLog.append_journal`."""
        if self.is_stale(partition, epoch) and self.fencing:
            self.refused_count += 1
            return None
        self._fences[partition] = epoch
        base = self.ends[partition]
        self.ends[partition] += len(records)
        self.journals[partition] += [
            JournalRecord(base + i, key, value, number) for i, (key, value) in enumerate(records)
        ]
        self.batches[partition].append(Batch(base, base if number is None else number, records))
        for follower in self.followers:
            follower.set()
        return base

    def read_journal(self, partition: int, start: int, stop: int, most: int) -> Sequence[JournalRecord]:
        """The first `most` records in [start, stop) that compaction left."""
        return [record for record in self.journals[partition] if start <= record.offset < stop][:most]

    def is_stale(self, partition: int, epoch: int) -> bool:
        """Whether a newer epoch has appended, as far as the broker knows."""
        return epoch < self._fences[partition]

    def forget(self, partition: int) -> None:
        """The broker lost what it knew of producers: the next append is accepted, however old its lease."""
        self._fences[partition] = 0

    def compact(self, partition: int, bound: int, *, days_later: bool = False) -> None:
        """Remove every record below `bound` that a compactor may remove.

        It keeps the last of each key below the bound, and tombstones for delete.retention: while somebody reads, and
        for stores that have not seen them (older ones are wiped). A stray write of a stale lease is younger than
        min.compaction.lag until it is repaired, but not for days.
        """
        if not days_later:
            bound = min([bound, *self._unrepaired(partition)])
        journal, reading = self.journals[partition], any(not gate.dead for gate in self.readers[partition])
        marks = [disk.images[partition].mark.offset for disk in self.disks if partition in disk.images]
        unseen = min([*marks, *self._copies_at(partition)], default=self.ends[partition])
        last = {record.key: record.offset for record in journal if record.offset < bound}
        self.journals[partition] = [
            record
            for record in journal
            if record.offset >= bound
            or (last[record.key] == record.offset and (record.value is not None or reading or record.offset >= unseen))
        ]

    def _unrepaired(self, partition: int) -> Sequence[int]:
        """The first offsets at which a stale lease wrote keys that have not been written since."""
        highest, stray = -1, dict[bytes, int]()
        for batch in self.batches[partition]:
            stale = batch.lease < highest
            highest = max(highest, batch.lease)
            for offset, (key, _) in enumerate(batch.records, batch.base):
                if stale:
                    stray.setdefault(key, offset)
                else:
                    stray.pop(key, None)
        return list(stray.values())


class Here(Protocol):
    """What a port needs to know of its worker and the world around it."""

    gate: Gate
    broker: Broker
    faults: Plan
    network: random.Random
    worker: int
    cut_until: float

    def strike(self, fault: Fault, partition: int) -> None:
        """Make a fault of the whole worker or cluster happen now; of that partition, if it concerns one."""

    def confirmed(self, partition: int) -> bool:
        """Whether the group knows the same owner of the partition as this worker."""

    def note(self, *what: object) -> None:
        """Add to the trace."""


class RequestFailed(Exception):
    """A request that was not answered in time, or refused."""


class SimulatedPort(MemoryPort):
    """The log as one worker process reaches it: each request takes a way there and a way back."""

    def __init__(self, here: Here) -> None:
        super().__init__(here.broker)
        self.here = here
        self.broker = here.broker
        self._jumps: set[tuple[int, int, int]] = set()
        self.sought: dict[tuple[int, int], int] = {}  # how often, by partition and lane

    async def request(self, on: str, land: Callable[[], T], *what: object) -> T:
        """Have `land` happen at the broker and return its answer, unless a fault comes between.

        It lands whatever becomes of the sender. Raises RequestFailed.
        """
        here, loop = self.here, asyncio.get_running_loop()
        self.moment(on, "asked")
        if here.gate.frozen or here.gate.dead:
            await asyncio.sleep(0)
        answer: asyncio.Future[tuple[Any, str]] = loop.create_future()
        fault = here.faults.take(on, "", here.worker, loop.time())
        kind = "" if fault is None else fault.kind
        if fault is not None:
            here.note(kind, on, *what)
        if on == "ship" and loop.time() < here.cut_until:
            kind = "lose"

        def settle(result: Any, error: str) -> None:
            if not answer.done():
                answer.set_result((result, error))

        def answered(result: Any) -> None:
            self.moment(on, "answered")
            settle(result, "")

        def landed() -> None:
            self.moment(on, "landed")
            result = land()
            here.note(on, "landed", *what, result if isinstance(result, int) else None)
            if kind != "deafen":
                loop.call_later(self._way(), answered, result)

        if kind == "refuse":
            loop.call_later(self._way(), settle, None, "refused as too large")
        elif kind != "lose":
            late = fault.seconds if fault is not None and kind == "late" else 0.0
            loop.call_later(self._way() + late, landed)
        timer = loop.call_later(REQUEST_TIMEOUT, settle, None, "no answer in time")
        result, error = await answer
        timer.cancel()
        if error:
            raise RequestFailed(f"{on}: {error}")
        answer_of: T = result
        return answer_of

    def _way(self) -> float:
        """Seconds that a message is under way: mostly quick."""
        network = self.here.network
        return 0.0002 + (0.001 if network.random() < 0.9 else 0.02) * network.random()

    def moment(self, on: str, moment: str, partition: int = -1) -> None:
        """Let a fault strike that waits for this."""
        here = self.here
        if here.gate.dead and moment != "stale":  # what it had sent before may still be stale
            return
        if fault := here.faults.take(on, moment, here.worker, asyncio.get_running_loop().time()):
            here.strike(fault, partition)

    # -- the port -----------------------------------------------------------------------------------------------------

    async def acquire(self, partition: int) -> Lease:
        def land() -> int:
            self.broker.epochs[partition] += 1
            return self.broker.epochs[partition]

        return SimulatedLease(self, partition, await self.request("acquire", land, partition))

    async def journal_end(self, partition: int) -> int:
        return await self.request("end", lambda: self.broker.ends[partition], partition)

    async def journal_start(self, partition: int) -> int:
        return await self.request("end", lambda: 0, partition)

    async def incarnations(self) -> Sequence[bytes]:
        return await self.request("bounds", lambda: [self.broker.incarnation(t) for t in self.broker.topics.inboxes])

    async def read_journal(self, partition: int, start: int, stop: int) -> AsyncIterator[Sequence[JournalRecord]]:
        broker, size = self.broker, self.here.network.choice([7, 50, 10_000])
        broker.readers[partition].append(self.here.gate)
        try:
            while start < stop:
                records = await self.request(
                    "read", partial(broker.read_journal, partition, start, stop, size), partition
                )
                yield records
                start = records[-1].offset + 1 if len(records) == size else stop
        finally:
            broker.readers[partition].remove(self.here.gate)

    async def follow_journals(self, offsets: Mapping[int, int]) -> AsyncGenerator[Followed]:
        broker, network, grown = self.broker, self.here.network, asyncio.Event()
        positions, told = dict(offsets), dict.fromkeys(offsets, -1)

        def land(number: int) -> tuple[Sequence[JournalRecord], int]:
            end = broker.ends[number]
            return broker.read_journal(number, positions[number], end, FOLLOWED_MAX), end

        broker.followers.append(grown)
        try:
            while True:
                grown.clear()
                for number, position in list(positions.items()):
                    if position == broker.ends[number] == told[number]:
                        continue
                    records, end = await self.request("read", partial(land, number), number)
                    reached = records[-1].offset + 1 if len(records) == FOLLOWED_MAX else end
                    positions[number], told[number] = reached, end
                    if reached < end:
                        grown.set()
                    yield Followed(number, records, reached, end)
                await grown.wait()
                await asyncio.sleep(network.choice([0.01, 0.1, 0.5]) * network.random())
        finally:
            broker.followers.remove(grown)

    async def inbox_bounds(self, partition: int) -> Sequence[tuple[int, int]]:
        topics, records = self.broker.topics.inboxes, self.broker.records
        return await self.request(
            "bounds",
            lambda: [(self.broker.start(topic, partition), len(records(topic, partition))) for topic in topics],
            partition,
        )

    async def read_inbox(
        self, partition: int, lane: int, start: int, stop: int
    ) -> AsyncIterator[Sequence[MemoryRecord]]:
        topic, broker = self.broker.topics.inboxes[lane], self.broker
        if start < stop:
            yield await self.request(
                "window",
                lambda: broker.records(topic, partition)[max(start, broker.start(topic, partition)) : stop],
                partition,
            )

    async def ship(self, topic: str, partition: int, messages: Sequence[tuple[bytes | None, bytes]]) -> None:
        try:
            await self.request(
                "ship", lambda: self.broker.append(topic, partition, messages), topic, partition, len(messages)
            )
        except RequestFailed as error:
            raise ShipFailed(str(error)) from None

    def seek(self, partition: int, lane: int, offset: int) -> None:
        self.sought[partition, lane] = self.sought.get((partition, lane), 0) + 1
        super().seek(partition, lane, offset)

    async def confirm_assignment(self, partition: int) -> bool:
        try:
            return await self.request("confirm", lambda: self.here.confirmed(partition), partition)
        except RequestFailed:
            return False

    # -- fetching, which the driver of an engine does -----------------------------------------------------------------

    def fetch(self, partition: int, lane: int) -> tuple[Sequence[MemoryRecord], float]:
        """The next records of an inbox partition, and how long they are held up on their way; none if it is paused."""
        position = self.positions.get((partition, lane))
        if position is None or (partition, lane) in self.paused:
            return (), 0.0
        topic = self.broker.topics.inboxes[lane]
        log, start = self.broker.records(topic, partition), self.broker.start(topic, partition)
        # Like aiokafka: a position that the log does not have any more becomes its start.
        position = max(position, start)
        if position >= len(log):
            return (), 0.0
        here = self.here
        fault = here.faults.take("fetch", "", here.worker, asyncio.get_running_loop().time())
        if fault is not None and fault.kind == "repeat":
            position = here.network.randint(start, position)
        elif fault is not None and fault.kind == "jump":
            # The same gap twice would be a hole in the log, by the port's contract; so none ends where another did.
            target = here.network.randint(position, len(log) - 1)
            position = position if (partition, lane, target) in self._jumps else target
            self._jumps.add((partition, lane, target))
        records = log[position : position + here.network.choice([1, 3, 10, 500])]
        self.positions[partition, lane] = position + len(records)
        self.changed.set()
        return records, fault.seconds if fault is not None and fault.kind == "hold" else 0.0


class SimulatedLease:
    """A lease on the other side of the network."""

    def __init__(self, port: SimulatedPort, partition: int, epoch: int) -> None:
        self._port, self._partition, self._epoch = port, partition, epoch

    async def append(self, records: Collection[Append], number: int | None) -> int:
        partition, port = self._partition, self._port

        def land() -> int | None:
            if port.broker.is_stale(partition, self._epoch):
                port.moment("append", "stale", partition)
            return port.broker.append_journal(partition, self._epoch, records, number)

        try:
            base = await port.request(
                "claim" if number is None else "append", land, partition, self._epoch, len(records)
            )
        except RequestFailed as error:
            raise LeaseLost(partition, str(error)) from None
        if base is None:
            raise LeaseLost(partition, "fenced by a newer lease")
        return base
