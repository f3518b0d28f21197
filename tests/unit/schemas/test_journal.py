from array import array
from collections.abc import Callable
from typing import Any

import pytest

from rookery.schemas.journal import (
    CLAIM,
    POSITION,
    RETIRED,
    AgentRecord,
    Claim,
    Key,
    KeyKind,
    LanePosition,
    Position,
    Slot,
    cell_key,
    decode_agent,
    decode_claim,
    decode_position,
    decode_slot,
    encode_agent,
    encode_claim,
    encode_position,
    encode_slot,
    lease_header,
    lease_number,
    slot_key,
    split_key,
)
from rookery.schemas.partition_errors import JournalError

LANES = [
    LanePosition(100, b"\0\1\1\0\0\0\0\0\0\0\1", array("Q", [0, 5, 2**64 - 1])),
    LanePosition.fresh(7, 3),
    LanePosition(2**62, bytes(9) + b"\1", array("Q", [1, 2, 3])),
]
POSITIONS = Position(LANES, next_slot=9, next_sequence=44, sent_through=6, ring=64, partitions=3)
SLOT = Slot(9, {("a.inbox.high", 1): [(b"A/1", b"one"), (None, b""), (b"", b"x")], ("a.deadletter", 0): [(b"k", b"v")]})
RECORDS: list[tuple[Callable[[bytes], Any], bytes, Any]] = [
    (decode_claim, encode_claim(Claim(-1, "wörker", 12)), Claim(-1, "wörker", 12)),
    (decode_position, encode_position(POSITIONS), POSITIONS),
    (decode_slot, encode_slot(SLOT), SLOT),
    (decode_slot, encode_slot(Slot(1, {})), Slot(1, {})),
    (decode_agent, encode_agent("Plane", 3, RETIRED | 2, b"s"), AgentRecord("Plane", 3, RETIRED | 2, b"s")),
]
by_record = pytest.mark.parametrize(("decode", "data", "record"), RECORDS)


@by_record
def test_round_trip(decode: Callable[[bytes], Any], data: bytes, record: Any) -> None:
    assert decode(data) == record


@by_record
def test_a_newer_format_is_refused(decode: Callable[[bytes], Any], data: bytes, record: Any) -> None:
    with pytest.raises(JournalError, match="format 2"):
        decode(b"\x02" + data[1:])
    with pytest.raises(JournalError, match="empty"):
        decode(b"")


@pytest.mark.parametrize(("decode", "data"), [(decode_position, RECORDS[1][1]), (decode_slot, RECORDS[2][1])])
def test_sizes_must_fit(decode: Callable[[bytes], Any], data: bytes) -> None:
    for size in range(len(data)):
        with pytest.raises(JournalError):
            decode(data[:size])
    with pytest.raises(JournalError, match="instead of"):
        decode(data + b"\x00")


def test_an_agent_record_has_its_type_whole() -> None:
    data = encode_agent("Plane", 3, 0, b"")
    assert decode_agent(data).type == "Plane"
    for size in range(len(data)):
        with pytest.raises(JournalError):
            decode_agent(data[:size])


def test_a_slot_names_each_destination_once() -> None:
    data = encode_slot(Slot(1, {("t", 1): [], ("t", 2): []}))
    with pytest.raises(JournalError, match="twice"):
        decode_slot(data.replace(b"t\x02", b"t\x01"))


def test_done_flags_take_a_bit_each_and_no_more_than_counted() -> None:
    lanes = [LanePosition(100, b"\0\1\1", array("Q", [0])), LanePosition.fresh(0, 1), LanePosition.fresh(0, 1)]
    data = encode_position(Position(lanes, 1, 1, 0, 64, 1))
    assert decode_position(data).lanes[0].ranges() == [(101, 103)]
    assert data.count(b"\3\0\0\0\6") == 1
    with pytest.raises(JournalError, match="more done flags"):
        decode_position(data.replace(b"\3\0\0\0\6", b"\3\0\0\0\x0e"))


def test_a_position_has_one_sequence_for_each_partition() -> None:
    with pytest.raises(ValueError, match="3 sequences for 4 partitions"):
        encode_position(Position(LANES, 9, 44, 6, 64, 4))


def test_the_layout_stays() -> None:
    """Journals outlive releases: these bytes were written by the first one."""
    assert encode_agent("A", 2, RETIRED, b"xyz").hex() == "01010200000001004178797a"
    assert encode_claim(Claim(5, "w", 12)).hex() == "0105000000000000000c00000077"
    assert encode_slot(Slot(9, {("t", 1): [(b"k", b"v"), (None, b"")]})).hex() == (
        "010900000000000000010000000100740100000002000000"  # head, topic, partition, count
        "01000000ffffffff01000000000000006b76"
    )
    lane = LanePosition(3, b"\0\0\1\1", array("Q", [8]), bytes(range(16)))
    assert encode_position(Position([lane] * 3, 1, 2, 0, 64, 1)).hex() == (
        "010100000040000000010000000000000002000000000000000000000000000000"
        + 3 * ("000102030405060708090a0b0c0d0e0f" + "0300000000000000040000000c0800000000000000")
    )


def test_keys() -> None:
    assert slot_key(67, 64) == b"~out/3"
    assert cell_key("A/b/c", "steps/1") == b"A/b/c\x1fsteps/1"
    assert split_key(CLAIM) == Key(KeyKind.CLAIM)
    assert split_key(POSITION) == Key(KeyKind.POSITION)
    assert split_key(slot_key(67, 64)) == Key(KeyKind.SLOT)
    assert split_key("Ort/東京/駅".encode()) == Key(KeyKind.AGENT, "Ort/東京/駅")
    assert split_key(cell_key("A/b/c", "steps/1")) == Key(KeyKind.CELL, "A/b/c", "steps/1")
    for unknown in (b"~new", b"\xff"):
        with pytest.raises(JournalError):
            split_key(unknown)


def test_lease_header() -> None:
    assert lease_header(258) == b"\x00\x00\x00\x00\x00\x00\x01\x02"
    assert lease_number(lease_header(2**63)) == 2**63
    with pytest.raises(JournalError):
        lease_number(b"\x00" * 7)
