"""Outbox and DestinationQueue: slots are reused only once sent, and a destination gets every message in order."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field

import pytest

from rookery.streams.core.outbox import Destination, DestinationQueue, Group, Message, Outbox
from tests.cases import quick

DESTINATIONS: list[Destination] = [("t", 0), ("t", 1), ("u", 0)]
OVERHEAD = 10
RUNS = 250


@dataclass
class Source:
    """A source partition as a naive model: what every slot holds, and which of its messages are not acknowledged."""

    name: int
    outbox: Outbox
    ring: list[int | None]  # place -> number of the slot that it holds
    unacked: dict[int, set[bytes]] = field(default_factory=dict)


class World:
    """Sources commit slots, destinations acknowledge batches or fail, partitions are dropped."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.sources = [self.source(name) for name in range(3)]
        self.queues = {destination: DestinationQueue() for destination in DESTINATIONS}
        self.expected: dict[Destination, list[tuple[Source, int, bytes]]] = defaultdict(list)
        self.count = 0

    def source(self, name: int) -> Source:
        ring = self.rng.randint(2, 4)
        return Source(name, Outbox(ring, next_slot=1, sent_through=0), [None] * ring)

    def commit(self, source: Source) -> None:
        outbox, rng = source.outbox, self.rng
        number = outbox.next_slot
        place = number % len(source.ring)
        old = source.ring[place]
        free = old is None or not any(source.unacked[n] for n in source.unacked if n <= old)
        assert outbox.has_room == free, "a slot may be written if and only if its old content was acknowledged"
        if not free:
            return
        source.ring[place] = number
        outbox.next_slot += 1
        groups: dict[Destination, list[Message]] = {}
        for _ in range(rng.randint(1, 5)):
            self.count += 1
            value = b"%d" % self.count + b"." * rng.randrange(30)
            groups.setdefault(rng.choice(DESTINATIONS), []).append((rng.choice([None, b"key"]), value))
        source.unacked[number] = {value for messages in groups.values() for _, value in messages}
        outbox.release(number, len(source.unacked[number]))
        for destination, messages in groups.items():
            self.queues[destination].put(Group(outbox, number, messages))
            self.expected[destination] += [(source, number, value) for _, value in messages]

    def ship(self, destination: Destination) -> None:
        queue, waiting = self.queues[destination], self.expected[destination]
        waiting[:] = [entry for entry in waiting if not entry[0].outbox.closed]
        bytes_max = self.rng.choice([1, 30, 60, 200])
        messages = queue.take(bytes_max, OVERHEAD)
        assert [value for _, value in messages] == [value for _, _, value in waiting[: len(messages)]]
        assert bool(messages) == bool(waiting)
        size = sum(len(value) + len(key or b"") + OVERHEAD for key, value in messages)
        assert size <= bytes_max or len(messages) == 1
        if self.rng.random() < 0.4:
            return  # failed, or its answer was lost: the same head is taken again
        if self.rng.random() < 0.1:
            self.drop(self.rng.choice(self.sources))  # while the batch was in flight
        queue.settle()
        for source, number, value in waiting[: len(messages)]:
            source.unacked[number].discard(value)
        del waiting[: len(messages)]

    def drop(self, source: Source) -> None:
        source.outbox.closed = True
        self.sources[source.name] = self.source(source.name)

    def check(self) -> None:
        for source in self.sources:
            unacked = [number for number, left in source.unacked.items() if left]
            assert source.outbox.sent_through == min(unacked, default=source.outbox.next_slot) - 1
            assert source.outbox.is_empty == (not unacked)


@pytest.mark.parametrize("seed", quick(range(4)))
def test_every_message_goes_once_in_commit_order_and_slots_wait_for_their_acks(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(RUNS // 4):
        world = World(rng)
        for _ in range(rng.randrange(80)):
            move = rng.random()
            if move < 0.5:
                world.commit(rng.choice(world.sources))
            elif move < 0.97:
                world.ship(rng.choice(DESTINATIONS))
            else:
                world.drop(rng.choice(world.sources))
            world.check()
        for destination in DESTINATIONS:
            for _ in range(1_000):
                if not world.expected[destination]:
                    break
                world.ship(destination)
            assert not world.queues[destination].take(100, OVERHEAD)
            assert not len(world.queues[destination])
        world.check()
        assert all(source.outbox.is_empty for source in world.sources)


def test_sent_through_waits_for_the_oldest_slot() -> None:
    outbox = Outbox(4, next_slot=4, sent_through=0)
    for number, count in ((1, 2), (2, 1), (3, 1)):
        outbox.release(number, count)
    outbox.acknowledge(3, 1)
    outbox.acknowledge(1, 1)
    assert outbox.sent_through == 0, "half of slot 1 is on its way"
    outbox.acknowledge(1, 1)
    assert outbox.sent_through == 1
    outbox.acknowledge(2, 1)
    assert outbox.sent_through == 3
    assert outbox.is_empty


def test_a_failed_batch_is_taken_again_from_the_same_head_even_with_another_bound() -> None:
    queue, outbox = DestinationQueue(), Outbox(4, next_slot=3, sent_through=0)
    messages: list[Message] = [(None, b"%d" % i) for i in range(6)]
    for number, part in ((1, messages[:4]), (2, messages[4:])):
        outbox.release(number, len(part))
        queue.put(Group(outbox, number, part))
    assert queue.take(22, 10) == messages[:2]  # cut: 11 bytes each
    assert queue.take(11, 10) == messages[:1]
    assert queue.take(1_000, 10) == messages
    queue.settle()
    assert outbox.sent_through == 2
