"""Genuine `faust worker` processes: they share the work, hand it over, and leave with exit code 0."""

import asyncio
from pathlib import Path

import pytest

from tests.cluster.crew import Sender, committed_is_end, counted, crew

pytestmark = [pytest.mark.long, pytest.mark.kafka, pytest.mark.asyncio]


async def test_workers_join_share_and_leave(broker: str, app_id: str, send: Sender, tmp_path: Path) -> None:
    with crew(app_id, broker, tmp_path) as start:
        one = start("one")
        await one.until("Worker ready")
        await send(10)
        await counted(app_id, broker, send.sent)
        two = start("two")
        await send(50)
        await two.until("Worker ready")
        await send(50)
        await two.until("recovered partition", 2)
        await counted(app_id, broker, send.sent)
        await committed_is_end(app_id, broker)
        await send(20)
        assert not await two.leave()
        await send(20)
        await counted(app_id, broker, send.sent)
        assert not await one.leave()
        await committed_is_end(app_id, broker)


async def test_a_killed_worker_loses_and_doubles_nothing(
    broker: str, app_id: str, send: Sender, tmp_path: Path
) -> None:
    with crew(app_id, broker, tmp_path) as start:
        one, two = start("one"), start("two")
        await asyncio.gather(one.until("recovered partition", 2), two.until("recovered partition", 2))
        await send(20)
        feeding = asyncio.create_task(send(200))
        await asyncio.sleep(0.1)
        one.process.kill()
        await feeding
        await counted(app_id, broker, send.sent)
        assert not await two.leave()


async def test_a_stop_in_the_middle_of_a_rebalance_is_clean(broker: str, app_id: str, tmp_path: Path) -> None:
    with crew(app_id, broker, tmp_path) as start:
        one = start("one")
        await one.until("Worker ready")
        for n, moment in enumerate((r"Joined group", r"Executing _on_partitions_assigned", r"Worker ready")):
            late = start(f"late{n}")
            await late.until(moment)
            assert not await late.leave(), moment
        seen = one.log.read_text().count("Revoking previously assigned")
        late = start("last")
        await one.until("Revoking previously assigned", seen + 1)
        assert not await one.leave()
        await late.until("Joined group")  # before it listens to signals, one ends it as it would end any program
        assert not await late.leave()
