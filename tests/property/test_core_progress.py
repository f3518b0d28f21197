"""LaneProgress against naive models: what is done, what is a repeat, and that a restart decides as if none had been."""

from __future__ import annotations

import random
from array import array
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rookery.schemas.journal import LanePosition
from rookery.streams.core.progress import LaneProgress
from tests.cases import quick

SOURCES = 3
ORDERS = 100_000
LIFETIMES = 1_500


def lane(start: int = 0, window: int = 10) -> LaneProgress:
    return LaneProgress(LanePosition.fresh(start, SOURCES), window)


def ranges(offsets: set[int]) -> list[tuple[int, int]]:
    """Ascending, maximal [start, end) ranges of a set of offsets."""
    found: list[tuple[int, int]] = []
    for offset in sorted(offsets):
        if found and found[-1][1] == offset:
            found[-1] = (found[-1][0], offset + 1)
        else:
            found.append((offset, offset + 1))
    return found


# -- what is done -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", quick(range(4)))
def test_random_completion_orders_give_the_prefix_and_ranges_of_a_naive_set(seed: int) -> None:
    """A completion order, looked at twice: somewhere in the middle, and at the end."""
    rng = random.Random(seed)
    randrange, shuffle = rng.randrange, rng.shuffle
    for _ in range(ORDERS // 4):
        start, count = randrange(1_000), randrange(1, 10)
        progress, end = lane(start), start + count
        for _ in range(count):
            assert progress.admit_outside("")
        order = list(range(start, end))
        shuffle(order)
        middle = randrange(count + 1)
        for offset in order[:middle]:
            progress.done(offset)
        progress.advance()
        in_flight = order[middle:]
        prefix = min(in_flight, default=end)
        assert progress.prefix == prefix
        assert progress.position().ranges() == ranges({offset for offset in order[:middle] if offset > prefix})
        for offset in in_flight:
            progress.done(offset)
        progress.advance()
        assert (progress.prefix, progress.position().done, progress.fetched_count) == (end, b"", 0)


@given(st.data())
def test_admission_and_completion_interleave(data: st.DataObject) -> None:
    progress, in_flight, done = lane(), set[int](), set[int]()
    for step in data.draw(st.lists(st.sampled_from(["admit", "done", "advance", "hole"]), max_size=80)):
        if step == "admit":
            in_flight.add(progress.next)
            progress.admit_outside("")
        elif step == "hole":
            past = progress.next + data.draw(st.integers(1, 5))
            done.update(range(progress.next, past))
            progress.skip_to(past)
        elif step == "done" and in_flight:
            offset = data.draw(st.sampled_from(sorted(in_flight)))
            in_flight.discard(offset)
            done.add(offset)
            progress.done(offset)
        elif step == "advance":
            progress.advance()
            assert progress.prefix == min(in_flight, default=progress.next)
            assert progress.position().ranges() == ranges({offset for offset in done if offset > progress.prefix})


def test_records_done_above_one_in_flight_are_not_passed() -> None:
    progress = lane(2580)
    for _ in range(2580, 2590):
        progress.admit_outside("")
    for offset in [*range(2580, 2585), 2586, 2587, 2588, 2589]:
        progress.done(offset)
    progress.advance()
    assert progress.prefix == 2585
    assert progress.position().ranges() == [(2586, 2590)]


@pytest.mark.parametrize("seed", quick(range(3)))
def test_a_long_lane_forgets_what_is_settled_and_still_counts_right(seed: int) -> None:
    """Long enough for the flags to be trimmed several times."""
    rng = random.Random(seed)
    progress, in_flight = lane(), list[int]()
    for _ in range(300):
        for _ in range(rng.randrange(100)):
            in_flight.append(progress.next)
            progress.admit_outside("")
        rng.shuffle(in_flight)
        for _ in range(rng.randrange(len(in_flight) + 1)):
            progress.done(in_flight.pop())
        progress.advance()
        assert progress.prefix == min(in_flight, default=progress.next)
        open_offsets = set(in_flight)
        above = {offset for offset in range(progress.prefix, progress.next) if offset not in open_offsets}
        assert progress.position().ranges() == ranges(above)


# -- what is a repeat -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A record of the log: sent by a source with a sequence, or by a client with an id ("" for none)."""

    source: int = 0
    sequence: int = 0
    id: str = ""


def some_log(rng: random.Random, length: int) -> list[Entry | None]:
    """What several sources and clients wrote: gaps in sequences, blocks sent again, repeated ids, holes (None)."""
    log: list[Entry | None] = []
    sent: list[list[Entry]] = [[] for _ in range(SOURCES)]
    last = [0] * SOURCES
    while len(log) < length:
        kind, source = rng.random(), rng.randrange(SOURCES)
        if kind < 0.5:
            last[source] += rng.choice([1, 1, 1, 2, 7])
            sent[source].append(Entry(source, last[source]))
            log.append(sent[source][-1])
        elif kind < 0.6:
            log.extend(sent[source][-rng.randint(1, 5) :])
        elif kind < 0.9:
            log.append(Entry(id=rng.choice(["", "a", "b", "c", "d", "e"])))
        else:
            log.append(None)
    return log[:length]


def repeats(log: list[Entry | None], window: int) -> list[bool]:
    """Which records are repeats, straight from the definition."""
    found = []
    for offset, entry in enumerate(log):
        before = log[:offset]
        if entry is None:
            found.append(True)
        elif entry.sequence:
            same = [other.sequence for other in before if other and other.sequence and other.source == entry.source]
            found.append(entry.sequence <= max(same, default=0))
        else:
            recent = {other.id for other in before[max(0, offset - window) :] if other and not other.sequence}
            found.append(entry.id != "" and entry.id in recent)
    return found


def admit(progress: LaneProgress, entry: Entry | None) -> bool:
    if entry is None:
        progress.skip_to(progress.next + 1)
        return False
    if entry.sequence:
        return progress.admit(entry.source, entry.sequence)
    return progress.admit_outside(entry.id)


def restart(position: LanePosition, log: list[Entry | None], window: int) -> LaneProgress:
    """What recovery does: take the position, and read the ids of the window before its prefix."""
    progress = LaneProgress(position, window)
    for offset in range(max(0, position.prefix - window), position.prefix):
        entry = log[offset]
        if entry is not None and not entry.sequence and entry.id:
            progress.remember(offset, entry.id)
    return progress


@pytest.mark.parametrize("seed", quick(range(3)))
def test_every_restart_decides_every_record_as_the_log_says(seed: int) -> None:
    """Handled: exactly what is no repeat and was not done at the position of the last restart."""
    rng = random.Random(seed)
    for _ in range(LIFETIMES // 3):
        window = rng.choice([0, 1, 3, 8])
        log = some_log(rng, rng.randrange(1, 30))
        repeat = repeats(log, window)
        progress, stored = lane(window=window), LanePosition.fresh(0, SOURCES)
        settled, in_flight = set[int](), list[int]()
        for _ in range(1_000):  # bounds the loop: the log is short, and completion likelier than a crash
            move = rng.random()
            if move < 0.5 and progress.next < len(log):
                offset = progress.next
                handled = admit(progress, log[offset])
                assert handled == (not repeat[offset] and offset not in settled), (log, offset, stored)
                if handled:
                    in_flight.append(offset)
            elif move < 0.9 and in_flight:
                progress.done(in_flight.pop(rng.randrange(len(in_flight))))
            elif move < 0.95:
                progress.advance()
                stored = progress.position()
            elif move < 0.97:
                progress = restart(stored, log, window)
                settled = {*range(stored.prefix), *(o for start, end in stored.ranges() for o in range(start, end))}
                in_flight = []
            if progress.next == len(log) and not in_flight:
                break
        progress.advance()
        assert progress.prefix == len(log)
        last = [0] * SOURCES
        for entry in log:
            if entry is not None and entry.sequence:
                last[entry.source] = max(last[entry.source], entry.sequence)
        assert progress.position().seen == array("Q", last)


def test_what_is_stored_was_seen_below_the_prefix_only() -> None:
    """Else a restart would take the record in flight for a repeat of itself."""
    progress = lane()
    assert progress.admit(0, 1)
    assert progress.admit(0, 2)
    progress.done(1)
    progress.advance()
    stored = progress.position()
    assert (stored.prefix, stored.ranges(), list(stored.seen)) == (0, [(1, 2)], [0, 0, 0])
    again = LaneProgress(stored, 10)
    assert again.admit(0, 1), "in flight at the crash: has to be handled again"
    assert not again.admit(0, 2), "done before the crash"
    assert not again.admit(0, 2), "sent again by its source"
