"""Copies of partitions that others own: they follow, are promoted in a moment, and never change what comes out."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest

from rookery.streams.core.store import Mark, OpenStore, in_memory
from rookery.streams.engine import housekeeping
from rookery.streams.log import Followed, JournalRecord
from rookery.streams.memory import MemoryPort
from tests.cases import quick
from tests.unit.engine.harness import Cluster, addresses, virtual
from tests.unit.engine.test_ownership import Load, Node, Token
from tests.unit.engine.test_stores import Add, Sum, on_disk


@pytest.fixture(params=["memory", "rocksdb"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> list[OpenStore]:
    """Of two workers."""
    return [in_memory] * 2 if request.param == "memory" else [one.open for one in on_disk(tmp_path, 2)]


def lags(cluster: Cluster, index: int) -> dict[int, int | None]:
    return {number: copy["lag"] for number, copy in cluster.engine(index).standbys.statistics().items()}


@virtual
async def test_a_copy_is_promoted_and_only_what_is_new_is_read(stores: list[OpenStore]) -> None:
    async with Cluster(Sum, partitions=2, stores=stores) as cluster:
        await cluster.assign([0, 0], copies={1: {0, 1}})
        for n in range(2_000):
            cluster.post(f"Sum/{n % 500}", Add(n))
        await cluster.settle()
        await asyncio.sleep(1)
        assert lags(cluster, 1) == {0: 0, 1: 0}
        assert sum(copy["agents"] for copy in cluster.engine(1).statistics()["standbys"].values()) >= 500
        cluster.ports[1].read_count = 0
        await cluster.assign([1, 1], untold=[0])
        await cluster.settle()
        assert cluster.ports[1].read_count == 2, "one's own claims"
        assert lags(cluster, 1) == {}
        assert all(cluster.state(f"Sum/{n}").total == sum(range(n, 2_000, 500)) for n in range(500))


@virtual
async def test_copies_that_stay_go_on_through_rebalances_and_others_are_dropped(stores: list[OpenStore]) -> None:
    async with Cluster(Sum, stores=stores) as cluster:
        await cluster.assign([0, 0, 0, 0], copies={1: {0, 1, 2}})
        cluster.post("Sum/1", Add(1))
        await asyncio.sleep(1)
        before = cluster.engine(1).standbys._folds[0]
        await cluster.assign([0, 0, 0, 1], copies={1: {0, 1}})
        await asyncio.sleep(1)
        assert cluster.engine(1).standbys._folds[0] is before
        assert lags(cluster, 1) == {0: 0, 1: 0}
        await cluster.assign([0, 0, 0, 0])
        assert lags(cluster, 1) == {}


@virtual
async def test_an_owner_becomes_a_copy_and_an_owner_again(stores: list[OpenStore]) -> None:
    async with Cluster(Sum, partitions=2, stores=stores) as cluster:
        for turn in range(6):
            owner = turn % 2
            await cluster.assign([owner] * 2, copies={1 - owner: {0, 1}})
            for n in range(50):
                cluster.post(f"Sum/{n}", Add(1))
            await cluster.settle()
            await asyncio.sleep(1)
        assert all(cluster.state(f"Sum/{n}").total == 6 for n in range(50))


@pytest.mark.parametrize("seed", quick(range(3)))
@virtual
async def test_totals_are_exact_whatever_is_promoted_and_whoever_is_not_told(
    stores: list[OpenStore], seed: int
) -> None:
    """Copies follow the records of stale leases, too, and have to leave them out."""
    rng = random.Random(seed)
    promoted = 0
    async with Cluster(Node, stores=stores) as cluster:
        load = Load(cluster, rng)
        for _ in range(6):
            load.post(rng.randrange(20))
            await asyncio.sleep(rng.choice([0.0, 0.003, 0.4]))
            zombie = rng.choice([None, 0, 1])
            owners = [rng.choice([owner, 0, 1]) for owner in cluster.owners]
            if zombie is not None:
                owners = [1 - zombie] * 4
            before = [set(cluster.engine(index).standbys._folds) for index in (0, 1)]
            promoted += sum(number in before[owner] for number, owner in enumerate(owners))
            copies = {index: {n for n, owner in enumerate(owners) if owner != index} for index in (0, 1)}
            await cluster.assign(owners, untold=[] if zombie is None else [zombie], copies=copies)
            load.post(rng.randrange(20))
            await asyncio.sleep(rng.choice([0.003, 0.4]))
            if zombie is not None:
                await cluster.settle()
                await cluster.assign([0, 1, 0, 1], copies={0: {1, 3}, 1: {0, 2}})
        await cluster.settle()
        load.check()
    assert promoted > 3


@virtual
async def test_a_copy_whose_store_is_outside_the_journal_begins_anew(tmp_path: Path) -> None:
    first, second = on_disk(tmp_path, 2)
    ahead = second.open(0)
    ahead.apply({b"Sum/1": b"nonsense"}, Mark(1_000, 5))
    ahead.close()
    async with Cluster(Sum, partitions=1, workers=2, stores=[first.open, second.open]) as cluster:
        cluster.post("Sum/1", Add(1))
        await cluster.assign([0], copies={1: {0}})
        await cluster.settle()
        await asyncio.sleep(1)
        assert lags(cluster, 1) == {0: 0}
        await cluster.assign([1])
        await cluster.settle()
        assert cluster.state("Sum/1").total == 1


@virtual
async def test_a_copy_that_is_damaged_begins_anew(tmp_path: Path) -> None:
    first, second = on_disk(tmp_path, 2)
    async with Cluster(Sum, partitions=1, workers=2, stores=[first.open, second.open]) as cluster:
        await cluster.assign([0], copies={1: {0}})
        cluster.post("Sum/1", Add(1))
        await cluster.settle()
        await asyncio.sleep(1)
        store = cluster.engine(1).standbys._folds[0].store
        database = store._db  # type: ignore[attr-defined]

        class Failing:
            """A database whose files fail."""

            def write(self, *args: object) -> None:
                raise Exception("Corruption: what else")  # noqa: TRY002 - as RocksDB does

            def close(self) -> None:
                database.close()

        store._db = Failing()  # type: ignore[attr-defined]
        cluster.post("Sum/1", Add(1))
        await cluster.settle()
        await asyncio.sleep(2)
        assert lags(cluster, 1) == {0: 0}
        assert second.statistics()["damaged"] == 1
        await cluster.assign([1])
        await cluster.settle()
        assert cluster.state("Sum/1").total == 2


@virtual
async def test_following_goes_on_after_the_log_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = 3
    follow = MemoryPort.follow_journals

    async def unsteady(port: MemoryPort, offsets: Mapping[int, int]) -> AsyncGenerator[Followed]:
        nonlocal failures
        async for followed in follow(port, offsets):
            yield followed
            if failures:
                failures -= 1
                raise OSError("connection lost")

    monkeypatch.setattr(MemoryPort, "follow_journals", unsteady)
    async with Cluster(Sum, partitions=2) as cluster:
        await cluster.assign([0, 0], copies={1: {0, 1}})
        for n in range(100):
            cluster.post(f"Sum/{n}", Add(n))
        await cluster.settle()
        await asyncio.sleep(60)
        assert failures == 0
        assert lags(cluster, 1) == {0: 0, 1: 0}


@virtual
async def test_a_recovery_says_what_is_left(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    read = MemoryPort.read_journal

    async def slow(port: MemoryPort, partition: int, start: int, stop: int) -> AsyncIterator[Sequence[JournalRecord]]:
        async for records in read(port, partition, start, stop):
            for at in range(0, len(records), 10):
                await asyncio.sleep(1)
                yield records[at : at + 10]

    async with Cluster(Node, partitions=1) as cluster:
        (address,) = addresses("Node", 0, 1, 1)
        for n in range(100):
            cluster.post(address, Token(f"t{n}", 0))
            await asyncio.sleep(0.01)
        await cluster.settle()
        monkeypatch.setattr(MemoryPort, "read_journal", slow)
        monkeypatch.setattr(housekeeping, "RECOVERY_TOLD_SECONDS", 4.0)
        length = len(cluster.log.journals[0]) + 1
        with caplog.at_level("INFO"):
            await cluster.assign([1])
            assert cluster.engine(1).statistics()["recovery"]["left"] == 0, "it has not claimed yet"
            await asyncio.sleep(10.5)
            told = cluster.engine(1).statistics()
            assert told["recovery"] == {
                "partitions": 1,
                "left": length - 100,
                "rate": pytest.approx(9.5, abs=0.2),
                "seconds_left": pytest.approx((length - 100) / 9.5, rel=0.05),
            }
            assert told["partitions"][0]["left"] == length - 100
            await cluster.settle()
        lines = [record.message for record in caplog.records if "offsets left" in record.message]
        assert len(lines) > length / 10 / 4 - 2
        assert cluster.engine(1).statistics()["recovery"] == {"partitions": 0, "left": 0, "rate": 0, "seconds_left": 0}
        assert f"read {length} records from offset 0 on" in caplog.text
