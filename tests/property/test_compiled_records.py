"""The compiled makers and readers of record batches against aiokafka's, and what adds up sizes against Python's."""

from __future__ import annotations

import random
from typing import Any

import pytest
from aiokafka.record.util import calc_crc32c
from hypothesis import given
from hypothesis import strategies as st

from rookery.schemas import native
from rookery.streams.core.outbox import _fitting
from rookery.streams.kafka.batches import Identity, SequencedBatch, encode_batch

pytestmark = pytest.mark.compiled
_records: Any = native.load("rookery.streams.kafka._records")
_sizes: Any = native.load("rookery.streams.core._sizes")

# Sizes at which a varint, or the room first made for a batch, grows.
CONTENT = st.binary(max_size=80) | st.sampled_from([63, 64, 8_191, 8_192, 70_000]).map(bytes)
RECORDS = st.lists(st.tuples(st.none() | CONTENT, st.none() | CONTENT), max_size=20)
MANY = st.sampled_from([63, 64, 65, 8_192, 8_193]).map(lambda count: [(b"k", b"%d" % n) for n in range(count)])
HEADERS = st.lists(st.tuples(st.text(max_size=70), st.none() | st.binary(max_size=70)), max_size=3)
TIMES = st.integers(0, 2**62)
PRODUCERS = st.integers(-1, 2**63 - 1)
EPOCHS = st.integers(-1, 2**15 - 1)
SEQUENCES = st.integers(-1, 2**31 - 1)


@given(RECORDS | MANY, HEADERS, TIMES, PRODUCERS, EPOCHS, SEQUENCES)
def test_a_compiled_batch_is_the_one_of_aiokafka(
    records: list[tuple[bytes | None, bytes | None]], headers: Any, time: int, producer: int, epoch: int, sequence: int
) -> None:
    expected = encode_batch(records, headers, time, producer, epoch, sequence)
    assert _records.encode_batch(records, headers, time, producer, epoch, sequence) == expected
    assert _records.encode_batch(iter(records), headers, time, producer, epoch, sequence) == expected
    mutable = [(key and bytearray(key), value and memoryview(value)) for key, value in records]
    assert _records.encode_batch(mutable, headers, time, producer, epoch, sequence) == expected


@given(st.dictionaries(CONTENT, st.none() | CONTENT, min_size=1, max_size=20))
def test_a_batch_made_of_a_dict_says_what_a_sender_asks_of_it(records: dict[bytes, bytes | None]) -> None:
    batch = SequencedBatch(Identity(7, 1, 5), records.items(), [("lease", b"12345678")])
    made = batch._build()
    time = int.from_bytes(made[27:35])
    assert (made, len(records)) == encode_batch(records.items(), [("lease", b"12345678")], time, 7, 1, 5)
    assert (batch.size(), batch.record_count(), batch.closed()) == (len(made), len(records), True)
    assert batch.append(timestamp=None, key=b"k", value=b"v") is None
    assert batch._build() is made


@pytest.mark.parametrize("record", [(3, b"v"), (b"k", "text"), (b"k",), (b"k", b"v", b"more"), 3])
def test_what_is_no_record_is_refused(record: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        _records.encode_batch([(b"k", b"v"), record], [], 0, 7, 1, 5)


@pytest.mark.parametrize("header", [(b"name", b"v"), (None, b"v"), ("name", "text"), ("name",), 3])
def test_what_is_no_header_is_refused(header: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        _records.encode_batch([(b"k", b"v")], [header], 0, 7, 1, 5)


@given(st.binary(max_size=100))
def test_every_crc_is_that_of_aiokafka(data: bytes) -> None:
    assert _records.crc32c(data) == _records.crc32c(data, by_table=True) == calc_crc32c(data)


def test_the_crc_of_blocks_side_by_side_is_the_same() -> None:
    data = random.Random(21).randbytes(10_000)
    for size in (*range(1_530, 1_550), *range(3_065, 3_085), *range(1, 10_000, 97)):
        for at in (0, 1, 10_000 - size):
            some = data[at : at + size]
            assert _records.crc32c(some) == _records.crc32c(some, by_table=True) == calc_crc32c(some)


@given(
    st.lists(st.tuples(st.none() | st.binary(max_size=9), st.binary(max_size=9)), max_size=9),
    st.integers(0, 50),
    st.integers(0, 150),
    st.integers(0, 9),
    st.booleans(),
)
def test_what_fits_is_the_same_when_compiled(
    messages: list[tuple[bytes | None, bytes]], size: int, bytes_max: int, overhead: int, one_goes: bool
) -> None:
    assert _sizes.fitting(messages, size, bytes_max, overhead, one_goes) == _fitting(
        messages, size, bytes_max, overhead, one_goes
    )
