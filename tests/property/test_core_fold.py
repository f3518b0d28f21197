"""JournalFold: whatever stale leases wrote and compaction took, folding gives what the rightful leases wrote."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from rookery.schemas.journal import (
    CLAIM,
    POSITION,
    Claim,
    LanePosition,
    Position,
    Slot,
    cell_key,
    encode_claim,
    encode_position,
    encode_slot,
    slot_key,
)
from rookery.schemas.partition_errors import JournalError
from rookery.streams.core.batch import Limits
from rookery.streams.core.fold import JournalFold, Recovered
from rookery.streams.core.partition import Partition
from rookery.streams.core.store import Mark, MemoryStore, Store
from rookery.streams.log import JournalRecord
from rookery.streams.rocks import RocksStore, RocksStores
from tests.cases import quick

KEYS = [b"A/1", b"A/2", b"A/3", b"B/1", cell_key("A/1", "item"), b"~out/0", b"~out/1"]
RUNS = 1_000


class Journal:
    """A journal partition with its rightful writer, writers who don't know yet that they are not, and a compactor."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.all: list[JournalRecord] = []
        self.left: list[JournalRecord] = []  # by compaction
        self.truth: dict[bytes, bytes] = {}  # what the rightful leases wrote
        self.stray: dict[bytes, int] = {}  # key -> offset of its first stale record that is not repaired
        self.lease = -1
        self.olds: list[int] = []
        self.stale_count = 0
        self.forgotten = -1  # the highest offset of a tombstone that compaction removed

    def append(self, key: bytes, value: bytes | None, lease: int | None) -> int:
        record = JournalRecord(len(self.all), key, value, lease)
        self.all.append(record)
        self.left.append(record)
        return record.offset

    def claim(self) -> None:
        """A new owner: it folds up to its claim and repairs before it writes anything else."""
        if self.lease >= 0:
            self.olds.append(self.lease)
        self.lease = self.append(CLAIM, b"claim", None)
        self.truth[CLAIM] = b"claim"
        fold = folded(self.left)
        values = contents(fold.store)
        repair = {key: values.get(key) for key in fold.stale}
        assert repair.keys() == self.stray.keys(), "exactly what stale leases touched has to be repaired"
        for key, value in repair.items():
            self.write(key, value)

    def write(self, key: bytes, value: bytes | None) -> None:
        self.append(key, value, self.lease)
        self.stray.pop(key, None)
        if value is None:
            self.truth.pop(key, None)
        else:
            self.truth[key] = value

    def write_stale(self) -> None:
        rng = self.rng
        value = rng.choice([None, b"stale %d" % len(self.all)])
        key = rng.choice([*KEYS, POSITION])
        self.stray.setdefault(key, self.append(key, value, rng.choice(self.olds)))
        self.stale_count += 1

    def compact(self) -> None:
        """Remove any superseded record, and tombstones, up to a bound; the lag keeps what was not repaired yet."""
        rng = self.rng
        bound = min([rng.randint(0, len(self.all)), *self.stray.values()])
        last = {record.key: record.offset for record in self.left if record.offset < bound}
        lazy = {key for key in last if rng.random() < 0.2}  # a compactor may, it need not

        def stays(record: JournalRecord) -> bool:
            if record.offset >= bound or record.key in lazy:
                return True
            return record.offset == last[record.key] and record.value is not None

        gone = [record for record in self.left if not stays(record)]
        self.forgotten = max([self.forgotten, *(record.offset for record in gone if record.value is None)])
        self.left = [record for record in self.left if stays(record)]

    def step(self) -> None:
        rng, move = self.rng, self.rng.random()
        if self.lease < 0 or move < 0.1:
            self.claim()
        elif move < 0.6:
            key = rng.choice([*KEYS, POSITION])
            self.write(key, rng.choice([None, b"%d" % len(self.all), b"%d" % len(self.all)]))
        elif move < 0.85 and self.olds:
            self.write_stale()
        elif move > 0.9:
            self.compact()


def contents(store: Store) -> dict[bytes, bytes]:
    """All that a store holds; one in memory is of no use afterwards."""
    if isinstance(store, MemoryStore):
        return values(store) | store.control()
    assert isinstance(store, RocksStore)
    return {key[1:]: value for key, value in store._scan(b"a")} | dict(store.cells()) | store.control()


def values(store: Store) -> dict[bytes, bytes]:
    """Agents and cells of a store in memory."""
    assert isinstance(store, MemoryStore)
    return dict(store.values.items())


def folded(records: list[JournalRecord], store: Store | None = None) -> JournalFold:
    fold = JournalFold(store)
    middle = len(records) // 3
    fold.apply(records[:middle])  # records come in batches
    fold.apply(records[middle:])
    return fold


@pytest.mark.parametrize("seed", quick(range(5)))
def test_the_folded_values_are_those_of_the_rightful_leases(seed: int) -> None:
    rng = random.Random(seed)
    ignored = compacted = 0
    for _ in range(RUNS // 5):
        journal = Journal(rng)
        for _ in range(rng.randrange(60)):
            journal.step()
            if rng.random() < 0.2:
                assert contents(folded(journal.left).store) == journal.truth
        assert contents(folded(journal.left).store) == journal.truth
        full = folded(journal.all)
        assert contents(full.store) == journal.truth
        assert full.ignored_count == journal.stale_count
        ignored += full.ignored_count
        compacted += len(journal.all) - len(journal.left)
    assert min(ignored, compacted) > 500, "the generator must make what this test is about"


@pytest.fixture(params=["memory", "rocksdb"])
def restart(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Store | None], Store]:
    """Gives an empty store, or the one that a restart finds where a store was."""
    if request.param == "memory":
        return lambda store: MemoryStore() if store is None else store
    stores, numbers = RocksStores(tmp_path, {}, 1.0, lambda: 0.0), itertools.count()

    def again(store: Store | None) -> Store:
        if store is None:
            return stores.open(next(numbers))
        assert isinstance(store, RocksStore)
        store.close()
        return stores.open(store.number)

    return again


@pytest.mark.parametrize("seed", quick(range(3)))
def test_a_fold_from_where_a_store_stands_is_the_fold_from_the_start(
    restart: Callable[[Store | None], Store], seed: int, request: pytest.FixtureRequest
) -> None:
    """Whatever was written, compacted and taken over meanwhile; a store that missed a tombstone is too old."""
    rng = random.Random(seed)
    resumed = touched = too_old = 0
    runs = RUNS // 5 if "memory" in request.node.name else 4
    for _ in range(runs):
        journal, store = Journal(rng), restart(None)
        for _ in range(rng.randrange(80)):
            journal.step()
            if rng.random() < 0.8:
                continue
            if store.mark.offset <= journal.forgotten:
                too_old += store.mark.offset > 0
                store.wipe()
            resumed += store.mark.offset > 0
            stop = rng.randint(store.mark.offset, len(journal.all))
            fold = JournalFold(store)
            # Some of what is read was folded before, and what is last may be gone.
            fold.apply([record for record in journal.left if record.offset < stop], stop)
            touched += bool(fold.stale)
            assert store.mark == Mark(stop, fold.highest, frozenset(fold.stale))
            store = restart(store)
            assert store.mark == Mark(stop, fold.highest, frozenset(fold.stale))
        if store.mark.offset <= journal.forgotten:
            store.wipe()
        fold, scratch = folded(journal.left, store), folded(journal.left)
        assert fold.stale == scratch.stale
        assert fold.highest == scratch.highest
        assert contents(store) == contents(scratch.store) == journal.truth
        store.close()
    assert min(resumed, touched) >= runs / 2
    assert too_old >= runs / 5


def test_a_stale_record_is_known_by_any_record_of_a_newer_lease_not_only_by_its_claim() -> None:
    """Compaction removes a claim as soon as there is a newer one."""
    fold = JournalFold()
    fold.apply([JournalRecord(20, b"A/1", b"new", 15), JournalRecord(21, b"A/1", b"old", 10)])
    assert values(fold.store) == {b"A/1": b"new"}
    assert (fold.stale, fold.ignored_count, fold.highest) == ({b"A/1"}, 1, 15)


# -- what recovery takes from it --------------------------------------------------------------------------------------


def position(sent_through: int, next_slot: int, ring: int = 4) -> bytes:
    lanes = [LanePosition.fresh(7, 2) for _ in range(3)]
    return encode_position(Position(lanes, next_slot, 100, sent_through, ring, 2))


def slot(number: int, ring: int = 4) -> tuple[bytes, bytes]:
    return slot_key(number, ring), encode_slot(Slot(number, {("t", 0): [(b"k", b"message %d" % number)]}))


def recovered(records: list[tuple[bytes, bytes | None]], lease: int = 0) -> Recovered:
    """Fold records of lease 0 (or `lease`) between its claim and one's own."""
    claim = encode_claim(Claim(1, "w", 2))
    journal = [JournalRecord(0, CLAIM, claim, None)]
    journal += [JournalRecord(i, key, value, lease) for i, (key, value) in enumerate(records, start=1)]
    own = len(journal)
    fold = folded([*journal, JournalRecord(own, CLAIM, claim, None)])
    return fold.recovered(own)


def test_slots_above_sent_through_come_back_in_order_and_older_ones_do_not() -> None:
    # Slot 5 took the place of slot 1; slots 2 and 3 were sent, 4 to 6 not all.
    found = recovered([slot(2), slot(3), slot(4), slot(5), slot(6), (b"A/1", b"state"), (POSITION, position(3, 7))])
    assert [unsent.number for unsent in found.unsent] == [4, 5, 6]
    assert found.unsent[0].messages == {("t", 0): [(b"k", b"message 4")]}
    assert values(found.store) == {b"A/1": b"state"}
    assert found.position is not None
    assert (found.position.sent_through, found.position.next_slot) == (3, 7)
    assert (found.claim, found.repair, found.ignored_count) == (8, {}, 0)


def test_an_empty_journal_gives_no_position() -> None:
    found = recovered([])
    assert (found.position, values(found.store), found.unsent, found.claim) == (None, {}, [], 1)


def test_what_a_stale_lease_touched_is_to_be_written_again_with_its_true_value() -> None:
    claim = encode_claim(Claim(1, "w", 2))
    fold = JournalFold()
    fold.apply(
        [
            JournalRecord(0, CLAIM, claim, None),
            JournalRecord(1, b"A/1", b"true", 0),
            JournalRecord(2, *slot(1), 0),
            JournalRecord(3, POSITION, position(0, 2), 0),
            JournalRecord(4, CLAIM, claim, None),
            JournalRecord(5, b"A/1", b"stale", 0),
            JournalRecord(6, b"A/2", b"stale", 0),
            JournalRecord(7, slot_key(1, 4), b"stale", 0),
            JournalRecord(8, POSITION, b"stale", 0),
            JournalRecord(9, CLAIM, claim, None),
        ]
    )
    found = fold.recovered(9)
    # ~pos stands in every batch, so it needs no repair of its own.
    assert found.repair == {b"A/1": b"true", b"A/2": None, slot_key(1, 4): slot(1)[1]}
    assert values(found.store) == {b"A/1": b"true"}
    assert [unsent.number for unsent in found.unsent] == [1]
    assert found.ignored_count == 4


def test_a_stale_position_alone_is_written_anew() -> None:
    """Compaction may have kept it as the last of its key, and an idle partition would never write over it."""
    lane = [JournalRecord(0, CLAIM, b"", None), JournalRecord(1, POSITION, position(0, 1), 0)]
    zombie = JournalRecord(3, POSITION, position(0, 1), 0)
    for journal, due in ((lane, False), ([*lane, JournalRecord(2, CLAIM, b"", None), zombie], True)):
        fold = folded([*journal, JournalRecord(9, CLAIM, b"", None)])
        found = fold.recovered(9)
        assert found.position_stale == due
        assert found.repair == {}
        limits = Limits(batch_bytes_max=9_000, batch_turns_max=9, window_max=9, ring=4, dedup_window=9)
        partition = Partition(0, 2, found, [(0, 9)] * 3, limits)
        batch = partition.build(progress_due=True)
        assert (batch is not None) == due
        assert partition.is_written != due


def test_a_record_of_a_stranger_is_no_lease_and_is_mended() -> None:
    """Without the header and no claim: somebody produced into the journal by hand."""
    journal = [
        JournalRecord(0, CLAIM, b"", None),
        JournalRecord(1, b"A/1", b"true", 0),
        JournalRecord(2, b"A/1", b"forged", None),
        JournalRecord(3, b"B/1", b"forged", None),
        JournalRecord(4, b"", b"forged", None),
        JournalRecord(5, b"C/1", b"later", 0),
        JournalRecord(6, CLAIM, b"", None),
    ]
    fold = folded(journal)
    found = fold.recovered(6)
    assert contents(found.store) == {b"A/1": b"true", b"C/1": b"later"}
    assert found.repair == {b"A/1": b"true", b"B/1": None}
    assert found.ignored_count == 3


def test_kinds_of_a_later_version_are_refused_unless_they_say_that_one_can_do_without() -> None:
    assert recovered([(b"~opt/hint", b"?"), (b"A/1", b"x")]).repair == {}
    with pytest.raises(JournalError, match="newer version"):
        recovered([(b"~lock/1", b"?")])
