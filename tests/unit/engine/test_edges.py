"""Corners where what is in memory and what is in the journal must not disagree."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

import pytest

from rookery.agents import Agent, handler
from rookery.ops.settings import BROKER_BATCH_BYTES
from rookery.schemas.address import partition_of
from rookery.schemas.envelope import seal
from rookery.schemas.errors import AgentError
from rookery.streams.kafka.topics import DEAD_LETTER_EXTRA_BYTES
from rookery.testing import Kit
from tests.unit.engine.harness import Cluster, addresses, post, virtual


@dataclass
class Add:
    n: int
    seconds: float = 0.0


class Guest(Agent):
    """Counts, and writes down what becomes of it."""

    n: int = 0
    story: ClassVar[defaultdict[str, list[str]]] = defaultdict(list)

    async def on_spawn(self, n: int = 0) -> None:
        self.story[self.id].append("spawn")
        if n < 0:
            raise ValueError("too few")

    async def on_activate(self) -> None:
        self.story[self.id].append("activate")

    async def on_passivate(self) -> None:
        self.story[self.id].append("passivate")

    @handler
    async def add(self, msg: Add) -> int:
        await asyncio.sleep(msg.seconds)
        self.n += msg.n
        return self.n


@pytest.fixture(autouse=True)
def _new_story() -> None:
    Guest.story = defaultdict(list)


@virtual
async def test_an_agent_idles_from_the_end_of_its_last_turn_on() -> None:
    """Else an agent whose turns take longer than `passivate_after` is loaded anew for each of them."""
    async with Kit(Guest, passivate_after=5.0) as kit:
        for _ in range(2):
            await kit.manager.get_agent("Guest/a").tell(Add(1, seconds=20))
            await asyncio.sleep(2)
        assert Guest.story["Guest/a"] == ["activate"]


@virtual
async def test_an_agent_whose_on_spawn_failed_was_not_spawned() -> None:
    """Neither at once, while the failed one is in memory, nor later."""
    async with Kit(Guest, passivate_after=1.0, spawn_wait=2.0) as kit:
        with pytest.raises(AgentError, match="too few"):
            await kit.manager.spawn_agent(Guest, -1)
        (spawned,) = Guest.story
        guest = kit.manager.get_agent(spawned)
        await guest.tell(Add(1))
        await asyncio.sleep(5)
        await guest.tell(Add(1))
        assert [letter.reason for letter in kit.dead_letters()] == ["handler-failed", "not-spawned", "not-spawned"]


@virtual
async def test_a_retired_agent_is_removed_by_the_next_owner_too() -> None:
    """The stop is committed, but a message before it is in flight when the worker goes: no record may stay for ever."""
    number = partition_of("Guest/a", 4)
    slow = next(f"Guest/{i}" for i in range(100) if partition_of(f"Guest/{i}", 4) == number)
    async with Cluster(Guest) as cluster:
        cluster.post(slow, Add(1, seconds=5))
        cluster.post("Guest/a", Add(1))
        cluster.post("Guest/a", {"type": "rookery.stop"})
        await asyncio.sleep(1)
        await cluster.assign([1 - owner for owner in cluster.owners])
        await cluster.settle()
        await asyncio.sleep(120)
        last = {record.key: record.value for record in cluster.log.journals[number]}
        assert last[b"Guest/a"] is None


@virtual
async def test_a_handler_that_swallows_its_cancellation_leaves_no_trace_in_the_runner() -> None:
    """The runner goes on with other agents: to their task groups and timeouts it must look fresh."""
    left: list[int] = []

    class Stubborn(Agent):
        @handler
        async def add(self, msg: Add) -> None:
            try:
                await asyncio.sleep(msg.seconds)
            except asyncio.CancelledError:
                await asyncio.sleep(0.1)
            task = asyncio.current_task()
            assert task is not None
            if not msg.seconds:
                left.append(task.cancelling())

    lost, kept = addresses("Stubborn", 0, 1)[0], addresses("Stubborn", 1, 20)
    async with Cluster(Stubborn, workers=1) as cluster:
        other = cluster.add_worker()
        await cluster.workers[other].start()
        cluster.post(lost, Add(1, seconds=60))
        await asyncio.sleep(1)
        await cluster.assign([other, 0, 0, 0])
        await asyncio.sleep(1)
        for address in kept:
            cluster.post(address, Add(1))
        await asyncio.sleep(1)
        assert left == [0] * len(kept)


@virtual
async def test_a_handler_that_turns_its_cancellation_into_an_error_is_no_dead_letter() -> None:
    class Angry(Agent):
        @handler
        async def add(self, msg: Add) -> None:
            try:
                await asyncio.sleep(msg.seconds)
            except asyncio.CancelledError:
                raise ValueError("how dare you") from None

    async with Cluster(Angry) as cluster:
        cluster.post("Angry/a", Add(1, seconds=5))
        await asyncio.sleep(1)
        await cluster.assign([1 - owner for owner in cluster.owners])
        await cluster.settle()
        assert cluster.dead_letters() == []
        assert [engine.dead_letters.counts for engine in map(cluster.engine, (0, 1))] == [{}, {}]


@virtual
async def test_the_largest_record_that_a_plain_client_can_write_becomes_a_dead_letter_that_fits_its_topic() -> None:
    """A commit batch larger than its topic takes is refused for ever, and the partition with it."""
    async with Kit(Guest, partitions=1) as kit:
        kit.log.append("kit.inbox.normal", 0, [(b"Guest/a", b"x" * (BROKER_BATCH_BYTES - 100))])
        await kit.settle()
        journal = kit.log.journals[0]
        largest = max(len(record.key) + len(record.value or b"") for record in journal)
        assert largest <= kit.settings.topic_bytes_max + DEAD_LETTER_EXTRA_BYTES


@virtual
async def test_a_record_from_more_source_partitions_than_there_are_is_decided_the_same_after_a_restart() -> None:
    async with Cluster(Guest) as cluster:
        number = partition_of("Guest/a", 4)
        value = post(cluster.log, "Guest/a", Add(1), id="same")
        body = value[:-5]
        forged = seal(body, source=77, sequence=5)
        cluster.log.append("cluster.inbox.high", number, [(b"Guest/a", forged)])
        await cluster.settle()
        before = cluster.state("Guest/a").n
        await cluster.assign([1 - owner for owner in cluster.owners])
        await cluster.settle()
        cluster.log.append("cluster.inbox.high", number, [(b"Guest/a", forged)])
        await cluster.settle()
        assert cluster.state("Guest/a").n == before, "its id is in the window"
