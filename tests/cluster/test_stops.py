"""How a worker ends, on a real Kafka: planned, hurried, without a broker, stuck, frozen."""

import asyncio
import signal
import time
from pathlib import Path

import pytest

from rookery.streams.kafka.watchdog import EXIT_STUCK
from tests.cluster.crew import Sender, committed_is_end, counted, crew, eventually, own_broker

pytestmark = [pytest.mark.long, pytest.mark.kafka, pytest.mark.asyncio]


async def running(app_id: str, broker: str, send: Sender, seconds: float) -> None:
    """A turn that takes so long has begun."""
    await send.to("Count/1", 1)
    await counted(app_id, broker, send.sent)
    await send.to("Count/0", 1, seconds=seconds)
    await asyncio.sleep(1)


async def test_a_planned_stop_finishes_what_is_in_hand(broker: str, app_id: str, send: Sender, tmp_path: Path) -> None:
    with crew(app_id, broker, tmp_path) as start:
        one = start("one")
        await one.until("recovered partition", 4)
        await running(app_id, broker, send, seconds=8)
        assert not await one.leave()
        assert "with turns or messages in hand" not in one.log.read_text()
        await committed_is_end(app_id, broker)  # nobody runs: the turn was committed before the end
        start("two")
        await counted(app_id, broker, send.sent)


async def test_a_second_signal_hurries_and_the_next_owner_runs_the_turn_again(
    broker: str, app_id: str, send: Sender, tmp_path: Path
) -> None:
    with crew(app_id, broker, tmp_path) as start:
        one = start("one", ROOKERY_DRAIN_TIMEOUT="600")
        await one.until("recovered partition", 4)
        await running(app_id, broker, send, seconds=12)
        one.process.send_signal(signal.SIGTERM)
        await one.until("Wait for streams")
        await asyncio.sleep(2)
        assert one.process.poll() is None, "it waits for the turn"
        one.process.send_signal(signal.SIGTERM)
        await eventually(lambda: one.process.poll() is not None, "the hurried end", 15.0)
        assert one.process.returncode == 0
        assert "the next owner takes them up" in one.log.read_text()
        start("two")
        await counted(app_id, broker, send.sent)


async def test_a_stop_in_the_middle_of_a_recovery_is_clean(
    broker: str, app_id: str, send: Sender, tmp_path: Path
) -> None:
    with crew(app_id, broker, tmp_path) as start:
        one = start("one")
        await one.until("recovered partition", 4)
        await send(50)
        await counted(app_id, broker, send.sent)
        one.process.kill()
        await eventually(lambda: one.process.poll() is not None, "the kill")
        two = start("two")
        await two.until("Setting newly assigned partitions")
        assert not await two.leave()
        start("three")
        await counted(app_id, broker, send.sent)


@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_a_worker_whose_broker_has_gone_still_stops(fault: str, tmp_path: Path) -> None:
    with own_broker(tmp_path) as (address, server), crew("gone", address, tmp_path) as start:
        one = start("one")
        await one.until("recovered partition", 4)
        if fault == "killed":
            server.kill()
        else:
            server.suspend()
        await asyncio.sleep(3)
        began = time.monotonic()
        one.process.send_signal(signal.SIGTERM)
        await eventually(lambda: one.process.poll() is not None, "the end without a broker", 45.0)
        print(f"stopped {time.monotonic() - began:.1f} s after the signal")
        assert one.process.returncode == 0


async def test_a_stuck_loop_ends_the_process_and_the_group_goes_on(
    broker: str, app_id: str, send: Sender, tmp_path: Path
) -> None:
    with crew(app_id, broker, tmp_path) as start:
        one = start("one", MAY_BLOCK="1")
        await one.until("recovered partition", 4)
        await send.to("Count/0", 1, block=600)
        await eventually(lambda: one.process.poll() is not None, "the end of the stuck one", 40.0)
        assert one.process.returncode == EXIT_STUCK
        log = one.log.read_text()
        assert "the event loop was stuck for 6 s" in log
        assert 'counting_app.py", line' in log
        start("two")
        await counted(app_id, broker, send.sent)


async def test_a_frozen_process_that_goes_on_is_not_taken_for_a_stuck_one(
    broker: str, app_id: str, send: Sender, tmp_path: Path
) -> None:
    """Away for longer than the session: it rejoins, the leases decide about what it had in hand."""
    with crew(app_id, broker, tmp_path) as start:
        one = start("one")
        await one.until("recovered partition", 4)
        await send(5)
        one.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(10)
        one.process.send_signal(signal.SIGCONT)
        await send(5)
        await counted(app_id, broker, send.sent)
        assert one.process.poll() is None
        await one.leave()
