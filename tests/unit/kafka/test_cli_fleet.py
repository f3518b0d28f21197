"""What `rebalance` shows: moves with their reasons, suppositions, and what has changed between two fleets."""

from __future__ import annotations

from rookery.streams.core.fleet import Fleet, Share, Standing
from rookery.streams.kafka.cli_fleet import Move, described, plan, supposed

A, B = Standing("a", owned=(0, 1, 2, 3)), Standing("b")


def test_each_move_has_a_reason() -> None:
    shares, moves = plan({"1": A, "2": B}, 6, 0)
    assert shares == {"a": 3, "b": 3}
    assert moves == [
        Move(3, "a", "b", "the share of a is 3, it has 4"),
        Move(4, "", "b", "nobody owns it"),
        Move(5, "", "b", "nobody owns it"),
    ]


def test_a_move_that_waits_says_for_what() -> None:
    busy = Standing("a", owned=(0, 1), busy=(0, 1))
    assert [move.why for move in plan({"1": busy, "2": B}, 2, 0)[1]] == [
        "the share of a is 1, it has 2; later: long turns are in flight"
    ]
    idle = Standing("a", owned=(0, 1))
    assert [move.why for move in plan({"1": idle, "2": B}, 2, 1)[1]] == [
        "the share of a is 1, it has 2; later: the new copy has not caught up"
    ]


def test_a_drained_worker_gives_all_away_and_an_even_fleet_nothing() -> None:
    shares, moves = plan({"1": Standing("a", 0.0, owned=(0, 1)), "2": B}, 2, 0)
    assert shares == {"a": 0, "b": 2}
    assert {move.why for move in moves} == {"a is drained"}
    assert plan({"1": Standing("a", owned=(0,)), "2": Standing("b", owned=(1,))}, 2, 0)[1] == []


def test_suppositions_change_add_and_remove_workers() -> None:
    found = supposed({"1": A, "2": B}, {"a": 3.0, "c": 2.0}, ["b"])
    assert [(standing.name, standing.weight) for standing in found.values()] == [("a", 3.0), ("c", 2.0)]
    assert found["1"].owned == A.owned


def test_a_change_is_described_in_a_line() -> None:
    before = Fleet(1, (Share("a", 1.0, (0, 1)),))
    after = Fleet(2, (Share("a", 1.0, (0,)), Share("b", 2.0, (1,))), {0: "b"}, (0,))
    assert described(None, before) == "generation 1: a 2 (weight 1.00)"
    assert described(before, after) == (
        "generation 2: a 1 (weight 1.00), b 1 (weight 2.00); 1 moved (1: a -> b); "
        "1 move later, 1 of them once their copy has caught up"
    )
