"""Who owns a partition changes at any moment: nothing is lost, nothing is doubled, and one writer is accepted."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import pytest

from rookery.agents import Agent, handler
from rookery.schemas.address import partition_of
from rookery.schemas.envelope import Priority
from tests.cases import quick
from tests.unit.engine.harness import Cluster, addresses, virtual

NODES = 12


@dataclass
class Token:
    name: str
    hops: int
    seconds: float = 0.0


class Node(Agent):
    """Writes down each token and passes it on: what all have in the end follows from what was posted."""

    got: list[str] = []  # noqa: RUF012 - state
    started: ClassVar[Counter[str]] = Counter()
    cancelled: ClassVar[Counter[str]] = Counter()

    @handler
    async def token(self, msg: Token) -> None:
        Node.started[msg.name] += 1
        try:
            await asyncio.sleep(msg.seconds)
        except asyncio.CancelledError:
            Node.cancelled[msg.name] += 1
            raise
        self.got.append(msg.name)
        if msg.hops:
            number = int(self.id.partition("/")[2])
            priority = Priority((number + msg.hops) % 3)
            for i, step in enumerate((1, 5)[: 1 + msg.hops % 2]):
                token = Token(f"{msg.name}.{i}", msg.hops - 1, msg.seconds)
                self.send(f"Node/{(number + step) % NODES}", token, priority=priority)


@pytest.fixture(autouse=True)
def _fresh_counts() -> None:
    Node.started, Node.cancelled = Counter(), Counter()


def expected(number: int, token: Token, totals: dict[int, Counter[str]]) -> None:
    """What a token posted to a node leads to."""
    totals[number][token.name] += 1
    if token.hops:
        for i, step in enumerate((1, 5)[: 1 + token.hops % 2]):
            expected((number + step) % NODES, Token(f"{token.name}.{i}", token.hops - 1), totals)


class Load:
    """Tokens posted so far, and what has to come of them."""

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        self.cluster, self.rng, self.count = cluster, rng, 0
        self.totals: dict[int, Counter[str]] = {number: Counter() for number in range(NODES)}

    def post(self, count: int) -> None:
        for _ in range(count):
            self.count += 1
            token = Token(f"t{self.count}", self.rng.randrange(4), self.rng.choice([0.0, 0.0, 0.01, 0.3]))
            number = self.rng.randrange(NODES)
            self.cluster.post(f"Node/{number}", token, priority=Priority(self.rng.randrange(3)))
            expected(number, token, self.totals)

    def check(self) -> None:
        got = {number: Counter(self.cluster.state(f"Node/{number}").got) for number in range(NODES)}
        assert got == self.totals
        assert self.cluster.dead_letters() == []


@virtual
async def test_a_lost_partition_cancels_its_turns_and_the_new_owner_runs_them_again() -> None:
    lost, kept = addresses("Node", 0, 1)[0], addresses("Node", 2, 1)[0]
    async with Cluster(Node) as cluster:
        for address in (lost, kept):
            cluster.post(address, Token(address, 0, seconds=10))
        await asyncio.sleep(5)
        await cluster.assign([1, 1, 0, 1])
        await asyncio.sleep(1)
        assert Node.cancelled == {lost: 1}
        await cluster.settle()
        assert Node.started == {lost: 2, kept: 1}, "the kept partition's turn went on"
        assert cluster.state(lost).got == [lost]
        assert cluster.state(kept).got == [kept]
        assert cluster.engine(0).counts["recoveries"] == 2, "at the start; the kept one is not recovered again"
        assert cluster.engine(0).counts["lost_leases"] == 0


@virtual
async def test_kept_partitions_stay_with_their_memory_through_many_rebalances() -> None:
    async with Cluster(Node) as cluster:
        load = Load(cluster, random.Random(1))
        for _ in range(20):
            load.post(20)
            await asyncio.sleep(0.01)
            await cluster.assign(cluster.owners)
        await cluster.settle()
        load.check()
        assert sum(cluster.engine(i).counts["recoveries"] for i in (0, 1)) == 4
        assert max(Node.started.values()) == 1


@pytest.mark.parametrize("seed", quick(range(4)))
@virtual
async def test_totals_are_exact_whatever_moves_in_the_middle_of_turns(seed: int) -> None:
    rng = random.Random(seed)
    async with Cluster(Node, outbox_ring=rng.choice([2, 64]), batch_turns_max=rng.choice([1, 5, 5_000])) as cluster:
        load = Load(cluster, rng)
        for _ in range(25):
            load.post(rng.randrange(20))
            await asyncio.sleep(rng.choice([0.0, 0.001, 0.004, 0.05, 0.5]))
            for port in cluster.ports:
                port.lost_sends = rng.randrange(3)
                port.lost_answers = rng.randrange(3)
            if rng.random() < 0.7:
                await cluster.assign([rng.choice([owner, 0, 1]) for owner in cluster.owners])
        await cluster.settle()
        load.check()
        assert sum(Node.started.values()) > sum(map(len, load.totals.values())), "turns were run again"
        assert sum(port.fired["lost_answers"] for port in cluster.ports) > 3


@pytest.mark.parametrize("seed", quick(range(4)))
@virtual
async def test_a_worker_that_was_not_told_is_fenced_and_totals_are_exact(seed: int) -> None:
    """It goes on fetching, running turns and appending; nothing of it is accepted or sent."""
    rng = random.Random(seed)
    async with Cluster(Node) as cluster:
        load = Load(cluster, rng)
        for _ in range(6):
            load.post(20)
            await asyncio.sleep(rng.choice([0.0, 0.003, 0.4]))
            zombie = rng.randrange(2)
            await cluster.assign([1 - zombie] * 4, untold=[zombie])
            load.post(20)
            await asyncio.sleep(rng.choice([0.003, 0.4]))
            await cluster.settle()
            await cluster.assign([0, 1, 0, 1])  # it wakes up and hears
            await cluster.settle()
        load.check()
        assert sum(cluster.engine(i).counts["lost_leases"] for i in (0, 1)) > 0, "refused appends are counted"


@virtual
async def test_a_zombies_append_is_refused_and_it_stays_away() -> None:
    async with Cluster(Node, adopt_after=60.0) as cluster:
        (address,) = addresses("Node", 0, 1)
        cluster.post(address, Token("slow", 1, seconds=5))
        await asyncio.sleep(1)
        await cluster.assign([1, 1, 1, 1], untold=[0])
        await cluster.settle()
        await asyncio.sleep(10)  # the zombie's turn has ended, too, and tried to commit
        assert Node.started["slow"] == 2
        assert Node.cancelled == {}
        assert cluster.state(address).got == ["slow"]
        zombie = cluster.engine(0)
        assert zombie.counts["lost_leases"] >= 1
        assert zombie.statistics()["partitions"][0] == {"phase": "confirming"}
        assert zombie.counts["recoveries"] == 2, "the group did not confirm the partition, so it didn't take it back"
        number = partition_of("Node/0", 4)
        assert cluster.engine(1)._partition(number) is not None


@virtual
async def test_a_lease_that_was_taken_without_need_is_recovered() -> None:
    """Another claim came in between, but the group says that the partition is still ours."""
    async with Cluster(Node) as cluster:
        load = Load(cluster, random.Random(3))
        load.post(40)
        await asyncio.sleep(0.02)
        for number in range(4):
            lease = await cluster.ports[1].acquire(number)
            await lease.append([(b"~claim", cluster.log.journals[number][0].value)], None)
        load.post(40)
        await cluster.settle()
        load.check()
        assert sum(cluster.engine(i).counts["lost_leases"] for i in (0, 1)) == 4
        assert sum(cluster.engine(i).counts["recoveries"] for i in (0, 1)) == 8


@virtual
async def test_a_kept_partition_that_somebody_wrote_to_is_recovered_at_the_rebalance() -> None:
    """Away and back between two of its heartbeats: a worker that slept learns it from the journal's end."""
    async with Cluster(Node) as cluster:
        load = Load(cluster, random.Random(4))
        load.post(20)
        await cluster.settle()
        await cluster.assign([1, 1, 1, 1], untold=[0])
        load.post(20)
        await cluster.settle()
        await cluster.assign([0, 1, 0, 1])
        load.post(20)
        await cluster.settle()
        load.check()


@virtual
async def test_committed_messages_that_could_not_be_sent_are_sent_by_the_next_owner() -> None:
    async with Cluster(Node) as cluster:
        (address,) = addresses("Node", 0, 1)
        cluster.ports[0].cut_off = True
        cluster.post(address, Token("t", 1))
        await asyncio.sleep(1)
        assert cluster.state(address).got == ["t"]
        journal = [record.key for record in cluster.log.journals[0]]
        assert b"~out/1" in journal
        assert Node.started == {"t": 1}
        await cluster.assign([1, 1, 1, 1])
        await cluster.settle()
        assert Node.started == {"t": 1, "t.0": 1, "t.1": 1}


@virtual
async def test_a_full_ring_stops_what_sends_until_the_target_can_be_reached_again() -> None:
    async with Cluster(Node, workers=1, outbox_ring=2) as cluster:
        sender, quiet = addresses("Node", 0, 2)
        cluster.ports[0].cut_off = True
        for i in range(10):
            cluster.post(sender, Token(f"s{i}", 1))
            await asyncio.sleep(0.1)
        cluster.post(quiet, Token("q", 0))
        await asyncio.sleep(5)
        assert cluster.state(sender).got == ["s0", "s1"]
        assert cluster.state(quiet).got == ["q"]
        statistics = cluster.engine(0).statistics()
        assert statistics["partitions"][0]["unsent_slots"] == 2
        assert statistics["shipping"]["retries"] > 0
        cluster.ports[0].cut_off = False
        await cluster.settle()
        assert cluster.state(sender).got == [f"s{i}" for i in range(10)]
        assert Node.started == {
            **{f"s{i}": 1 for i in range(10)},
            "q": 1,
            **{f"s{i}.{j}": 1 for i in range(10) for j in (0, 1)},
        }


@virtual
async def test_a_lease_is_renewed_in_time_and_the_position_rewritten() -> None:
    async with Cluster(Node, workers=1, partitions=1, lease_renewal=360.0, position_refresh=60.0) as cluster:
        load = Load(cluster, random.Random(5))
        load.post(20)
        await cluster.settle()
        end = len(cluster.log.journals[0])
        await asyncio.sleep(350)
        assert len(cluster.log.journals[0]) - end == 5
        assert cluster.log.epochs == [1]
        await asyncio.sleep(360)
        assert cluster.log.epochs == [2]
        load.post(20)
        await cluster.settle()
        load.check()


@virtual
async def test_draining_finishes_what_is_in_hand_and_takes_nothing_new() -> None:
    async with Cluster(Node, workers=1) as cluster:
        cluster.post("Node/1", Token("first", 0, seconds=1))
        await asyncio.sleep(0.5)
        drain = asyncio.create_task(cluster.engine(0).drain(timeout=5))
        await asyncio.sleep(0.1)
        cluster.post("Node/2", Token("late", 0))
        assert await drain
        assert Node.started == {"first": 1}
        assert cluster.state("Node/1").got == ["first"]
