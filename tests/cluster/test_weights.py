"""Weighted ownership in real groups: consumers with our assignor, and the shares that a Kafka group ends up with."""

import asyncio
import re
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import InconsistentGroupProtocolError

from rookery.schemas.address import partition_of
from rookery.streams.core.routing import Topics
from tests.cluster.crew import Sender, Worker, counted, crew, eventually

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio]

ASSIGNED = re.compile(r"assigned (\d+ to \S+ \([\d.]+\)(?:, \d+ to \S+ \([\d.]+\))*)")


def last_shares(*workers: Worker) -> dict[str, int]:
    """What the leader assigned last, whichever worker that was."""
    lines = [line for worker in workers for line in worker.log.read_text().splitlines() if ASSIGNED.search(line)]
    if not lines:
        return {}
    found = ASSIGNED.search(max(lines))  # lines begin with their time
    assert found is not None
    return {part.split()[2]: int(part.split()[0]) for part in found[1].split(", ")}


def owned(worker: Worker) -> set[int]:
    """Partitions that a worker has now, by its log."""
    found: set[int] = set()
    for opened, closed in re.findall(r"recovered partition (\d+)|partition (\d+) closed", worker.log.read_text()):
        found = found | {int(opened)} if opened else found - {int(closed)}
    return found


async def test_shares_follow_the_weights(broker: str, app_id: str, tmp_path: Path) -> None:
    common = {"COUNTING_PARTITIONS": "60"}
    with crew(app_id, broker, tmp_path) as start:
        workers = [start(f"w{n}", AGENT_ID=f"w{n}", ROOKERY_WEIGHT=str(n), **common) for n in (1, 2, 3)]
        await eventually(lambda: last_shares(*workers) == {"w1": 10, "w2": 20, "w3": 30}, "shares", timeout=150)


async def test_a_third_worker_takes_only_what_is_its_share(broker: str, app_id: str, tmp_path: Path) -> None:
    common = {"COUNTING_PARTITIONS": "12"}
    with crew(app_id, broker, tmp_path) as start:
        a, b = (start(name, AGENT_ID=name, ROOKERY_WEIGHT=w, **common) for name, w in (("a", "3"), ("b", "1")))
        await eventually(lambda: len(owned(a)) == 9 and len(owned(b)) == 3, "9 and 3", timeout=150)
        before = {worker: owned(worker) for worker in (a, b)}
        recovered = b.log.read_text().count("recovered partition")  # more than 3 if it was there first
        c = start("c", AGENT_ID="c", ROOKERY_WEIGHT="1", **common)
        await eventually(lambda: len(owned(c)) == 2, "2 of the third", timeout=150)
        await eventually(lambda: len(owned(a)) == 7, "7 of the first", timeout=90)
        assert owned(b) == before[b], "b has its share: it keeps all it had"
        assert b.log.read_text().count("recovered partition") == recovered
        assert owned(a) == before[a] - owned(c), "the least movement: 2"
        assert last_shares(a, b, c) == {"a": 7, "b": 3, "c": 2}


async def test_a_worker_with_another_assignor_is_refused_and_disturbs_nobody(
    broker: str, app_id: str, tmp_path: Path
) -> None:
    with crew(app_id, broker, tmp_path) as start:
        one = start("one")
        await one.until("recovered partition", 4)
        stranger = AIOKafkaConsumer(bootstrap_servers=broker, group_id=app_id)
        stranger.subscribe([Topics(app_id).inboxes[0]])
        with pytest.raises(InconsistentGroupProtocolError):
            await asyncio.wait_for(stranger.start(), 30)
        await stranger.stop()
        assert one.log.read_text().count("Joined group") == 1
        assert not await one.leave()


async def test_long_turns_move_later_but_not_for_ever(broker: str, app_id: str, send: Sender, tmp_path: Path) -> None:
    delay = {"ROOKERY_HANDOVER_DELAY": "8"}
    agents = {partition_of(f"Count/{n}", 4): f"Count/{n}" for n in range(40)}
    with crew(app_id, broker, tmp_path) as start:
        a = start("a", AGENT_ID="a", **delay)
        await eventually(lambda: len(owned(a)) == 4, "all at one worker", timeout=150)
        for p in (0, 1, 3):
            await send.to(agents[p], 1, seconds=60)
        b = start("b", AGENT_ID="b", **delay)
        await eventually(lambda: owned(b) == {2}, "the idle one moves at once", timeout=150)
        assert len(owned(a)) == 3
        await eventually(lambda: len(owned(b)) == 2, "the other one moves when the delay is over", timeout=60)
        await eventually(lambda: len(owned(a)) == 2, "and no third", timeout=90)
        text = a.log.read_text()
        assert text.count("asked for a rebalance: postponed moves can take place") == 1


async def test_who_joins_gets_a_copy_first_and_the_partition_when_it_has_caught_up(
    broker: str, app_id: str, send: Sender, tmp_path: Path
) -> None:
    copies = {"ROOKERY_STANDBYS": "1", "ROOKERY_HANDOVER_DELAY": "60"}
    with crew(app_id, broker, tmp_path) as start:
        a = start("a", AGENT_ID="a", **copies)
        await eventually(lambda: len(owned(a)) == 4, "all at one worker", timeout=150)
        for _ in range(5):
            await send(10)
            await counted(app_id, broker, send.sent)
        b = start("b", AGENT_ID="b", **copies)
        await eventually(lambda: len(owned(b)) == 2 and len(owned(a)) == 2, "half of them", timeout=150)
        text = b.log.read_text()
        offsets = [int(offset) for offset in re.findall(r"read \d+ records from offset (\d+) on", text)]
        assert all(offset > 0 for offset in offsets), "from its copy"
        assert "asked for a rebalance: postponed moves can take place" in text, "well before the delay is over"
        await send(5)
        await counted(app_id, broker, send.sent)
