"""From being assigned to ready: how long a worker takes to recover its partitions, by store and with standby copies.

    python -m rookery.ops.servers run --kafka -- python -m bench.recovery [--agents 100000] [--partitions 12 48]

The journals hold one record of 200 bytes for each agent, written through a lease as an owner does. Measured is the
engine on a real Kafka, from `assigned` to the last partition running; the state of every agent is checked then.
"""

import argparse
import asyncio
import gc
import itertools
import resource
import statistics
import tempfile
import time
import tracemalloc
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bench import journals
from bench.harness import Figures, Harness, Measure
from rookery import Agent
from rookery.agents.types import Registry
from rookery.ops.settings import Settings
from rookery.streams.core.routing import Topics
from rookery.streams.core.store import OpenStore, in_memory
from rookery.streams.engine.engine import Engine
from rookery.streams.kafka import topics
from rookery.streams.kafka.log import KafkaLog
from rookery.streams.rocks import RocksStores

LARGE_RUNS = 3  # with a million agents


class Account(Agent):
    """About 200 bytes with its header."""

    number: int = 0
    pad: str = ""


class Alone:
    """A group of one, in which nothing is fetched."""

    def fetch_from(self, topic: str, partition: int, offset: int) -> None: ...
    def pause(self, topic: str, partition: int) -> None: ...
    def resume(self, topic: str, partition: int) -> None: ...

    async def confirm(self, topic: str, partition: int) -> bool:
        return True


class Bench:
    """An application whose journals are full."""

    def __init__(self, settings: Settings, agents: int) -> None:
        self.settings = settings
        self.agents = agents
        self.kwargs = {"bootstrap_servers": settings.broker}
        self.registry = Registry()
        self.registry.add(Account)
        self.names = Topics(settings.app_id)
        self._generations = itertools.count(1)

    async def fill(self) -> None:
        states = ({"number": n, "pad": "x" * 160} for n in range(self.agents))
        await journals.fill(self.settings, "Account", states)

    @asynccontextmanager
    async def worker(self, name: str, open_store: OpenStore) -> AsyncIterator[Engine]:
        log = KafkaLog(self.names, self.kwargs)
        await log.start()
        log.attach(Alone())
        engine = Engine(
            self.settings, self.registry, log, worker=name, now_ns=time.time_ns,
            new_id=lambda: uuid.uuid4().hex, open_store=open_store,
        )  # fmt: skip
        await engine.start()
        try:
            yield engine
        finally:
            await engine.stop()
            await log.stop()

    async def ready(self, engine: Engine) -> tuple[float, float]:
        """Seconds from being assigned everything to all partitions running, and of CPU; all states are checked."""
        everything = set(range(self.settings.partitions))
        gc.collect()
        started, worked = time.perf_counter(), time.process_time()
        await engine.assigned(everything, next(self._generations))
        while not all(part["phase"] == "running" for part in engine.statistics()["partitions"].values()):
            if engine.failed.done():
                engine.failed.result()
            await asyncio.sleep(0.005)
        seconds, worked = time.perf_counter() - started, time.process_time() - worked
        total = 0
        for n in range(self.agents):
            kind, state = engine.committed_state(f"Account/{n}")
            agent: Any = kind.decode_state(state)
            assert agent.number == n
            total += n
        assert total == sum(range(self.agents))
        return seconds, worked


async def caught_up(engine: Engine, partitions: int) -> tuple[float, float]:
    """Seconds until the copies of all partitions lag by nothing, and of CPU."""
    started, worked = time.perf_counter(), time.process_time()
    await engine.assigned(set(), 1, set(range(partitions)))
    while [copy["lag"] for copy in engine.standbys.statistics().values()] != [0] * partitions:  # noqa: ASYNC110 - polls
        await asyncio.sleep(0.01)
    return time.perf_counter() - started, time.process_time() - worked


async def measure(broker: str | None, agents: int, partitions: int, runs: int) -> None:
    given: dict[str, Any] = {} if broker is None else {"broker": broker}
    settings = Settings.load(app_id=f"bench-{uuid.uuid4().hex[:6]}", partitions=partitions, **given)
    bench = Bench(settings, agents)
    await topics.ensure(settings, bench.kwargs)

    def tell(what: str, times: tuple[float, float]) -> None:
        seconds, worked = times
        print(
            f"{agents:>9,} agents  {partitions:>3} partitions  {what:<34} {seconds:6.2f} s  {worked:6.2f} s of CPU",
            flush=True,
        )

    try:
        await bench.fill()
        for _ in range(runs):
            with tempfile.TemporaryDirectory() as folder:
                disks = [RocksStores(Path(folder) / str(n), {}, 1e9, time.time) for n in range(2)]
                async with bench.worker("a", in_memory) as engine:
                    tell("memory", await bench.ready(engine))
                async with bench.worker("a", disks[0].open) as engine:
                    tell("rocksdb, empty", await bench.ready(engine))
                async with bench.worker("a", disks[0].open) as engine:
                    tell("rocksdb, restart", await bench.ready(engine))
                for what, stores in (("memory", [in_memory] * 2), ("rocksdb", [disk.open for disk in disks])):
                    async with bench.worker("b", stores[1]) as standby:
                        tell(f"{what}, a copy catches up beside", await caught_up(standby, partitions))
                        async with bench.worker("a", stores[0]) as owner:
                            await bench.ready(owner)
                        tell(f"{what}, with a standby", await bench.ready(standby))
        print(f"largest memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB")
    finally:
        await topics.remove(settings.app_id, bench.kwargs)


@asynccontextmanager
async def filled(broker: str, agents: int, partitions: int) -> AsyncIterator[Bench]:
    """A fresh application with so many agents in its journals."""
    settings = Settings.load(app_id=f"bench-{uuid.uuid4().hex[:6]}", partitions=partitions, broker=broker)
    bench = Bench(settings, agents)
    await topics.ensure(settings, bench.kwargs)
    try:
        await bench.fill()
        yield bench
    finally:
        await topics.remove(settings.app_id, bench.kwargs)


async def recovered(bench: Bench, open_store: OpenStore) -> Figures:
    """One worker recovers them all."""
    async with bench.worker("a", open_store) as engine:
        return dict(zip(("seconds", "cpu_s"), await bench.ready(engine), strict=True))


async def promoted(bench: Bench) -> Figures:
    """One that has a copy recovers them all."""
    async with bench.worker("b", in_memory) as standby:
        await caught_up(standby, bench.settings.partitions)
        await recovered(bench, in_memory)
        return dict(zip(("seconds", "cpu_s"), await bench.ready(standby), strict=True))


async def traced(bench: Bench) -> Figures:
    """Memory of a worker that has recovered them all, for each."""
    gc.collect()
    tracemalloc.start()
    try:
        async with bench.worker("a", in_memory) as engine:
            await bench.ready(engine)
            gc.collect()
            return {"bytes": tracemalloc.get_traced_memory()[0] / bench.agents}
    finally:
        tracemalloc.stop()


async def recovery(h: Harness) -> None:
    """100,000 agents of 200 bytes on 12 partitions: from being assigned to the last partition running."""
    async with filled(h.broker, h.count(100_000), 12) as bench:
        with tempfile.TemporaryDirectory() as folder:
            disk = RocksStores(Path(folder), {}, 1e9, time.time)
            await recovered(bench, disk.open)  # the disk is filled
            ways: dict[str, Measure] = {
                "memory": partial(recovered, bench, in_memory),
                "rocksdb": partial(recovered, bench, disk.open),
                "standby": partial(promoted, bench),
            }
            runs = await h.interleaved(ways)
        idle = await h.interleaved({"idle agents": partial(traced, bench)})
    for name, row in (
        ("memory", "recovery_100k_s"),
        ("rocksdb", "recovery_100k_rocksdb_s"),
        ("standby", "promote_100k_s"),
    ):
        h.record(row, [run["seconds"] for run in runs[name]])
    h.record("idle_agent_bytes", [run["bytes"] for run in idle["idle agents"]])


async def recovery_large(h: Harness) -> None:
    """The same with 100,000 agents on 48 partitions, and 1,000,000 on 12."""
    for row, agents, partitions, most in (
        ("recovery_100k_48_s", 100_000, 48, h.pairs),
        ("recovery_1m_s", 1_000_000, 12, LARGE_RUNS),
    ):
        async with filled(h.broker, h.count(agents), partitions) as bench:
            runs = await h.interleaved({row: partial(recovered, bench, in_memory)}, min(h.pairs, most))
        cpu = statistics.median(run["cpu_s"] for run in runs[row])
        h.record(row, [run["seconds"] for run in runs[row]], cpu_s=round(cpu, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=100_000)
    parser.add_argument("--partitions", type=int, nargs="+", default=[12, 48])
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--broker", help="else ROOKERY_BROKER or the server that was started")
    args = parser.parse_args()
    for partitions in args.partitions:
        asyncio.run(measure(args.broker, args.agents, partitions, args.runs))


if __name__ == "__main__":
    main()
