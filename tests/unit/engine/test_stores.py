"""Partitions in stores on disk: a restart reads what is new, damage costs a recovery, and totals are exact anyway."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rookery.agents import Agent, handler
from rookery.schemas.partition_errors import StoreFailed
from rookery.streams.core.store import Mark
from rookery.streams.rocks import RocksStore, RocksStores
from tests.cases import quick
from tests.unit.engine.harness import Cluster, CountingPort, virtual
from tests.unit.engine.test_ownership import Load, Node


@dataclass
class Add:
    by: int
    pad: str = ""


class Sum(Agent):
    """Adds up; the pad gives its record a size."""

    total: int = 0
    pad: str = ""

    @handler
    async def add(self, msg: Add) -> None:
        self.total += msg.by
        self.pad = msg.pad


def on_disk(folder: Path, count: int = 1) -> list[RocksStores]:
    """The stores of some workers."""
    return [RocksStores(folder / str(n), {"app": "cluster"}, 3600.0, lambda: 0.0) for n in range(count)]


async def restart(cluster: Cluster, stores: RocksStores) -> CountingPort:
    """Stop the only worker and start another on its disk."""
    await cluster.workers[0].stop()
    index = cluster.add_worker(stores.open)
    cluster.ports, cluster.workers = cluster.ports[index:], cluster.workers[index:]
    await cluster.workers[0].start()
    await cluster.assign(cluster.owners)
    await cluster.settle()
    return cluster.ports[0]


def opened(cluster: Cluster, number: int) -> RocksStore:
    partition = cluster.engine(0)._partition(number)
    assert partition is not None
    assert isinstance(partition.store, RocksStore)
    return partition.store


@virtual
async def test_a_restart_reads_only_what_is_new(tmp_path: Path) -> None:
    (stores,) = on_disk(tmp_path)
    async with Cluster(Sum, workers=1, partitions=2, stores=[stores.open]) as cluster:
        for n in range(3_000):
            cluster.post(f"Sum/{n % 500}", Add(n))
        await cluster.settle()
        port = await restart(cluster, stores)
        assert port.read_count == 2, "one's own claims"
        for n in range(500):
            cluster.post(f"Sum/{n}", Add(1))
        await cluster.settle()
        port = await restart(cluster, stores)
        assert port.read_count == 2
        assert all(cluster.state(f"Sum/{n}").total == 1 + sum(range(n, 3_000, 500)) for n in range(500))
        assert cluster.engine(0).statistics()["partitions"][0]["agents"] > 100


@virtual
async def test_a_store_that_is_ahead_of_the_journal_is_not_believed(tmp_path: Path) -> None:
    """The journal was made again, or its brokers lost records."""
    (stores,) = on_disk(tmp_path)
    async with Cluster(Sum, workers=1, partitions=2, stores=[stores.open]) as cluster:
        cluster.post("Sum/1", Add(1))
        cluster.post("Sum/2", Add(2))
        await cluster.settle()
        for number in range(2):
            opened(cluster, number).apply({b"Sum/1": None, b"Sum/2": None}, Mark(1_000, 5))
        port = await restart(cluster, stores)
        assert port.read_count == sum(map(len, cluster.log.journals)), "everything"
        assert (cluster.state("Sum/1").total, cluster.state("Sum/2").total) == (1, 2)


@virtual
async def test_agents_that_are_not_in_use_are_on_disk_only(tmp_path: Path) -> None:
    (stores,) = on_disk(tmp_path)
    async with Cluster(Sum, workers=1, partitions=2, stores=[stores.open], passivate_after=1) as cluster:
        for n in range(1_000):
            cluster.post(f"Sum/{n}", Add(n))
        await cluster.settle()
        await asyncio.sleep(3)
        parts = cluster.engine(0).statistics()["partitions"]
        assert [part["live"] for part in parts.values()] == [0, 0]
        for n in range(1_000):
            cluster.post(f"Sum/{n}", Add(1))
        await cluster.settle()
        assert all(cluster.state(f"Sum/{n}").total == n + 1 for n in range(1_000))


@virtual
async def test_damage_met_while_running_costs_a_recovery_and_nothing_else(tmp_path: Path) -> None:
    (stores,) = on_disk(tmp_path)
    rng = random.Random(1)
    async with Cluster(Sum, workers=1, partitions=2, stores=[stores.open], passivate_after=1) as cluster:
        for n in range(400):
            cluster.post(f"Sum/{n}", Add(n, rng.randbytes(1_000).hex()))
        await cluster.settle()
        await asyncio.sleep(3)
        for number in range(2):
            opened(cluster, number)._db.flush()
        for path in stores.folder.glob("*/*.sst"):
            with path.open("r+b") as file:
                file.seek(2_000)
                file.write(b"\xff" * (path.stat().st_size - 40_000))
        for n in range(400):
            cluster.post(f"Sum/{n}", Add(1))
        await cluster.settle()
        assert all(cluster.state(f"Sum/{n}").total == n + 1 for n in range(400))
        assert cluster.dead_letters() == []
        assert stores.statistics()["damaged"] == 2
        assert cluster.engine(0).counts["recoveries"] == 4


class Failing:
    """A database whose files fail."""

    def __init__(self, database: Any, error: str) -> None:
        self._database, self._error = database, Exception(error)

    def get(self, key: bytes) -> None:
        """Fail."""
        raise self._error

    def write(self, *args: object) -> None:
        """Fail."""
        raise self._error

    def close(self) -> None:
        """Close the real one."""
        self._database.close()


@virtual
async def test_damage_met_by_the_inbox_costs_a_recovery_and_nothing_else(tmp_path: Path) -> None:
    """Whether a spawned agent is there is looked up when its message comes in."""
    (stores,) = on_disk(tmp_path)
    async with Cluster(Sum, workers=1, partitions=1, stores=[stores.open], passivate_after=1, spawn_wait=1) as cluster:
        cluster.post("Sum/1", Add(1))
        await cluster.settle()
        store = opened(cluster, 0)
        store._db = Failing(store._db, "Corruption: block checksum mismatch")
        cluster.post("00000000000040008000000000000000", Add(1))
        cluster.post("Sum/1", Add(1))
        await cluster.settle()
        assert cluster.state("Sum/1").total == 2
        assert [letter.reason for letter in cluster.dead_letters()] == ["not-spawned"]
        assert (stores.statistics()["damaged"], cluster.engine(0).counts["recoveries"]) == (1, 2)


@virtual
async def test_a_store_that_can_not_be_used_ends_the_worker(tmp_path: Path) -> None:
    (stores,) = on_disk(tmp_path)
    async with Cluster(Sum, workers=1, partitions=1, stores=[stores.open]) as cluster:
        cluster.post("Sum/1", Add(1))
        await cluster.settle()
        store = opened(cluster, 0)
        store._db = Failing(store._db, "IO error: No space left on device")

        def still_full(number: int) -> RocksStore:
            again = stores.open(number)
            again._db = Failing(again._db, "IO error: No space left on device")
            return again

        cluster.engine(0).open_store = still_full
        cluster.post("Sum/2", Add(1))
        async with asyncio.timeout(60):
            with pytest.raises(StoreFailed, match=r"No space left.*make room on that disk"):
                await cluster.failed(0)
        assert cluster.engine(0).counts["recoveries"] == 1


@pytest.mark.parametrize("seed", quick(range(3)))
@virtual
async def test_totals_are_exact_whatever_moves_and_whoever_is_not_told(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    stores = on_disk(tmp_path, 2)
    async with Cluster(Node, stores=[one.open for one in stores]) as cluster:
        load = Load(cluster, rng)
        for _ in range(8):
            load.post(rng.randrange(20))
            await asyncio.sleep(rng.choice([0.0, 0.003, 0.4]))
            zombie = rng.choice([None, 0, 1])
            owners = [rng.choice([owner, 0, 1]) for owner in cluster.owners]
            if zombie is not None:
                owners = [1 - zombie] * 4
            await cluster.assign(owners, untold=[] if zombie is None else [zombie])
            load.post(rng.randrange(20))
            await asyncio.sleep(rng.choice([0.003, 0.4]))
            if zombie is not None:
                await cluster.settle()
                await cluster.assign([0, 1, 0, 1])
        await cluster.settle()
        load.check()
        assert sum(one.statistics()["opened"] for one in stores) > 12
        assert all(one.statistics()["damaged"] == 0 for one in stores)
