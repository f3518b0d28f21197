"""What aiokafka has fetched, read by batches, is what aiokafka would have given: records, positions and errors."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, READ_UNCOMMITTED, FetchResult, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from hypothesis import given
from hypothesis import strategies as st

from rookery.schemas import native
from rookery.streams.kafka.fetched import KeptRecords, read_by_batches

TP = TopicPartition("t", 3)
CONTENT = st.none() | st.binary(max_size=80) | st.sampled_from([63, 64, 8_192]).map(bytes)
HEADERS = st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=70)), max_size=2)
RECORDS = st.lists(st.tuples(st.integers(1, 3), CONTENT, CONTENT, HEADERS, st.integers(0, 2**50)), max_size=6)
NONE, GZIP = 0, 1
CONTROL, APPEND_TIME = 0x20, 0x08
BATCHES = st.lists(
    st.tuples(
        RECORDS, st.integers(0, 2), st.sampled_from([NONE, NONE, GZIP]), st.sampled_from([0, 0, CONTROL, APPEND_TIME])
    ),
    max_size=4,
)
TAKES = st.lists(st.none() | st.integers(1, 7), max_size=12)
_records: Any = native.load("rookery.streams.kafka._records")
PARSERS = [
    MemoryRecords,
    pytest.param(KeptRecords, marks=pytest.mark.compiled),
]


def seal(batch: bytearray) -> None:
    """Make the CRC again."""
    batch[17:21] = calc_crc32c(bytes(batch[21:])).to_bytes(4)


def batch_of(records: Any, base: int, gap: int, compression: int, attributes: int) -> bytearray:
    """A batch as it is stored after compaction: offsets have holes, also at the end."""
    builder = DefaultRecordBatchBuilder(2, compression, 0, 7, 1, 5, 2**30)
    offset = -1
    for step, key, value, headers, time in records:
        offset += step
        builder.append(offset, time, key, value, headers)
    built: bytearray = builder.build()
    built[:8] = base.to_bytes(8)
    built[22] |= attributes
    built[23:27] = (max(offset, 0) + gap).to_bytes(4)
    seal(built)
    return built


def fetch_of(batches: Any, base: int) -> bytes:
    """What a broker sends: batches one after the other."""
    data = b""
    for records, gap, compression, attributes in batches:
        batch = batch_of(records, base, gap, compression, attributes)
        data += batch
        base += int.from_bytes(batch[23:27]) + 1
    return data


class Fetch:
    """A fetched partition in a consumer that stands at `position`."""

    def __init__(self, records: Any, position: int, check: bool, isolation: int = READ_UNCOMMITTED) -> None:
        self.position, self.paused = position, False
        fetched = PartitionRecords(TP, records, [], position, None, None, check, isolation)
        assignment = SimpleNamespace(active=True, state_value=lambda tp: self)
        self.result = FetchResult(TP, assignment=assignment, partition_records=fetched, backoff=0)

    def consumed_to(self, position: int) -> None:
        self.position = position

    def by_batches(self) -> Fetch:
        read_by_batches(SimpleNamespace(_fetcher=SimpleNamespace(_records={TP: self.result, 4: SimpleNamespace()})))
        return self

    def take(self, count: int | None) -> Any:
        """What a take brings, in a form that can be compared, and the position after it."""
        if not self.result.has_more():
            return "all taken"
        try:
            records = self.result.getall(count)
        except Exception as error:
            return type(error), self.position
        return [
            (r.offset, r.key, r.value, list(r.headers), r.timestamp, r.timestamp_type) for r in records
        ], self.position


@pytest.mark.parametrize("parser", PARSERS)
@given(BATCHES, st.integers(0, 20), TAKES, st.booleans(), st.integers(0, 70))
def test_records_and_positions_are_those_of_aiokafka(
    parser: Any, batches: Any, behind: int, takes: Any, check: bool, lost: int
) -> None:
    data = fetch_of(batches, base=100)
    data = data[: max(len(data) - lost, 0)]  # a broker cuts the last batch where the bytes asked for end
    theirs, ours = (
        Fetch(MemoryRecords(data), 100 + behind, check),
        Fetch(parser(data), 100 + behind, check).by_batches(),
    )
    for count in [*takes, None, None]:
        assert ours.take(count) == theirs.take(count)
    assert not ours.result.has_more()


@pytest.mark.parametrize("parser", PARSERS)
@given(BATCHES.filter(bool), TAKES, st.integers(0, 2**32), st.integers(0, 7))
def test_a_flipped_bit_is_found_and_nothing_is_passed_over(
    parser: Any, batches: Any, takes: Any, where: int, bit: int
) -> None:
    data = bytearray(fetch_of(batches, base=100))
    place = where % len(data)
    if place % 2:  # as often in what the CRC does not cover as in what it does
        place = place % 17
    data[place] ^= 1 << bit
    theirs, ours = Fetch(MemoryRecords(bytes(data)), 100, True), Fetch(parser(bytes(data)), 100, True).by_batches()
    for count in [*takes, None, None, None]:
        assert ours.take(count) == theirs.take(count)


@pytest.mark.parametrize("parser", PARSERS)
def test_what_was_read_before_an_error_comes_again(parser: Any) -> None:
    good: Any = [(1, b"k", b"%d" % n, [], 7) for n in range(4)]
    data = bytearray(fetch_of([(good, 0, NONE, 0), (good, 0, NONE, 0)], base=100))
    data[-1] ^= 1
    fetch = Fetch(parser(bytes(data)), 100, True).by_batches()
    assert [record[0] for record in fetch.take(3)[0]] == [100, 101, 102]
    assert fetch.take(3) == (CorruptRecordException, 103)
    assert fetch.take(3) == ([], 103), "fetched again from there"
    assert not fetch.result.has_more()


@pytest.mark.parametrize("parser", PARSERS)
def test_other_positions_old_formats_and_started_iterators(parser: Any) -> None:
    records: Any = [(1, b"k", b"v", [], 7)] * 3
    data = fetch_of([(records, 0, NONE, 0)], base=0)
    for unwanted in (
        {"position": 1},  # somebody has sought
        {"paused": True},
    ):
        fetch = Fetch(parser(data), 0, True).by_batches()
        vars(fetch).update(unwanted)
        assert fetch.take(None)[0] == []
        assert not fetch.result.has_more()
    started = Fetch(parser(data), 0, True)
    first, _ = started.take(1)
    rest, position = started.by_batches().take(None)
    assert ([record[0] for record in first + rest], position) == ([0, 1, 2], 3)
    assert len(Fetch(parser(data), 0, True, READ_COMMITTED).by_batches().take(None)[0]) == 3
    builder = LegacyRecordBatchBuilder(1, NONE, 2**20)
    for offset in range(3):
        builder.append(offset, 7, b"k", b"v")
    old = bytes(builder.build()) + data
    assert Fetch(parser(old), 0, True).by_batches().take(None) == Fetch(MemoryRecords(old), 0, True).take(None)


@pytest.mark.compiled
@given(BATCHES.filter(bool), st.integers(0, 2**32))
def test_nonsense_under_a_right_crc_raises_or_is_read_as_by_aiokafka(batches: Any, seed: int) -> None:
    rng = random.Random(seed)
    records = batches[0][0]
    plain = batch_of(records, 100, 0, NONE, 0)
    for _ in range(30):
        batch = bytearray(plain)
        for _ in range(rng.choice([1, 1, 2, 5])):
            batch[rng.randrange(27, len(batch))] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
        seal(batch)
        padding = bytes(rng.choice([0, 255]) for _ in range(30))  # who reads too far finds it
        try:
            found = _records.decode_batch(bytes(batch) + padding, 0, 0, True)
        except (CorruptRecordException, UnicodeDecodeError):
            continue
        expected = list(MemoryRecords(bytes(batch)).next_batch())
        assert [(r.offset, r.key, r.value, list(r.headers), r.timestamp) for r in found] == [
            (r.offset, r.key, r.value, list(r.headers), r.timestamp) for r in expected if r.offset >= 0
        ]


@pytest.mark.compiled
def test_the_fetchers_records_are_kept_and_their_headers_shared() -> None:
    from aiokafka.consumer import fetcher

    assert fetcher.MemoryRecords is KeptRecords
    batch = batch_of([(1, b"k", b"v", [("a", b"b")], 7)] * 3, 100, 0, NONE, 0)
    first, _, last = _records.decode_batch(batch, 0, 0, True)
    assert first.headers is last.headers
    assert "offset=100, key=b'k'" in repr(first)
    with pytest.raises(ValueError, match="compressed"):
        _records.decode_batch(batch_of([(1, b"k", b"v", [], 7)], 0, 0, GZIP, 0), 0, 0, True)
    for at in (-1, len(batch) + 1):
        with pytest.raises(IndexError):
            _records.decode_batch(batch, at, 0, True)
