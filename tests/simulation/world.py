"""One run: a seed makes workers, clients and faults; then all faults end, everything drains, and the checks follow."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import itertools
import logging
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rookery.agents.types import Registry
from rookery.ops.settings import Settings
from rookery.schemas.address import partition_of
from rookery.schemas.deadletter import DeadLetter, decode_dead_letter
from rookery.schemas.partition_errors import LogTruncated
from rookery.schemas.system import SPAWN
from rookery.streams.core.routing import Topics
from rookery.streams.engine.engine import Engine
from rookery.testing import VirtualTimeLoop
from tests.simulation import checks
from tests.simulation.broker import Broker
from tests.simulation.checks import Anomaly
from tests.simulation.clients import Clients
from tests.simulation.disk import Disk
from tests.simulation.evidence import Post, gather
from tests.simulation.faults import FAULT_SECONDS, Fault, plan
from tests.simulation.fleet import Interpreter, Mortal, Witness
from tests.simulation.process import task_factory
from tests.simulation.worker import News, Worker, copies_at

PARTITIONS, WORKERS, CLIENTS = 3, 3, 3
AGENTS = tuple(f"Interpreter/{i}" for i in range(9))
# The group misses a dead worker after this, virtual seconds.
SESSION_SECONDS = 0.5
# After the faults everything has to come to rest within this, virtual seconds; waits in the engine double up to 5 s.
REST_SECONDS = 120.0


@dataclass
class Outcome:
    """What a run gave."""

    seed: int
    anomalies: list[Anomaly]
    stats: Counter[str]
    trace: list[str]

    @property
    def digest(self) -> str:
        """Of the complete trace: two runs of a seed are the same or they are not."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()


class World:
    """See the head of this module."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        rng = random.Random(f"{seed} world")
        self.network = random.Random(f"{seed} network")
        self.load = random.Random(f"{seed} load")
        self.cluster = random.Random(f"{seed} cluster")
        batch_bytes = rng.choice([30_000, 900_000])
        self.settings = Settings.load(
            app_id="simulation",
            partitions=PARTITIONS,
            outbox_ring=rng.choice([2, 2, 4, 64]),
            batch_turns_max=rng.choice([1, 3, 5_000]),
            batch_bytes_max=batch_bytes,
            message_bytes_max=rng.choice([20_000, batch_bytes]),
            passivate_after=rng.choice([0.1, 1.0, 60.0]),
            dedup_window=rng.choice([15, 10_000]),
            concurrency_max=rng.choice([1, 8, 1_000]),
            adopt_after=rng.choice([0.01, 0.01, 0.5, 2.0]),
            window_max=rng.choice([100, 50_000]),
            activations_max=random.Random(f"{seed} memory").choice([1, 3, 20_000]),
        )
        self.load_until = rng.choice([2.0, FAULT_SECONDS])
        self.registry = Registry()
        for cls in (Interpreter, Mortal, Witness):
            self.registry.add(cls)
        self.broker = Broker(Topics("simulation"), PARTITIONS, self._copies_at)
        forgetful, self.fleeting = rng.random() < 0.4, rng.random() < 0.25
        self.faults = plan(random.Random(f"{seed} faults"), WORKERS, PARTITIONS, forgetful, self.fleeting)
        # With a message its id leaves the window of ids.
        self.clients = Clients(self.broker, self.settings, self.load, AGENTS, repeating=not self.fleeting)
        # On disk or in memory; what a disk holds outlives its worker's processes.
        self.broker.disks = [Disk(f"{seed} disk {number}") for number in range(WORKERS)] if rng.random() < 0.4 else []
        self.workers: list[Worker] = []
        self.owners = [number % WORKERS for number in range(PARTITIONS)]
        self.generation = 0
        self.accepted: list[tuple[str, int, int, int]] = []
        self.defects: list[str] = []
        self.trace: list[str] = []
        self._incarnations = itertools.count()
        self._handled = 0
        self._copying = random.Random(f"{seed} copies") if rng.random() < 0.4 else None
        self.promoted_count = 0

    def note(self, *what: object) -> None:
        """Add to the trace."""
        self.trace.append(f"{asyncio.get_running_loop().time():.6f} " + " ".join(map(str, what)))

    # -- the group ----------------------------------------------------------------------------------------------------

    def rebalance(self, owners: Sequence[int], *, prompt: bool = False) -> None:
        """Partition p belongs to worker owners[p]; each of them hears of it in its own time."""
        self.owners, self.generation = list(owners), self.generation + 1
        self.note("rebalance", self.generation, *owners)
        loop = asyncio.get_running_loop()
        copiers = [None] * PARTITIONS if self._copying is None else self._copying.choices(range(WORKERS), k=PARTITIONS)
        for worker in self.workers:
            mine = {number for number, owner in enumerate(owners) if owner == worker.worker}
            copies = {number for number, copier in enumerate(copiers) if copier == worker.worker} - mine
            delay = self.cluster.choice([0.001, 0.01, 0.01, 0.1, 0.1, 0.8]) * self.cluster.random()
            loop.call_later(0.001 if prompt else delay, worker.tell, News(self.generation, mine, copies))

    def _deal(self) -> list[int]:
        """New owners of some partitions, dead and frozen workers among them."""
        return [owner if self.cluster.random() < 0.4 else self.cluster.randrange(WORKERS) for owner in self.owners]

    def _start(self, number: int) -> None:
        worker = Worker(self, number, next(self._incarnations))
        self.workers[number : number + 1] = [worker]
        worker.start()

    def crashed(self, worker: Worker) -> None:
        """A process ended by itself."""
        self._kill(worker, 0.1)

    def _kill(self, worker: Worker, seconds: float) -> None:
        if worker.gate.dead:
            return
        self.note("kill", worker.gate.name)
        worker.gate.kill()
        self.broker.unwatch(worker.port.changed)
        engine = worker.engine
        if engine is not None and engine.failed.done() and not engine.failed.cancelled():
            engine.failed.exception()
        loop = asyncio.get_running_loop()
        loop.call_later(seconds, self._revive, worker)
        loop.call_later(SESSION_SECONDS, self._miss, worker)

    def _revive(self, worker: Worker) -> None:
        if self.workers[worker.worker] is worker:
            self._start(worker.worker)
            self.rebalance(self.owners)

    def _miss(self, worker: Worker) -> None:
        if self.workers[worker.worker] is worker and not self.faults.healed:
            others = [number for number in range(WORKERS) if number != worker.worker]
            self.rebalance([self.cluster.choice(others) if owner == worker.worker else owner for owner in self.owners])

    # -- faults -------------------------------------------------------------------------------------------------------

    async def _nemesis(self) -> None:
        for fault in self.faults.timed:
            await asyncio.sleep(max(0.0, fault.at - asyncio.get_running_loop().time()))
            fault.fired += 1
            self.strike(fault, self.workers[fault.worker])

    def strike(self, fault: Fault, worker: Worker, partition: int = -1) -> None:
        """Make a fault happen now."""
        loop = asyncio.get_running_loop()
        self.note("fault", fault.kind, fault.on, fault.moment, worker.gate.name)
        if fault.kind in {"kill", "freeze"} and fault.nth and not worker.gate.dead:
            nth, fault.nth = fault.nth, 0
            worker.gate.alarm = (worker.gate.step_count + nth, lambda: self.strike(fault, worker))
        elif fault.kind == "kill":
            self._kill(worker, fault.seconds)
        elif fault.kind == "freeze" and not worker.gate.dead:
            worker.gate.freeze()
            loop.call_later(fault.seconds, worker.gate.thaw)
            if fault.seconds > SESSION_SECONDS:
                loop.call_later(SESSION_SECONDS, self._miss, worker)
        elif fault.kind == "cut":
            worker.cut_until = loop.time() + fault.seconds
        elif fault.kind == "rebalance":
            for i in range(fault.nth):
                loop.call_later(i * fault.seconds, self._shuffle)
        elif fault.kind == "compact":
            self._compact()
        elif fault.kind == "retain":
            self._retain()
        elif fault.kind == "forget":
            self.broker.forget(partition)

    def _shuffle(self) -> None:
        if not self.faults.healed:
            self.rebalance(self._deal())

    def _compact(self) -> None:
        for number, end in enumerate(self.broker.ends):
            self.broker.compact(number, self.cluster.randint(end // 2, end))

    def _copies_at(self, partition: int) -> Iterator[int]:
        """Where the copies of a journal partition stand that live workers have, or go on from."""
        for worker in self.workers:
            if worker.engine is not None and not worker.gate.dead:
                yield from copies_at(worker.engine, partition)

    def _retain(self) -> None:
        """Retention deletes the oldest records of an inbox, handled or not."""
        topic = self.cluster.choice(self.broker.topics.inboxes)
        for number in range(PARTITIONS):
            end = len(self.broker.records(topic, number))
            start = max(self.broker.start(topic, number), end - self.cluster.choice([0, 0, 1, 5, 1_000]))
            self.broker.truncate(topic, number, start)
            self.note("retained", topic, number, start)

    # -- the run ------------------------------------------------------------------------------------------------------

    async def _ask_all(self, client: str) -> None:
        self.clients.ask_all(client)
        await self._rest()

    def run(self) -> Outcome:
        """Run the seed."""
        Interpreter.attempts, Interpreter.turn_count, Interpreter.draw_count = itertools.count(), 0, 0
        errors = _Errors(self.defects)
        # Collections come by counts of allocations, which another run before this one changes; none comes within a run.
        gc.disable()
        try:
            with errors, asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
                runner.get_loop().set_task_factory(task_factory)
                anomalies = runner.run(self._main())
        finally:
            gc.enable()
        anomalies += [Anomaly("defect", defect) for defect in self.defects]
        return Outcome(self.seed, anomalies, self._stats(), self.trace)

    async def _main(self) -> list[Anomaly]:
        for number in range(WORKERS):
            self._start(number)
        self.rebalance(self.owners)
        doings = [asyncio.create_task(self.clients.run(number, self.load_until)) for number in range(CLIENTS)]
        doings.append(asyncio.create_task(self._nemesis()))
        await asyncio.gather(*doings)
        await asyncio.sleep(FAULT_SECONDS / 4)
        try:
            await self._heal()
            await self._ask_all("before")
            evidence = gather(self, "before")
            self._handled = sum(map(len, checks.handled_by(evidence.books).values()))
            await self._start_anew()
            await self._ask_all("after")
            after = gather(self, "after")
        except TimeoutError:
            return [Anomaly("stuck", self._why_stuck())]
        finally:
            for worker in self.workers:
                worker.gate.kill()
            await asyncio.sleep(1.0)
        return [*checks.check(evidence), *checks.unchanged(evidence, after)]

    async def _heal(self) -> None:
        self.faults.healed = True
        self.note("heal")
        for worker in list(self.workers):
            worker.gate.alarm = None
            worker.cut_until = 0.0
            worker.gate.thaw()
            if worker.gate.dead:
                self._start(worker.worker)
        await asyncio.sleep(3.0)  # what was late has landed
        self.rebalance([number % WORKERS for number in range(PARTITIONS)], prompt=True)
        if self.fleeting:
            self.clients.resume_all("client0")
        await self._rest()

    async def _start_anew(self) -> None:
        """All state from what compaction left: it has to be the same."""
        if self.seed % 2:
            for disk in self.broker.disks:
                disk.images.clear()
        for number, end in enumerate(self.broker.ends):
            self.broker.compact(number, end, days_later=True)
        for worker in list(self.workers):
            worker.gate.kill()
            self.broker.unwatch(worker.port.changed)
            self._start(worker.worker)
        self.rebalance(self.owners, prompt=True)

    async def _rest(self) -> None:
        async with asyncio.timeout(REST_SECONDS):
            await asyncio.sleep(0.1)
            while self._why_stuck():  # noqa: ASYNC110 - virtual time: asking costs nothing
                await asyncio.sleep(0.1)

    def _why_stuck(self) -> str:
        busy = (self.workers[owner].why_busy(number) for number, owner in enumerate(self.owners))
        return "; ".join(f"partition {number}: {why}" for number, why in enumerate(busy) if why)

    @property
    def posts(self) -> Sequence[Post]:
        """All that clients sent, in order."""
        return self.clients.posts

    def letters(self) -> list[DeadLetter]:
        """All dead letters, partition by partition."""
        broker = self.broker
        return [
            decode_dead_letter(record.value or b"")
            for number in range(PARTITIONS)
            for record in broker.records(broker.topics.deadletter, number)
        ]

    def owner_of(self, address: str) -> Engine:
        """The engine that has an agent."""
        engine = self.workers[self.owners[partition_of(address, PARTITIONS)]].engine
        assert engine is not None
        return engine

    def _stats(self) -> Counter[str]:
        stats = self.faults.fired()
        stats["messages posted"] = len(self.posts)
        stats["turns"] = Interpreter.turn_count
        stats["steps run"] = Interpreter.draw_count
        stats["turns run again"] = Interpreter.turn_count - self._handled
        stats["records lost"] = sum(
            letter.last_offset - letter.offset + 1 for letter in self.letters() if letter.reason == LogTruncated.reason
        )
        stats["copies promoted"] = self.promoted_count
        stats["agents spawned"] = sum(post.system == SPAWN for post in self.posts)
        stats["journal batches"] = sum(map(len, self.broker.batches))
        keys = [key for batches in self.broker.batches for batch in batches for key, value in batch.records if value]
        for name, part in (("messages parked", b"\x1fparked/"), ("steps kept", b"\x1fstep/"), ("pauses", b"\x1fpause")):
            stats[name] = sum(part in key for key in keys)
        stats["stores reopened"] = sum(disk.reopened_count for disk in self.broker.disks)
        stats["appends refused"] = self.broker.refused_count
        stats["incarnations"] = next(self._incarnations)
        stats["generations"] = self.generation
        return stats


class _Errors(logging.Handler):
    """What the engine or the event loop log as an error is a defect."""

    def __init__(self, defects: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._defects = defects
        self._loggers = [logging.getLogger(name) for name in ("rookery", "asyncio")]
        self._before: list[tuple[int, bool]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple) and record.args and isinstance(record.args[0], LogTruncated):
            return  # a fault of the plan, told as it should be
        if record.getMessage().startswith("an error occurred during closing of asynchronous generator"):
            return  # of a process that was killed in it
        error = record.exc_info[1] if record.exc_info else None
        self._defects.append(f"logged by {record.name}: {record.getMessage()} {error!r}")

    def __enter__(self) -> None:
        self._before = [(logger.level, logger.propagate) for logger in self._loggers]
        for logger in self._loggers:
            logger.addHandler(self)
            logger.setLevel(logging.ERROR)
            logger.propagate = False

    def __exit__(self, *exc_info: object) -> None:
        for logger, (level, propagate) in zip(self._loggers, self._before, strict=True):
            logger.removeHandler(self)
            logger.setLevel(level)
            logger.propagate = propagate
