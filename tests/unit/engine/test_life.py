"""An agent's life: spawned (perhaps overtaken), brought to memory and out of it, stopped for good."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
import pytest

from rookery.agents import Agent, AgentManager, handler
from rookery.agents.errors import OutsideTurn
from rookery.schemas.address import partition_of
from rookery.schemas.envelope import JSON, Priority, encode_body, seal
from rookery.schemas.errors import AgentStopped
from rookery.schemas.system import SPAWN, Spawn
from rookery.streams.memory import MemoryLog
from rookery.testing import Kit
from tests.unit.engine.harness import Cluster, post, virtual

SPAWNED = "000000000001" + "4000" + "8000000000000001"[:16]


@dataclass
class Add:
    n: int
    seconds: float = 0.0


class Guest(Agent):
    """Counts, and writes down what becomes of it."""

    n: int = 0
    seen: list[int] = []  # noqa: RUF012 - state
    story: ClassVar[defaultdict[str, list[str]]] = defaultdict(list)
    linger: ClassVar[float] = 0.0

    async def on_spawn(self, n: int = 0) -> None:
        self.story[self.id].append("spawn")
        if n < 0:
            raise ValueError("too few")
        self.n = n

    async def on_activate(self) -> None:
        self.story[self.id].append("activate")

    async def on_passivate(self) -> None:
        self.story[self.id].append("passivate")
        await asyncio.sleep(self.linger)

    @handler
    async def add(self, msg: Add) -> int:
        await asyncio.sleep(msg.seconds)
        self.n += msg.n
        self.seen.append(msg.n)
        return self.n


@pytest.fixture(autouse=True)
def _new_story() -> None:
    Guest.story, Guest.linger = defaultdict(list), 0.0


def spawn(log: MemoryLog, target: str, *args: Any) -> None:
    """What spawn_agent sends."""
    message = msgspec.json.encode(Spawn("Guest", [msgspec.Raw(msgspec.json.encode(arg)) for arg in args]))
    body = encode_body("client:x", target, message, 1, Priority.HIGH, f"spawn-{target}", SPAWN, JSON)
    number = partition_of(target, log.partitions)
    log.append(log.topics.inboxes[Priority.HIGH], number, [(target.encode(), seal(body))])


def live(kit: Kit) -> int:
    """Agents in memory."""
    return sum(part["live"] for stats in kit.statistics() for part in stats["partitions"].values())


# -- passivation ------------------------------------------------------------------------------------------------------


@virtual
async def test_idle_agents_leave_memory_and_come_back_with_their_state_hooks_once_per_cycle() -> None:
    async with Kit(Guest, passivate_after=5.0) as kit:
        guest = kit.manager.get_agent("Guest/a")
        for cycle in range(1, 4):
            await guest.tell(Add(1))
            await guest.tell(Add(1))
            assert live(kit) == 1
            await asyncio.sleep(6)
            assert live(kit) == 0
            assert Guest.story["Guest/a"] == ["activate", "passivate"] * cycle
            assert guest.n == 2 * cycle


@virtual
async def test_an_agent_in_use_stays_and_one_in_a_turn_too() -> None:
    async with Kit(Guest, passivate_after=5.0) as kit:
        guest, busy = kit.manager.get_agent("Guest/a"), kit.manager.get_agent("Guest/b")
        turn = asyncio.create_task(busy.tell(Add(1, seconds=60)))
        for _ in range(15):
            post(kit.log, "Guest/a", Add(1))
            await asyncio.sleep(4)
            assert Guest.story == {"Guest/a": ["activate"], "Guest/b": ["activate"]}
        await turn
        assert (guest.n, busy.n) == (15, 1)


@virtual
async def test_too_many_agents_in_memory_leave_before_their_time() -> None:
    async with Kit(Guest, activations_max=10, passivate_after=86_400.0) as kit:
        for i in range(50):
            post(kit.log, f"Guest/{i}", Add(i))
        await kit.settle()
        await asyncio.sleep(2)
        assert live(kit) <= 10
        assert [kit.manager.get_agent(f"Guest/{i}").n for i in range(50)] == list(range(50))
        assert sum(story == ["activate", "passivate"] for story in Guest.story.values()) >= 40


class Walker(Agent):
    """Counts; nothing sees it come and go."""

    n: int = 0

    @handler
    async def add(self, msg: Add) -> int:
        await asyncio.sleep(msg.seconds)
        self.n += msg.n
        return self.n


@virtual
async def test_agents_that_find_no_room_leave_as_soon_as_they_are_committed_and_keep_their_state() -> None:
    async with Kit(Walker, partitions=2, activations_max=10, passivate_after=86_400.0) as kit:
        for _ in range(3):
            for i in range(400):
                post(kit.log, f"Walker/{i}", Add(i, seconds=0.001 * (i % 7 == 0)))
            await kit.settle()
            # Ten have room, and one in 32 of those that come afterwards stays until the longest idle ones are let go.
            assert live(kit) <= 10 + 1_200 // 32 + 2
        assert [kit.manager.get_agent(f"Walker/{i}").n for i in range(400)] == [3 * i for i in range(400)]


class Watched(Agent):
    """Can be looked at between its turns."""

    n: int = 0
    here: ClassVar[list[Agent]] = []

    @handler
    async def add(self, msg: Add) -> int:
        self.here[:] = [self]
        assert self.message.type == "Add"
        if msg.seconds:
            await asyncio.sleep(msg.seconds)
        if msg.n < 0:
            raise ValueError("too few")
        self.n += msg.n
        return self.n


@virtual
@pytest.mark.parametrize("msg", [Add(1), Add(1, 0.1), Add(-1), Add(-1, 0.1)])
async def test_an_agent_keeps_no_message_between_its_turns(msg: Add) -> None:
    async with Kit(Watched, partitions=1) as kit:
        post(kit.log, "Watched/a", msg)
        await kit.settle()
        (agent,) = Watched.here
        with pytest.raises(OutsideTurn, match="message of agent"):
            _ = agent.message


class Leaver(Walker):
    """Is told before it leaves."""

    left: ClassVar[list[int]] = []

    async def on_passivate(self) -> None:
        self.left.append(self.n)


@virtual
async def test_an_agent_that_is_told_before_it_leaves_stays_until_then_however_little_room_there_is() -> None:
    Leaver.left.clear()
    async with Kit(Leaver, partitions=1, activations_max=10, passivate_after=86_400.0) as kit:
        for i in range(50):
            post(kit.log, f"Leaver/{i}", Add(i + 1))
        await kit.settle()
        assert (live(kit), Leaver.left) == (50, [])
        await asyncio.sleep(2)
        assert live(kit) == 10
        assert sorted(Leaver.left) == list(range(1, 41))


class Named(Agent):
    """Its name is drawn when it is made; nothing changes it."""

    name: str = msgspec.field(default_factory=lambda: uuid.uuid4().hex)

    @handler
    async def add(self, msg: Add) -> str:
        return self.name


@virtual
async def test_an_agent_without_a_record_is_not_made_anew_for_each_message_however_little_room_there_is() -> None:
    async with Kit(Named, partitions=1, activations_max=1, passivate_after=86_400.0) as kit:
        await kit.manager.get_agent("Named/first").ask(Add(1))
        agent = kit.manager.get_agent("Named/a")
        assert len({await agent.ask(Add(1)) for _ in range(40)}) == 1


@virtual
async def test_an_agent_that_is_written_to_often_finds_room_in_the_end() -> None:
    async with Kit(Walker, partitions=1, activations_max=20, passivate_after=86_400.0) as kit:
        for round_number in range(40):
            for i in range(25):
                post(kit.log, f"Walker/{round_number}-{i}", Add(1))
            post(kit.log, "Walker/often", Add(1))
            await kit.settle()
            await asyncio.sleep(0.6)  # the longest idle leave
        (partition,) = kit._workers[0].engine.running_partitions()
        assert "Walker/often" in partition.mailboxes
        assert live(kit) <= 20
        assert kit.manager.get_agent("Walker/often").n == 40


@virtual
async def test_those_that_were_used_last_stay_whatever_their_partition() -> None:
    async with Kit(Guest, activations_max=10, passivate_after=86_400.0) as kit:
        for i in range(50):
            post(kit.log, f"Guest/{i}", Add(i))
            await asyncio.sleep(0.1)
        await asyncio.sleep(2)
        gone = [i for i in range(50) if "passivate" in Guest.story[f"Guest/{i}"]]
        assert gone == list(range(40))


@virtual
async def test_what_arrives_while_an_agent_leaves_waits_for_the_hook_and_brings_it_back() -> None:
    Guest.linger = 3.0
    async with Kit(Guest, passivate_after=5.0) as kit:
        guest = kit.manager.get_agent("Guest/a")
        await guest.tell(Add(1))
        await asyncio.sleep(6)
        assert Guest.story["Guest/a"] == ["activate", "passivate"]
        await guest.tell(Add(2))
        assert Guest.story["Guest/a"] == ["activate", "passivate", "activate"]
        assert guest.seen == [1, 2]


# -- spawning ---------------------------------------------------------------------------------------------------------


@virtual
async def test_messages_that_overtake_the_spawn_wait_for_it_in_order() -> None:
    async with Kit(Guest, spawn_wait=10.0) as kit:
        for n in (1, 2):
            post(kit.log, SPAWNED, Add(n))
        post(kit.log, SPAWNED, Add(3), priority=Priority.HIGH)
        await asyncio.sleep(9)
        assert Guest.story == {}
        spawn(kit.log, SPAWNED, 100)
        await kit.settle()
        guest = kit.manager.get_agent(SPAWNED)
        assert guest.n == 106
        assert Counter(guest.seen) == Counter([1, 2, 3])
        assert guest.seen.index(1) < guest.seen.index(2)
        assert Guest.story[SPAWNED] == ["activate", "spawn"]
        assert kit.dead_letters() == []


@virtual
async def test_messages_whose_spawn_never_comes_become_dead_letters_after_spawn_wait() -> None:
    async with Kit(Guest, spawn_wait=10.0) as kit:
        originals = [post(kit.log, SPAWNED, Add(n)) for n in (1, 2)]
        await asyncio.sleep(9)
        assert kit.dead_letters() == []
        await asyncio.sleep(2)
        assert [(letter.reason, letter.value) for letter in kit.dead_letters()] == [
            ("not-spawned", original) for original in originals
        ]
        spawn(kit.log, SPAWNED)  # late, but not refused
        await kit.settle()
        assert kit.manager.get_agent(SPAWNED).n == 0


@virtual
async def test_waiting_for_a_spawn_survives_the_worker() -> None:
    """The wait begins anew with the next owner; nothing is lost, nothing handled before the spawn."""
    async with Cluster(Guest, spawn_wait=10.0) as cluster:
        cluster.post(SPAWNED, Add(1))
        await asyncio.sleep(5)
        await cluster.assign([1, 0, 1, 0])
        await asyncio.sleep(7)
        spawn(cluster.log, SPAWNED, 10)
        await cluster.settle()
        assert cluster.state(SPAWNED).n == 11
        assert cluster.dead_letters() == []


@virtual
async def test_a_spawned_agent_is_found_by_its_id_after_it_left_memory() -> None:
    async with Kit(Guest, passivate_after=1.0) as kit:
        manager = AgentManager()
        guest = manager.get_agent(await manager.spawn_agent(Guest, 5))
        await asyncio.sleep(3)
        assert live(kit) == 0
        assert await guest.ask(Add(1)) == 6


# -- stopping ---------------------------------------------------------------------------------------------------------


@virtual
async def test_a_stopped_agent_refuses_later_messages_and_leaves_no_state() -> None:
    async with Kit(Guest, spawn_wait=1.0, passivate_after=5.0) as kit:
        manager = AgentManager()
        spawned = await manager.spawn_agent(Guest, 5)
        guest = manager.get_agent(spawned)
        await guest.tell(Add(1))
        await manager.stop_agent(spawned)
        assert Guest.story[spawned] == ["activate", "spawn", "passivate"]
        with pytest.raises(AgentStopped):
            await guest.ask(Add(2))
        await guest.tell(Add(3))
        await asyncio.sleep(10)
        await guest.tell(Add(4))
        assert [letter.reason for letter in kit.dead_letters()] == ["agent-stopped", "agent-stopped", "not-spawned"]
        assert Guest.story[spawned] == ["activate", "spawn", "passivate"]
        number = partition_of(spawned, 4)
        last = {record.key: record.value for record in kit.log.journals[number]}
        assert last[spawned.encode()] is None, "retired, then removed"


@virtual
async def test_messages_behind_a_stop_are_refused_those_before_it_are_handled() -> None:
    async with Cluster(Guest, workers=1) as cluster:
        cluster.post("Guest/a", Add(1, seconds=1))
        cluster.post("Guest/a", Add(2))
        await asyncio.sleep(0.1)
        cluster.post("Guest/a", {"type": "rookery.stop"})
        cluster.post("Guest/a", Add(3))
        await cluster.settle()
        assert [letter.reason for letter in cluster.dead_letters()] == ["agent-stopped"]
