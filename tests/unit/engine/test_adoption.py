"""Long turns do not pin the inbox: their messages are parked in the journal, in order, bounded, over crashes."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from typing import ClassVar

import pytest

from rookery.agents import Agent, handler
from rookery.schemas.envelope import Priority
from tests.cases import quick
from tests.unit.engine.harness import Cluster, addresses, virtual


@dataclass
class Put:
    n: int
    seconds: float = 0.0


class Pile(Agent):
    """Counts, and knows whether everything came in order."""

    count: int = 0
    last: int = -1
    ordered: bool = True
    started: ClassVar[list[int]] = []

    @handler
    async def put(self, msg: Put) -> None:
        Pile.started.append(msg.n)
        if msg.seconds:
            await asyncio.sleep(msg.seconds)
        self.count += 1
        self.ordered = self.ordered and msg.n > self.last
        self.last = msg.n


@pytest.mark.slow
@virtual
async def test_a_ten_minute_handler_and_100_000_messages_leave_the_prefix_moving_and_memory_flat() -> None:
    async with Cluster(Pile, partitions=1, workers=1, window_max=5_000) as cluster:
        slow, *others = addresses("Pile", 0, 101, partitions=1)
        cluster.post(slow, Put(0, seconds=600))
        count = 0
        for burst in range(100):
            for _ in range(10):
                for other in others:
                    cluster.post(other, Put(count := count + 1))
            cluster.post(slow, Put(burst + 1))
            await asyncio.sleep(1)
            partition = cluster.engine(0).statistics()["partitions"][0]
            assert partition["window"][1] <= 5_000
        await asyncio.sleep(10)
        prefix = cluster.engine(0).committed(0, 1)
        assert prefix == 100_101
        assert cluster.engine(0).statistics()["partitions"][0]["parked"] == 101
        assert sum(cluster.state(other).count for other in others) == 100_000
        await cluster.settle(1_000)
        pile = cluster.state(slow)
        assert (pile.count, pile.ordered) == (101, True)
        assert cluster.engine(0).statistics()["partitions"][0]["parked"] == 0


@pytest.mark.parametrize("crash_at", quick([1.2, 5.0, 10.2, 0.2, 2.0, 2.6, 3.3, 9.9, 11.0], 3))
def test_order_is_kept_when_the_worker_dies_in_a_long_turn(crash_at: float) -> None:
    @virtual
    async def scenario() -> None:
        async with Cluster(Pile, adopt_after=1.0) as cluster:
            (slow,) = addresses("Pile", 0, 1)
            cluster.post(slow, Put(0, seconds=10))
            for n in range(1, 6):
                cluster.post(slow, Put(n))
            await asyncio.sleep(crash_at / 2)
            for n in range(6, 9):
                cluster.post(slow, Put(n))
            await asyncio.sleep(crash_at / 2)
            await cluster.kill(0)
            await cluster.assign([1, 1, 1, 1], untold=[0])
            for n in range(9, 12):
                cluster.post(slow, Put(n))
            await cluster.settle()
            pile = cluster.state(slow)
            assert (pile.count, pile.last, pile.ordered) == (12, 11, True)
            parked = [r for r in cluster.log.journals[0] if b"\x1fparked/" in r.key]
            assert {r.key for r in parked if r.value} == {r.key for r in parked if r.value is None}

    scenario()


@virtual
async def test_all_lanes_of_a_slow_agent_are_adopted() -> None:
    async with Cluster(Pile, adopt_after=1.0) as cluster:
        (slow,) = addresses("Pile", 0, 1)
        cluster.post(slow, Put(0, seconds=100), priority=Priority.LOW)
        await asyncio.sleep(0.5)
        for priority in Priority:
            cluster.post(slow, Put(1), priority=priority)
        await asyncio.sleep(5)
        assert [cluster.engine(0).committed(0, lane) for lane in range(3)] == [2, 1, 1]
        await cluster.settle()
        assert cluster.state(slow).count == 4


@virtual
async def test_what_does_not_fit_one_batch_is_adopted_by_the_next_ones() -> None:
    async with Cluster(Pile, adopt_after=1.0, batch_bytes_max=10_000, message_bytes_max=5_000) as cluster:
        (slow,) = addresses("Pile", 0, 1)
        cluster.post(slow, Put(0, seconds=100))
        for n in range(1, 201):
            cluster.post(slow, Put(n))
        await asyncio.sleep(5)
        assert cluster.engine(0).committed(0, 1) == 201
        await cluster.settle()
        pile = cluster.state(slow)
        assert (pile.count, pile.ordered) == (201, True)


@virtual
async def test_a_lane_is_bounded_and_refuses_what_is_over() -> None:
    async with Cluster(Pile, adopt_after=1.0, mailbox_max=10) as cluster:
        (slow,) = addresses("Pile", 0, 1)
        cluster.post(slow, Put(0, seconds=100))
        await asyncio.sleep(3)
        for n in range(1, 10):
            cluster.post(slow, Put(n))
        await asyncio.sleep(1)
        for n in range(10, 15):
            cluster.post(slow, Put(n))
        await cluster.settle()
        assert cluster.state(slow).count == 10
        letters = cluster.dead_letters()
        assert [letter.reason for letter in letters] == ["overloaded"] * 5
        assert "try again in 10 s" in letters[0].error


class Newborn(Agent):
    """Takes long to be spawned."""

    texts: list[str] = []  # noqa: RUF012 - state

    async def on_spawn(self) -> None:
        await asyncio.sleep(20)
        self.texts.append("born")

    @handler("note")
    async def note(self, msg: dict[str, str]) -> None:
        self.texts.append(msg["text"])


@virtual
async def test_a_spawn_that_was_adopted_still_goes_first_after_a_crash() -> None:
    async with Cluster(Newborn, partitions=1, adopt_after=1.0) as cluster:
        spawned, log = uuid.UUID(int=1, version=4).hex, cluster.log
        headers = [("content-type", b"application/json"), ("type", b"rookery.spawn")]
        record = (spawned.encode(), b'{"type": "Newborn", "args": []}')
        log.append(log.topics.inboxes[Priority.LOW], 0, [record], headers)
        await asyncio.sleep(0.5)
        cluster.post(spawned, {"type": "note", "text": "after"}, priority=Priority.HIGH)
        await asyncio.sleep(5)
        assert [cluster.engine(0).committed(0, lane) for lane in range(3)] == [1, 0, 1]
        await cluster.kill(0)
        await cluster.assign([1], untold=[0])
        await cluster.settle()
        assert not cluster.dead_letters()
        assert cluster.state(spawned).texts == ["born", "after"]


@virtual
async def test_a_begun_turn_whose_message_the_log_has_lost_holds_up_nobody() -> None:
    async with Cluster(Stepper) as cluster:
        (address,) = addresses("Stepper", 0, 1)
        cluster.post(address, {"type": "go"})
        await asyncio.sleep(1)
        assert cluster.engine(0).committed(0, 1) == 0
        await cluster.kill(0)
        cluster.log.truncate(cluster.log.topics.inboxes[1], 0, 1)
        await cluster.assign([1, 1, 1, 1], untold=[0])
        cluster.post(address, {"type": "note"})
        await cluster.settle()
        assert cluster.state(address).notes == 1
        assert [letter.reason for letter in cluster.dead_letters()] == ["log-truncated"]
        left = {r.key: r.value for r in cluster.log.journals[0] if b"\x1f" in r.key}
        assert set(left.values()) == {None}


class Stepper(Agent):
    notes: int = 0

    @handler("go")
    async def go(self, msg: dict[str, str]) -> None:
        await self.step("first", lambda: 1)
        await asyncio.sleep(1_000)

    @handler("note")
    async def note(self, msg: dict[str, str]) -> None:
        self.notes += 1


@dataclass
class Load:
    n: int
    text: str
    seconds: float = 0.0


class Porter(Pile):
    text: str = "x" * 3_000

    @handler
    async def load(self, msg: Load) -> None:
        await self.put(Put(msg.n, msg.seconds))


@pytest.mark.slow
@virtual
async def test_a_large_message_is_parked_although_others_fill_every_batch() -> None:
    async with Cluster(Porter, partitions=1, workers=1, batch_bytes_max=30_000, message_bytes_max=29_000) as cluster:
        slow, *others = addresses("Porter", 0, 9, partitions=1)
        cluster.post(slow, Load(0, "x" * 28_000, seconds=600))
        cluster.post(slow, Load(1, "x" * 28_000))
        for n in range(80_000):  # about seven seconds, in which each batch has turns of others in it
            cluster.post(others[n % 8], Put(n, 0.0007))
        await asyncio.sleep(5)
        assert cluster.engine(0).statistics()["partitions"][0]["parked"] == 2
        assert (cluster.engine(0).committed(0, 1) or 0) > 5_000
        await cluster.settle(1_000)
        assert (cluster.state(slow).count, cluster.state(slow).ordered) == (2, True)
