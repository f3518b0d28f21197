"""Workers on one in-memory log, a group that assigns partitions (and may fail to tell), and faults as values."""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Self

from rookery.agents import Agent
from rookery.agents.types import Registry
from rookery.ops.settings import Settings
from rookery.schemas import payload
from rookery.schemas.address import partition_of
from rookery.schemas.deadletter import DeadLetter, decode_dead_letter
from rookery.schemas.envelope import Priority, encode_body, seal
from rookery.schemas.ids import id_source
from rookery.streams.core.routing import Topics
from rookery.streams.core.store import OpenStore, in_memory
from rookery.streams.engine.engine import Engine
from rookery.streams.log import JournalRecord, ShipFailed
from rookery.streams.memory import LATENCY_SECONDS, MemoryLog, MemoryPort, MemoryWorker
from rookery.testing import run

NOW_NS = 1_000_000_000_000_000_000
_ids = itertools.count()


def virtual(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test on virtual time."""

    @functools.wraps(test)
    def sync(*args: Any, **kwargs: Any) -> None:
        async def main() -> None:
            async with asyncio.timeout(10 * 86_400):
                await test(*args, **kwargs)

        run(main())

    return sync


def post(
    log: MemoryLog,
    target: str,
    message: Any,
    *,
    priority: Priority = Priority.NORMAL,
    id: str | None = None,  # noqa: A002 - the name of the field
    deadline: int = 0,
    reply_to: str = "",
    timestamp: int = 0,
) -> bytes:
    """What a client does: append a sealed envelope to the target's inbox; returns its bytes."""
    kind, content_type, data = payload.encode(message)
    message_id = f"post-{next(_ids)}" if id is None else id
    body = encode_body(
        "client:post",
        target,
        data,
        NOW_NS,
        priority,
        message_id,
        kind,
        content_type,
        reply_to=reply_to,
        deadline=deadline,
    )
    value = seal(body)
    partition = partition_of(target, log.partitions)
    log.append(log.topics.inboxes[priority], partition, [(target.encode(), value)], timestamp=timestamp)
    return value


class FaultyPort(MemoryPort):
    """A port whose sends fail as often as told, and which asks the group what it owns."""

    def __init__(self, log: MemoryLog) -> None:
        super().__init__(log)
        self.owned: set[int] = set()  # as the group sees it, whatever the worker believes
        self.lost_sends = 0  # so many sends are to fail before anything is stored
        self.lost_answers = 0  # so many are to be stored, and to fail all the same
        self.cut_off = False  # nothing this worker sends arrives, until the end of the cut
        self.fired: Counter[str] = Counter()

    async def confirm_assignment(self, partition: int) -> bool:
        """See `Log.confirm_assignment`."""
        await asyncio.sleep(LATENCY_SECONDS)
        return partition in self.owned

    async def ship(self, topic: str, partition: int, messages: Sequence[tuple[bytes | None, bytes]]) -> None:
        """See `Log.ship`."""
        if self.cut_off or self.lost_sends:
            self.lost_sends -= not self.cut_off
            self.fired["lost_sends"] += 1
            raise ShipFailed("the request got lost")
        await super().ship(topic, partition, messages)
        if self.lost_answers:
            self.lost_answers -= 1
            self.fired["lost_answers"] += 1
            raise ShipFailed("the answer got lost")


class CountingPort(FaultyPort):
    """Counts the records that recovery reads."""

    read_count = 0

    async def read_journal(self, partition: int, start: int, stop: int) -> AsyncIterator[Sequence[JournalRecord]]:
        """See `Log.read_journal`."""
        async for records in super().read_journal(partition, start, stop):
            self.read_count += len(records)
            yield records


class Cluster:
    """Several workers and their group. Use as an async context manager; partitions are dealt in turn at the start."""

    def __init__(
        self,
        *agents: type[Agent],
        partitions: int = 4,
        workers: int = 2,
        stores: Sequence[OpenStore] = (),
        **settings: Any,
    ) -> None:
        """Workers keep their partitions in `stores`, as far as there are so many, else in memory."""
        self.settings = Settings.load(app_id="cluster", partitions=partitions, **settings)
        self.registry = Registry()
        for cls in agents:
            self.registry.add(cls)
        self.log = MemoryLog(Topics("cluster"), partitions)
        self.owners = [number % workers for number in range(partitions)]
        self.ports: list[CountingPort] = []
        self.workers: list[MemoryWorker] = []
        self.dead: set[int] = set()
        self._may_fail: set[int] = set()
        self.clocks: Counter[int] = Counter()  # by how many seconds the wall clock of a worker is wrong
        for index in range(workers):
            self.add_worker(stores[index] if index < len(stores) else in_memory)

    def add_worker(self, open_store: OpenStore = in_memory) -> int:
        """One more worker, which owns nothing yet; returns its index."""
        index, port = len(self.workers), CountingPort(self.log)
        engine = Engine(
            self.settings,
            self.registry,
            port,
            worker=f"w{index}",
            now_ns=lambda: NOW_NS + int((asyncio.get_running_loop().time() + self.clocks[index]) * 1e9),
            new_id=id_source(f"w{index}-"),
            open_store=open_store,
        )
        self.ports.append(port)
        self.workers.append(MemoryWorker(engine, port))
        return index

    async def __aenter__(self) -> Self:
        for worker in self.workers:
            await worker.start()
        await self.assign(self.owners)
        await self.settle()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for index, worker in enumerate(self.workers):
            if index not in self.dead:
                await worker.stop()
                if exc_info[0] is None and index not in self._may_fail and worker.engine.failed.done():
                    worker.engine.failed.result()  # nobody has looked

    async def kill(self, index: int) -> None:
        """A worker dies; somebody has to be assigned its partitions."""
        self.dead.add(index)
        await self.workers[index].stop()

    def engine(self, index: int) -> Engine:
        return self.workers[index].engine

    def failed(self, index: int) -> asyncio.Future[None]:
        """What ends a worker that is to end."""
        self._may_fail.add(index)
        return self.engine(index).failed

    async def assign(
        self, owners: Sequence[int], *, untold: Sequence[int] = (), copies: Mapping[int, set[int]] | None = None
    ) -> None:
        """Partition p belongs to worker owners[p] from now on; the `untold` ones don't learn it. Worker i keeps
        `copies[i]`."""
        self.owners = list(owners)
        for index, port in enumerate(self.ports):
            port.owned = {number for number, owner in enumerate(owners) if owner == index}
        told = [index for index in range(len(self.workers)) if index not in untold]
        copies = copies or {}
        await asyncio.gather(*(self.workers[i].assign(self.ports[i].owned, copies.get(i, set())) for i in told))

    @property
    def is_quiet(self) -> bool:
        """Whether the owners of all partitions have handled and sent everything."""
        owners = set(self.owners)
        return all(self.workers[index].is_quiet and set(self.engine(index)._owned) for index in owners)

    async def settle(self, seconds_max: float = 600.0) -> None:
        """Wait in virtual time until every owner is quiet; a worker that was not told is not waited for."""
        async with asyncio.timeout(seconds_max):
            while not self.is_quiet:  # noqa: ASYNC110 - virtual time: asking costs nothing
                await asyncio.sleep(0.05)

    def post(self, target: str, message: Any, **options: Any) -> bytes:
        """Send as a client."""
        return post(self.log, target, message, **options)

    def state(self, target: str) -> Any:
        """The committed state of an agent, as its owner has it."""
        owner = self.owners[partition_of(target, self.settings.partitions)]
        kind, state = self.engine(owner).committed_state(target)
        return kind.decode_state(state)

    def dead_letters(self) -> list[DeadLetter]:
        """All of them, partition by partition."""
        topic = self.log.topics.deadletter
        return [
            decode_dead_letter(record.value or b"")
            for number in range(self.settings.partitions)
            for record in self.log.records(topic, number)
        ]


def addresses(kind: str, partition: int, count: int, partitions: int = 4) -> list[str]:
    """The first `count` addresses of a type that live on a partition."""
    keys = (f"{kind}/{i}" for i in itertools.count())
    return list(itertools.islice((a for a in keys if partition_of(a, partitions) == partition), count))
