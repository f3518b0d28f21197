"""The log below the engine: deleted stretches are counted losses, and another topic under the old name is refused."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

import pytest

from rookery.agents import Agent, handler
from rookery.schemas.envelope import Priority
from rookery.schemas.errors import WrongTopic
from rookery.schemas.journal import Claim
from rookery.schemas.partition_errors import WrongPosition
from rookery.streams.core.fold import JournalFold
from rookery.streams.engine.recovery import recover
from tests.unit.engine.harness import NOW_NS, Cluster, addresses, virtual

INBOX = "cluster.inbox.normal"


@dataclass
class Add:
    name: str
    seconds: float = 0.0


class Guest(Agent):
    got: list[str] = []  # noqa: RUF012 - state

    @handler
    async def add(self, msg: Add) -> None:
        await asyncio.sleep(msg.seconds)
        self.got.append(msg.name)


async def stopped(cluster: Cluster) -> None:
    """Nobody owns anything any more."""
    await cluster.settle()
    await asyncio.gather(*(worker.assign(set()) for worker in cluster.workers))


def lost(cluster: Cluster) -> list[tuple[str, int, int, int]]:
    return [(x.reason, x.partition, x.offset, x.last_offset) for x in cluster.dead_letters()]


@virtual
async def test_what_retention_deleted_while_nobody_was_there_is_a_counted_loss_told_once() -> None:
    (guest,) = addresses("Guest", 0, 1)
    async with Cluster(Guest) as cluster:
        cluster.post(guest, Add("a"))
        await stopped(cluster)
        for name in "bcde":
            cluster.post(guest, Add(name))
        cluster.log.truncate(INBOX, 0, 4)
        await cluster.assign([1, 1, 1, 1])
        await cluster.settle()
        assert cluster.state(guest).got == ["a", "e"]
        assert lost(cluster) == [("log-truncated", 0, 1, 3)]
        assert "deleted 3 unhandled records, offsets 1 to 3" in cluster.dead_letters()[0].error
        assert cluster.engine(1).statistics()["lost_records"] == 3
        await cluster.assign([0, 0, 0, 0])
        await cluster.settle()
        assert lost(cluster) == [("log-truncated", 0, 1, 3)]
        assert cluster.engine(0).statistics()["lost_records"] == 0


@virtual
async def test_what_was_deleted_before_the_first_start_is_a_loss_as_well() -> None:
    (guest,) = addresses("Guest", 0, 1)
    cluster = Cluster(Guest)
    for name in "abc":
        cluster.post(guest, Add(name))
    cluster.log.truncate(INBOX, 0, 2)
    async with cluster:
        assert cluster.state(guest).got == ["c"]
        assert lost(cluster) == [("log-truncated", 0, 0, 1)]
        assert "deleted 2 unhandled records, offsets 0 to 1" in cluster.dead_letters()[0].error
        await cluster.assign([1, 1, 1, 1])
        await cluster.settle()
        assert len(lost(cluster)) == 1


@virtual
async def test_a_lost_stretch_stays_open_until_its_letter_is_committed() -> None:
    """It needs a batch of its own here, and the worker loses its lease before that."""
    (guest,) = addresses("Guest", 0, 1)
    async with Cluster(Guest, batch_turns_max=1) as cluster:
        await stopped(cluster)
        for priority in (Priority.LOW, Priority.HIGH):
            for name in "abc":
                cluster.post(guest, Add(name), priority=priority)
            cluster.log.truncate(cluster.log.topics.inboxes[priority], 0, 3)
        await cluster.assign([1, 1, 1, 1])
        async with asyncio.timeout(1):
            while len(lost(cluster)) != 1:  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(0.0001)
        await cluster.assign([0, 0, 0, 0])
        await cluster.settle()
        # What was on its way is stored again.
        stretches = {(letter.topic, letter.offset, letter.last_offset) for letter in cluster.dead_letters()}
        assert stretches == {("cluster.inbox.low", 0, 2), ("cluster.inbox.high", 0, 2)}


@virtual
async def test_what_was_done_out_of_order_is_not_lost_with_the_rest() -> None:
    slow, quick = addresses("Guest", 0, 2)
    async with Cluster(Guest) as cluster:
        cluster.post(slow, Add("slow", seconds=1e6))
        cluster.post(quick, Add("quick"))
        await asyncio.sleep(2)
        await cluster.assign([1, 1, 1, 1], untold=[1])
        cluster.log.truncate(INBOX, 0, 2)
        await cluster.assign([1, 1, 1, 1])
        await cluster.settle()
        assert lost(cluster) == [("log-truncated", 0, 0, 0)]
        assert cluster.state(quick).got == ["quick"]
        assert cluster.engine(1).statistics()["lost_records"] == 1


@virtual
async def test_retention_that_overtakes_a_running_worker_is_a_counted_loss_and_no_hole() -> None:
    (guest,) = addresses("Guest", 0, 1)
    async with Cluster(Guest, window_max=100, ground_interval=3_600.0) as cluster:
        cluster.post(guest, Add("slow", seconds=100))
        for number in range(150):
            cluster.post(guest, Add(str(number)))
        await asyncio.sleep(1)
        fetched = cluster.ports[0].positions[0, 1]
        assert fetched == 151, "paused with a full window"
        for number in range(150, 160):
            cluster.post(guest, Add(str(number)))
        cluster.log.truncate(INBOX, 0, 156)
        await cluster.settle()
        assert cluster.state(guest).got == ["slow", *map(str, range(150)), *map(str, range(155, 160))]
        assert lost(cluster) == [("log-truncated", 0, 151, 155)]
        assert cluster.engine(0).statistics()["lost_records"] == 5


@virtual
async def test_an_empty_log_tells_of_its_loss_without_a_new_record() -> None:
    (guest,) = addresses("Guest", 0, 1)
    async with Cluster(Guest) as cluster:
        cluster.ports[0].pause(0, 1)
        cluster.post(guest, Add("a"))
        cluster.log.truncate(INBOX, 0, 1)
        await asyncio.sleep(cluster.settings.ground_interval * 1.1)
        await asyncio.sleep(1)
        assert lost(cluster) == [("log-truncated", 0, 0, 0)]


@virtual
async def test_an_inbox_that_was_made_again_stops_the_worker_even_after_it_has_outgrown_the_old_one() -> None:
    (guest,) = addresses("Guest", 0, 1)
    async with Cluster(Guest) as cluster:
        cluster.post(guest, Add("a"))
        await cluster.settle()
        cluster.log.recreate(INBOX)
        for number in range(5):
            cluster.post(guest, Add(f"new{number}"))
        await asyncio.sleep(cluster.settings.ground_interval * 1.1)
        for index in (0, 1):
            with pytest.raises(WrongTopic, match="deleted and made again"):
                cluster.failed(index).result()


@virtual
async def test_recovery_refuses_another_inbox_until_an_operator_accepts_it() -> None:
    (guest,) = addresses("Guest", 0, 1)
    async with Cluster(Guest) as cluster:
        for name in "ab":
            cluster.post(guest, Add(name))
        await stopped(cluster)
        cluster.log.recreate(INBOX)
        for name in "cdefg":
            cluster.post(guest, Add(name))
        first = await fresh_worker(cluster)
        await cluster.assign([first] * 4)
        await asyncio.sleep(60)
        for index in (0, 1):
            cluster.failed(index)  # they had known the old one
        with pytest.raises(WrongPosition, match=r"lane 1 was deleted.*topics accept"):
            cluster.failed(first).result()
        await cluster.workers[first].assign(set())

        for number in range(4):
            await accept(cluster, number)
        second = await fresh_worker(cluster)
        await cluster.assign([second] * 4)
        await cluster.settle()
        assert cluster.state(guest).got == ["a", "b", "c", "d", "e", "f", "g"]
        assert not cluster.engine(second).failed.done()


async def fresh_worker(cluster: Cluster) -> int:
    """One that starts now and knows only what is there now."""
    index = cluster.add_worker()
    await cluster.workers[index].start()
    return index


@virtual
async def test_an_end_below_the_position_is_refused_until_accepted() -> None:
    """Brokers that lost acknowledged records: new ones would be taken for those that are done."""
    (guest,) = addresses("Guest", 0, 1)
    async with Cluster(Guest) as cluster:
        for name in "ab":
            cluster.post(guest, Add(name))
        await stopped(cluster)
        del cluster.log._records[INBOX, 0][1:]
        await cluster.assign([1, 1, 1, 1])
        await asyncio.sleep(60)
        with pytest.raises(WrongPosition, match="done up to 2, but its inbox ends at 1"):
            cluster.failed(1).result()
        await asyncio.gather(*(worker.assign(set()) for worker in cluster.workers))
        for number in range(4):
            await accept(cluster, number)
        cluster.post(guest, Add("c"))
        await cluster.assign([0, 0, 0, 0])
        await cluster.settle()
        assert cluster.state(guest).got == ["a", "b", "c"]


async def accept(cluster: Cluster, number: int) -> None:
    """What `topics accept` does with one journal partition."""
    engine = cluster.engine(0)
    claim = Claim(generation=0, worker="operator", partitions=4)
    limits, inboxes = engine.inbound.limits, engine.router.topics.inboxes
    owned = await recover(engine.port, number, limits, claim, inboxes, JournalFold, afresh=True)
    await owned.rewrite()


@virtual
async def test_a_warning_comes_before_retention_bites(caplog: pytest.LogCaptureFixture) -> None:
    (guest,) = addresses("Guest", 0, 1)
    caplog.set_level(logging.WARNING)
    async with Cluster(Guest, inbox_retention=3_600.0, adopt_after=3_600.0) as cluster:
        now_ms = NOW_NS // 1_000_000
        cluster.post(guest, Add("slow", seconds=3_400), timestamp=now_ms)
        cluster.post(guest, Add("b"), timestamp=now_ms)
        await asyncio.sleep(1_000)
        assert cluster.engine(0).statistics()["retention_left"] == {1: pytest.approx(2_600, abs=31)}
        assert not caplog.records
        await asyncio.sleep(1_800)
        warnings = [r.getMessage() for r in caplog.records]
        assert len(warnings) == 1
        assert warnings[0].startswith("cluster.inbox.normal may delete its oldest unhandled record in ")
        await cluster.settle(2_000)
        await asyncio.sleep(60)
        assert cluster.engine(0).statistics()["retention_left"] == {}


@virtual
async def test_an_answer_that_took_its_time_is_no_shrunken_log() -> None:
    """The network was cut while the log was asked for its end; what came after it was read meanwhile."""
    (guest,) = addresses("Guest", 0, 1)
    async with Cluster(Guest, ground_interval=1.0) as cluster:
        port = cluster.ports[0]
        ask = port.inbox_bounds

        async def slow(partition: int) -> list[tuple[int, int]]:
            bounds = list(await ask(partition))
            await asyncio.sleep(2.0)
            return bounds

        port.inbox_bounds = slow  # type: ignore[method-assign]
        for number in range(200):
            cluster.post(guest, Add(str(number)))
            await asyncio.sleep(0.1)
        await cluster.settle()
        assert len(cluster.state(guest).got) == 200
        assert not cluster.engine(0).failed.done()
