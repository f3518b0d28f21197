"""Placement: the textbook sequence, shares in proportion, and ids that hash to the worker whose turn it is."""

from __future__ import annotations

import random
import uuid
from collections import Counter

from rookery.schemas.address import partition_of
from rookery.streams.core.fleet import Fleet, Share
from rookery.streams.core.placement import Placement, SmoothRoundRobin


def seeded(seed: int = 1) -> random.Random:
    return random.Random(seed)


def placed(fleet: Fleet, partitions: int, count: int) -> list[int]:
    """Partitions of so many minted ids."""
    chance = seeded()
    placement = Placement(partitions, lambda: uuid.UUID(int=chance.getrandbits(128), version=4).hex)
    placement.know(fleet)
    ids = [placement.new_agent_id() for _ in range(count)]
    assert all(uuid.UUID(agent).version == 4 and len(agent) == 32 for agent in ids)
    return [partition_of(agent, partitions) for agent in ids]


def test_weights_5_1_1_give_the_textbook_sequence() -> None:
    robin = SmoothRoundRobin()
    robin.set({"a": 5, "b": 1, "c": 1})
    assert [robin.pick() for _ in range(14)] == list("aabacaa") * 2


def test_nobody_is_picked_where_nobody_has_a_weight() -> None:
    robin = SmoothRoundRobin()
    assert robin.pick() is None
    robin.set({"a": 0})
    assert robin.pick() is None


def test_new_weights_keep_the_place_in_the_round() -> None:
    robin = SmoothRoundRobin()
    robin.set({"a": 1, "b": 1})
    assert robin.pick() == "a"
    robin.set({"a": 1, "b": 1, "c": 1})
    assert [robin.pick() for _ in range(3)] == ["b", "c", "a"]


def test_agents_go_to_workers_in_the_textbook_sequence() -> None:
    fleet = Fleet(1, (Share("a", 5.0, (0, 1, 2, 3)), Share("b", 1.0, (4,)), Share("c", 1.0, (5,))))
    worker_of = {p: share.name for share in fleet.workers for p in share.owned}
    assert [worker_of[p] for p in placed(fleet, 6, 14)] == list("aabacaa") * 2


def test_the_partitions_of_a_worker_are_used_alike() -> None:
    fleet = Fleet(1, (Share("a", 1.0, tuple(range(10))), Share("b", 1.0, (10, 11))))
    counts = Counter(placed(fleet, 12, 4_000))
    assert sum(counts[p] for p in (10, 11)) == 2_000
    assert all(150 < counts[p] < 250 for p in range(10))


def test_one_partition_of_many_is_found() -> None:
    fleet = Fleet(1, (Share("a", 1.0, (77,)),))
    assert set(placed(fleet, 500, 20)) == {77}


def test_without_weights_ids_are_as_they_come() -> None:
    drained = Fleet(1, (Share("a", 0.0, (0,)), Share("b", 1.0, ())))
    for fleet in (Fleet(), drained):
        assert len(set(placed(fleet, 50, 500))) == 50
