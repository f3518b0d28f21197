"""Stores on disk and copies in real workers: what a restart or a promotion reads, and that answers are right."""

import re
from pathlib import Path

import pytest

from tests.cluster.crew import PARTITIONS, Sender, Worker, counted, crew, eventually

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio]

READ = re.compile(r"recovered partition (\d+): .* read (\d+) records from offset (\d+) on")


def recovered(worker: Worker) -> list[tuple[int, int, int]]:
    """Partition, records read and offset of all recoveries so far."""
    return [(int(p), int(count), int(start)) for p, count, start in READ.findall(worker.log.read_text())]


async def test_a_restart_reads_the_tail_and_a_damaged_store_is_built_anew(
    broker: str, app_id: str, send: Sender, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    disk = {"ROOKERY_STORE": "rocksdb", "ROOKERY_DATA_DIR": str(data)}
    with crew(app_id, broker, tmp_path) as start:
        one = start("one", **disk)
        await eventually(lambda: len(recovered(one)) >= PARTITIONS, "recovery", timeout=120)
        assert all(offset == 0 for _, _, offset in recovered(one))
        for _ in range(5):
            await send(20)
            await counted(app_id, broker, send.sent)
        assert not await one.leave()
        two = start("two", **disk)
        await eventually(lambda: len(recovered(two)) >= PARTITIONS, "recovery", timeout=120)
        assert all(offset > 0 for _, _, offset in recovered(two))
        assert all(count <= 3 for _, count, _ in recovered(two)), "its own claim, and what the other's end left"
        await send(20)
        await counted(app_id, broker, send.sent)
        assert not await two.leave()

        stores = sorted(path for path in data.glob("*/stores/*") if path.is_dir())
        assert [path.name for path in stores] == [str(number) for number in range(PARTITIONS)]
        for path in stores:
            for table in path.glob("*.sst"):
                table.write_bytes(table.read_bytes()[:-100])
        three = start("three", **disk)
        await eventually(lambda: len(recovered(three)) >= PARTITIONS, "recovery", timeout=120)
        assert {offset for _, _, offset in recovered(three)} == {0}
        assert all(count > 3 for _, count, _ in recovered(three)), "everything that compaction has left"
        await send(5)
        await counted(app_id, broker, send.sent)
        text = three.log.read_text()
        assert text.count("the journal builds it anew") == PARTITIONS
        three.process.kill()


@pytest.mark.parametrize("store", ["memory", "rocksdb"])
async def test_a_copy_takes_over_from_a_killed_worker(
    broker: str, app_id: str, send: Sender, tmp_path: Path, store: str
) -> None:
    with crew(app_id, broker, tmp_path) as start:
        one, two = (start(name, ROOKERY_STORE=store, ROOKERY_STANDBYS="1") for name in ("one", "two"))
        await eventually(lambda: all(len(recovered(worker)) >= 2 for worker in (one, two)), "both at work", timeout=120)
        for _ in range(5):
            await send(20)
            await counted(app_id, broker, send.sent)
        before = len(recovered(two))
        one.process.kill()
        await eventually(lambda: len(recovered(two)) >= before + 2, "promotion", timeout=120)
        promoted = recovered(two)[before:]
        assert all(offset > 10 for _, _, offset in promoted), promoted
        assert all(count < 200 for _, count, _ in promoted), promoted
        await send(20)
        await counted(app_id, broker, send.sent)
        assert not await two.leave()
