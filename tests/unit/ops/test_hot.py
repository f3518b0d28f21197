"""The report of load: the heaviest are always in it, its memory is bounded, and its advice says what a move brings."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from rookery.ops.hot import HALF_LIFE, Load, SpaceSaving


def partition(address: str) -> int:
    return int(address.partition("/")[2]) % 12


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.floats(0.001, 5)), max_size=400), st.integers(1, 20), st.integers(1, 30)
)
def test_whatever_has_more_than_its_share_of_the_sketch_is_in_it(
    stream: list[tuple[int, float]], names: int, size: int
) -> None:
    sketch = SpaceSaving(names)
    exact: dict[str, float] = {}
    for start in range(0, len(stream), size):
        batch: dict[str, tuple[float, float]] = {}
        for number, weight in stream[start : start + size]:
            before, turns = batch.get(str(number), (0.0, 0.0))
            batch[str(number)] = before + weight, turns + 1
            exact[str(number)] = exact.get(str(number), 0.0) + weight
        sketch.merge(batch)
    top = {name: (weight, error) for name, weight, error, _ in sketch.top(1_000)}
    assert len(top) <= names
    total = sum(exact.values())
    for name, weight in exact.items():
        if weight > total / names + 1e-6:
            assert name in top
    for name, (weight, error) in top.items():
        assert exact[name] - 1e-6 <= weight
        assert weight - error <= exact[name] + 1e-6


def test_a_hot_agent_is_found_among_many() -> None:
    chance = random.Random(5)
    load = Load(partition, agents_max=50)
    turns = [(f"A/{chance.randrange(10_000)}", 0.001, 32) for _ in range(2_500)]
    turns += [("A/3", 0.5, 1)] * 400
    chance.shuffle(turns)
    load.take(turns, 0.0)
    hottest = load.agents(1)[0]
    assert (hottest.name, hottest.partition) == ("A/3", 3)
    assert 0.6 < hottest.seconds_share < 0.75
    assert load.partitions(1)[0].partition == 3
    assert "split the work" in load.advice()
    assert len(load.agents(1_000)) == 50


def test_a_hot_partition_of_many_agents_can_be_moved() -> None:
    load = Load(partition)
    load.take([(f"A/{n}", 0.1 if n % 12 == 5 else 0.01, 1) for n in range(100)], 0.0)
    assert "moving it away" in load.advice()


def test_even_load_needs_no_move() -> None:
    load = Load(partition)
    assert load.advice() == ""
    load.take([(f"A/{n}", 0.01, 1) for n in range(120)], 0.0)
    assert "even" in load.advice()


def test_what_was_hot_once_is_forgotten() -> None:
    load = Load(partition)
    load.take([("A/1", 100.0, 1)], 0.0)
    load.take([("A/2", 10.0, 1)], 20 * HALF_LIFE)
    assert load.agents(1)[0].name == "A/2"
