"""assign(): total, proportional, sticky, deterministic, the least movement, copies elsewhere, no move that hurts."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rookery.streams.core import assign as module
from rookery.streams.core.assign import Assignment, Member, assign, quotas

WEIGHTS = st.one_of(st.just(0.0), st.floats(0.01, 1.0), st.sampled_from([1.0, 2.0, 3.0]))
PLACES = st.sampled_from(
    [("z1", "r1", "h1"), ("z1", "r1", "h2"), ("z1", "r2", "h3"), ("z2", "r3", "h4"), ("z2", "r3", "h5")]
)


@st.composite
def groups(draw: st.DrawFn, members_max: int = 50, partitions_max: int = 500) -> tuple[list[Member], int, int]:
    """Members with a past: some partitions owned, some orphans, some in flight, some claimed by a zombie, too."""
    partitions = draw(st.integers(1, partitions_max))
    standbys = draw(st.integers(0, 2))
    labelled = draw(st.booleans())
    chance = random.Random(draw(st.integers(0, 2**32)))
    members = []
    orphans = chance.choice([0.0, 0.1, 1.0])
    count = draw(st.integers(1, members_max))
    owned: dict[int, set[int]] = {}
    for p in range(partitions):
        if chance.random() >= orphans:
            owned.setdefault(chance.randrange(count), set()).add(p)
    for i in range(count):
        mine = owned.get(i, set())
        copies = {p for p in range(partitions) if chance.random() < 0.1} - mine if standbys else set()
        busy = {p for p in mine if chance.random() < 0.3}
        members.append(
            Member(
                f"m{i}",
                draw(WEIGHTS),
                limit=draw(st.none() | st.integers(0, partitions)),
                owned=frozenset(mine),
                generation=7,
                busy=frozenset(busy),
                overdue=frozenset(p for p in busy if chance.random() < 0.2),
                copies=frozenset(copies),
                warm=frozenset(p for p in copies if chance.random() < 0.7),
                place=draw(PLACES) if labelled else (),
            )
        )
    return members, partitions, standbys


def after(members: list[Member], found: Assignment) -> list[Member]:
    """The same members once they have what they were assigned, and their copies have caught up."""
    return [
        replace(
            m, owned=found.of(m.name), generation=8, busy=frozenset(), overdue=frozenset(),
            copies=found.copies_of(m.name), warm=found.copies_of(m.name),
        )
        for m in members
    ]  # fmt: skip


def in_force(members: list[Member]) -> list[float]:
    """Weights, all alike when all are 0."""
    return [m.weight for m in members] if any(m.weight for m in members) else [1.0] * len(members)


@given(groups())
def test_every_partition_has_one_owner_and_limits_hold(group: tuple[list[Member], int, int]) -> None:
    members, partitions, standbys = group
    found = assign(members, partitions, standbys=standbys)
    names = {m.name for m in members}
    assert len(found.owners) == len(found.targets) == len(found.standbys) == partitions
    assert set(found.owners) | set(found.targets) <= names
    counts = Counter(found.targets)
    weights = in_force(members)
    if (
        sum(partitions if m.limit is None else m.limit for m, w in zip(members, weights, strict=True) if w)
        >= partitions
    ):
        assert all(m.limit is None or counts[m.name] <= m.limit for m in members)
    for m, weight in zip(members, weights, strict=True):
        assert weight or not counts[m.name], "a drained member keeps nothing"


@given(groups())
def test_shares_are_in_proportion_to_weights_within_one_partition(group: tuple[list[Member], int, int]) -> None:
    members, partitions, standbys = group
    members = [replace(m, limit=None) for m in members]
    counts = Counter(assign(members, partitions, standbys=standbys).targets)
    weights = in_force(members)
    exact = [partitions * weight / sum(weights) for weight in weights]
    for m, share in zip(members, exact, strict=True):
        assert abs(counts[m.name] - share) < 1 + 1e-6
    # The largest remainders got the extra partitions.
    up = [share % 1 for m, share in zip(members, exact, strict=True) if counts[m.name] > share + 1e-6]
    down = [share % 1 for m, share in zip(members, exact, strict=True) if counts[m.name] < share - 1e-6]
    assert not up or not down or min(up) >= max(down) - 1e-6


@given(groups())
def test_no_assignment_with_these_shares_moves_fewer(group: tuple[list[Member], int, int]) -> None:
    members, partitions, standbys = group
    found = assign(members, partitions, standbys=standbys)
    counts = Counter(found.targets)
    kept = sum(found.targets[p] == m.name for m in members for p in m.owned)
    assert kept == sum(min(len(m.owned), counts[m.name]) for m in members)


@given(groups(), st.randoms(use_true_random=False))
def test_the_order_of_members_changes_nothing(group: tuple[list[Member], int, int], chance: random.Random) -> None:
    members, partitions, standbys = group
    mixed = list(members)
    chance.shuffle(mixed)
    assert assign(members, partitions, standbys=standbys) == assign(mixed, partitions, standbys=standbys)


@given(groups())
def test_what_was_assigned_once_stays(group: tuple[list[Member], int, int]) -> None:
    members, partitions, standbys = group
    members = after(members, assign(members, partitions, standbys=standbys, postpone=False))
    first = assign(members, partitions, standbys=standbys)
    assert first.owners == first.targets, "nothing is left to move"
    assert [m.owned for m in members] == [first.of(m.name) for m in members]
    again = assign(after(members, first), partitions, standbys=standbys)
    assert again.owners == first.owners
    assert [set(names) for names in again.standbys] == [set(names) for names in first.standbys]


@given(groups())
def test_a_move_is_postponed_while_it_hurts_and_not_for_ever(group: tuple[list[Member], int, int]) -> None:
    members, partitions, standbys = group
    found = assign(members, partitions, standbys=standbys)
    names = {m.name: m for m in members}
    owner_of = {p: m for m in members for p in m.owned}
    for p, (now, to) in enumerate(zip(found.owners, found.targets, strict=True)):
        is_cold = bool(standbys) and p not in names[to].warm
        if p not in owner_of:
            assert now == to or (is_cold and p in names[now].warm), "an orphan waits only with one that has caught up"
            continue
        owner = owner_of[p]
        hurts = (p in owner.busy or is_cold) and p not in owner.overdue
        assert now == (owner.name if hurts and to != owner.name else to)
        if standbys and now != to:
            assert to in found.standbys[p], "who gets it later has a copy first"


@given(groups())
def test_busy_partitions_move_only_when_idle_ones_do_not_suffice(group: tuple[list[Member], int, int]) -> None:
    members, partitions, standbys = group
    found = assign(members, partitions, standbys=standbys)
    for m in members:
        leaving = {p for p in m.owned if found.targets[p] != m.name}
        hard = {p for p in m.busy if p not in m.overdue}
        if leaving & hard:
            assert {p for p in m.owned if found.targets[p] == m.name} <= hard


@given(groups())
def test_copies_are_with_other_workers_and_as_far_as_labels_allow(group: tuple[list[Member], int, int]) -> None:
    members, partitions, standbys = group
    found = assign(members, partitions, standbys=standbys)
    staff = [m for m in members if m.weight] or members
    names = {m.name: m for m in members}
    for p, copies in enumerate(found.standbys):
        owner = found.owners[p]
        assert len(set(copies)) == len(copies)
        assert owner not in copies
        assert len(copies) == min(standbys, len({m.name for m in staff} - {owner}))
        if len(copies) == 1 and found.targets[p] == owner:  # else the copy is where it has to be
            for level in range(3):
                mine = names[owner].place[: level + 1]
                if mine and any(m.place[: level + 1] != mine for m in staff):
                    assert names[copies[0]].place[: level + 1] != mine
                    break


@given(groups())
def test_a_zombie_does_not_get_back_what_others_were_assigned_later(group: tuple[list[Member], int, int]) -> None:
    members, partitions, standbys = group
    zombie = Member("zombie", 0.0, owned=frozenset(range(partitions)), generation=3)
    claimed = frozenset(p for m in members for p in m.owned)
    found = assign([*members, zombie], partitions, standbys=standbys)
    assert not found.of("zombie") & claimed or not any(m.weight for m in members)


def test_a_dead_workers_partitions_go_to_their_copies() -> None:
    members = [Member(f"m{i}", 1.0) for i in range(4)]
    members = after(members, assign(members, 60, standbys=1, postpone=False))
    dead, rest = members[0], members[1:]
    found = assign(rest, 60, standbys=1)
    for p in dead.owned:
        assert p in next(m for m in rest if m.name == found.owners[p]).warm
    done = assign([replace(m, overdue=m.owned) for m in after(rest, found)], 60, standbys=1)
    assert sorted(Counter(done.owners).values()) == [20, 20, 20]


def test_a_third_joins_two_of_weights_3_and_1() -> None:
    two = [Member("a", 3.0), Member("b", 1.0)]
    first = assign(two, 12)
    assert Counter(first.owners) == {"a": 9, "b": 3}
    three = [*after(two, first), Member("c", 1.0)]
    found = assign(three, 12)
    assert Counter(found.owners) == {"a": 7, "b": 3, "c": 2}
    assert found.of("b") == first.of("b")
    assert found.of("a") < first.of("a")


@pytest.mark.parametrize("weights", [[1e308, 1e308, 1.0], [5e-324, 1.0], [1 / 3] * 3])
def test_odd_weights_still_add_up(weights: list[float]) -> None:
    members = [Member(f"m{i}", weight) for i, weight in enumerate(weights)]
    assert sum(quotas(members, 500, {}).values()) == 500


@pytest.mark.parametrize(
    "members",
    [[], [Member("a"), Member("a")], [Member("a", -1.0)], [Member("a", float("nan"))], [Member("a", float("inf"))]],
)
def test_what_is_no_group_is_refused(members: list[Member]) -> None:
    with pytest.raises(ValueError, match=r"members|weights"):
        assign(members, 3)


@pytest.mark.slow
def test_a_large_group_is_assigned_well_within_a_session() -> None:
    members = [Member(f"m{i}", 1.0 + i % 7, place=(f"z{i % 3}", f"r{i % 30}", f"h{i}")) for i in range(300)]
    started = time.perf_counter()
    members = after(members, assign(members, 3_000, standbys=1, postpone=False))
    assign(members[1:], 3_000, standbys=1)
    assert time.perf_counter() - started < 10  # 0.5 s when nothing else runs


def test_without_stickiness_these_tests_are_red(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_claims", lambda members, partitions: {})
    with pytest.raises(AssertionError):
        test_a_third_joins_two_of_weights_3_and_1()
