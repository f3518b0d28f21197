"""One worker of the simulation: an engine on a port of its own, in a process that dies and freezes and comes back."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rookery.schemas.partition_errors import LeaseLost
from rookery.streams.core.mailbox import LANES
from rookery.streams.core.store import in_memory
from rookery.streams.engine.engine import Engine
from rookery.streams.memory import MemoryRecord
from rookery.testing import EPOCH_NS
from tests.simulation.broker import SimulatedPort
from tests.simulation.faults import Fault
from tests.simulation.process import Gate

if TYPE_CHECKING:
    from tests.simulation.world import World


class News(NamedTuple):
    """What the group says: which partitions are a worker's own, and of which it keeps copies."""

    generation: int
    partitions: set[int]
    copies: set[int]


class WatchedEngine(Engine):
    """The engine as it is; says which batches it took for committed."""

    worker: Worker

    def committed_batch(self, ownership: Any, turns: int) -> None:
        partition = ownership.partition
        self.worker.accepted(partition.number, partition.lease_number, partition.last)
        super().committed_batch(ownership, turns)


class Worker:
    """One incarnation: it ends with the process. See `broker.Here` for what its port asks of it."""

    def __init__(self, world: World, number: int, incarnation: int) -> None:
        self.world = world
        self.worker = number
        self.gate = Gate(f"w{number}.{incarnation}")
        self.broker, self.faults, self.network = world.broker, world.faults, world.network
        self.cut_until = 0.0
        self.view = News(-1, set(), set())  # as this worker knows it
        self.engine: WatchedEngine | None = None
        self.port = SimulatedPort(self)
        self._news = self.view
        self._told = asyncio.Event()
        self._late: set[asyncio.Task[None]] = set()
        self._held: dict[tuple[int, int], int] = {}  # lanes whose last batch is held up: after which seek it came

    # -- what the port asks -------------------------------------------------------------------------------------------

    def note(self, *what: object) -> None:
        self.world.note(self.gate.name, self.gate.step_count, *what)

    def strike(self, fault: Fault, partition: int) -> None:
        self.world.strike(fault, self, partition)

    def confirmed(self, partition: int) -> bool:
        return self.view.generation == self.world.generation and partition in self.view.partitions

    def accepted(self, partition: int, lease: int, last: int) -> None:
        if not self.gate.dead:
            self.world.accepted.append((self.gate.name, partition, lease, last))

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.note("start")
        self.broker.watch(self.port.changed)
        self.gate.start(self._main())

    def tell(self, news: News) -> None:
        """The group's word arrives; what is older than the last word is void."""
        if news.generation > self._news.generation:
            self._news = news
            self._told.set()

    async def _main(self) -> None:
        ids = itertools.count()
        engine = self.engine = WatchedEngine(
            self.world.settings,
            self.world.registry,
            self.port,
            worker=self.gate.name,
            now_ns=lambda: EPOCH_NS + int(asyncio.get_running_loop().time() * 1e9),
            new_id=lambda: f"{self.gate.name}-{next(ids)}",
            chance=random.Random(self.gate.name).random,
            open_store=self.broker.disks[self.worker].open if self.broker.disks else in_memory,
        )
        engine.worker = self
        await engine.start()
        fetching, hearing = asyncio.create_task(self._fetch()), asyncio.create_task(self._hear())
        await asyncio.wait([engine.failed, fetching, hearing], return_when=asyncio.FIRST_COMPLETED)
        # The driver ends the process then, and something starts another. Leases may be lost often in a storm.
        for task in (engine.failed, fetching, hearing):
            error = task.exception() if task.done() else None
            if error is not None and not isinstance(error, LeaseLost):
                self.world.defects.append(f"{self.gate.name}: {error!r}")
        self.world.crashed(self)

    async def _hear(self) -> None:
        """Follow the group, like Faust's recovery service: one rebalance after the other."""
        assert self.engine is not None
        while True:
            await self._told.wait()
            self._told.clear()
            generation, partitions, copies = self.view = self._news
            self.note("assigned", generation, *sorted(partitions))
            for partition, lane in list(self.port.positions):
                if partition not in partitions:
                    del self.port.positions[partition, lane]
            self.engine.revoking()
            if not self.gate.dead:
                self.world.promoted_count += len(partitions & self.engine.standbys.statistics().keys())
            await self.engine.assigned(set(partitions), generation, copies)

    async def _fetch(self) -> None:
        port, numbers = self.port, range(self.world.settings.partitions)
        while True:
            await port.changed.wait()
            port.changed.clear()
            await asyncio.sleep(0.001 + 0.004 * self.network.random())
            for lane in reversed(range(LANES)):
                for partition in numbers:
                    sought = port.sought.get((partition, lane), 0)
                    if self._held.get((partition, lane)) == sought:
                        continue  # a driver keeps the order
                    records, seconds = port.fetch(partition, lane)
                    if records and seconds:
                        self._held[partition, lane] = sought
                        late = asyncio.create_task(self._deliver_late(seconds, sought, partition, lane, records))
                        self._late.add(late)
                        late.add_done_callback(self._late.discard)
                    elif records:
                        self._deliver(partition, lane, records)

    async def _deliver_late(
        self, seconds: float, sought: int, partition: int, lane: int, records: Sequence[MemoryRecord]
    ) -> None:
        """A batch that is held up. A driver drops what it fetched before a seek, as the port's contract says."""
        await asyncio.sleep(seconds)
        if self.port.sought[partition, lane] == sought:
            del self._held[partition, lane]
            self._deliver(partition, lane, records)
            self.port.changed.set()

    def _deliver(self, partition: int, lane: int, records: Sequence[MemoryRecord]) -> None:
        assert self.engine is not None
        self.note("fetched", partition, lane, records[0].offset, len(records))
        self.engine.fetched(partition, lane, records)

    # -- questions ----------------------------------------------------------------------------------------------------

    def why_busy(self, partition: int) -> str:
        """What keeps an assigned partition from being at rest; empty if nothing does."""
        if self.gate.dead or self.gate.frozen or self.engine is None:
            return f"{self.gate.name} does not run"
        if partition not in self.view.partitions:
            return f"{self.gate.name} has not heard of it"
        for lane, topic in enumerate(self.broker.topics.inboxes):
            end, committed = len(self.broker.records(topic, partition)), self.engine.committed(partition, lane)
            if committed != end:
                return f"{self.gate.name} has done {committed} of {end} in lane {lane}"
        if not self.engine.is_quiet:
            return f"{self.gate.name} is not quiet: {self.engine.statistics()['partitions'][partition]}"
        return ""


def copies_at(engine: Engine, partition: int) -> Iterator[int]:
    """Where the stores of a partition stand that an engine follows its journal with, or is about to recover from."""
    if (fold := engine.standbys._folds.get(partition)) is not None:
        yield fold.offset
    if (ownership := engine._owned.get(partition)) is not None:
        if ownership._copy is not None:
            yield ownership._copy.mark.offset
        if ownership._fold is not None:
            yield ownership._fold.offset
