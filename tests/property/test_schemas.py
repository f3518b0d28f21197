"""What holds for all bytes and all values that travel."""

from array import array
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rookery.schemas.address import check, parse, partition_of
from rookery.schemas.envelope import Envelope, Priority, decode, decode_json, encode_body, envelope_of, seal
from rookery.schemas.errors import CrcMismatch, EnvelopeError, InvalidAddress, MissingCrc, PayloadError, Undecodable
from rookery.schemas.journal import (
    AgentRecord,
    Claim,
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
    split_key,
)
from rookery.schemas.partition_errors import JournalError
from rookery.schemas.payload import decoder_for, encode

U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
TIMES = st.integers(-(2**63), 2**63 - 1) | st.integers(1_700_000_000 * 10**9, 1_800_000_000 * 10**9)
BODIES = st.fixed_dictionaries(
    {
        "sender": st.text(),
        "target": st.text(),
        "payload": st.binary() | st.integers(16_380, 16_390).map(bytes),
        "timestamp": TIMES,
        "priority": st.sampled_from(Priority),
        "id": st.text() | st.integers(120, 140).map(lambda size: "i" * size),
        "type": st.text(),
        "content_type": st.text(),
    },
    optional={
        "correlation_id": st.text(),
        "causation_id": st.text(),
        "reply_to": st.text(),
        "deadline": TIMES,
        "headers": st.dictionaries(st.text(), st.text(), max_size=3),
    },
)


@given(BODIES, U32, st.none() | st.tuples(U32, U64))
def test_what_is_written_by_hand_reads_as_what_the_generated_class_writes(
    body: dict[str, Any], version: int, origin: tuple[int, int] | None
) -> None:
    envelope = envelope_of(decode(seal(encode_body(**body, schema_version=version), *(origin or ()))))
    expected = Envelope(**body)
    if origin:
        expected.delivery.source, expected.delivery.sequence = origin
    if version:
        expected.delivery.schema_version = version
    envelope.ClearField("crc32")
    if not envelope.delivery.ByteSize():  # present or not, it says the same
        envelope.ClearField("delivery")
        expected.ClearField("delivery")
    assert envelope == expected


@given(st.binary() | st.binary().map(seal))
def test_reading_garbage_raises_only_our_errors(data: bytes) -> None:
    try:
        envelope = decode(data)
    except (MissingCrc, CrcMismatch, Undecodable):
        return
    assert envelope.crc32 == int.from_bytes(data[-4:], "little")


@given(BODIES, st.data())
def test_any_damage_within_a_burst_of_32_bits_is_found(body: dict[str, Any], data: st.DataObject) -> None:
    record = seal(encode_body(**body), 1, 2)
    size = data.draw(st.integers(1, 4))
    at = data.draw(st.integers(0, len(record) - size))
    damage = data.draw(st.binary(min_size=size, max_size=size).filter(any))
    damaged = bytes(a ^ b for a, b in zip(record[at : at + size], damage, strict=True))
    with pytest.raises(EnvelopeError):
        decode(record[:at] + damaged + record[at + size :])


HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["type", "id", "reply-to", "correlation-id", "sender", "deadline-ms", "traceparent", "x"]),
        st.none()
        | st.binary(max_size=8)
        | st.text(max_size=8).map(str.encode)
        | st.integers().map(lambda n: b"%d" % n),
    )
)


@given(st.none() | st.binary(), st.none() | st.binary() | st.sampled_from([b"{}", b'{"type":"A"}']), HEADERS, TIMES)
def test_reading_any_json_record_raises_only_our_errors(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]], timestamp_ms: int
) -> None:
    try:
        envelope = decode_json(key, value, headers, timestamp_ms, "t", 0, 1)
    except Undecodable:
        return
    assert (envelope.target.encode(), envelope.payload) == (key, value)


@given(st.text())
def test_an_address_is_valid_or_refused(text: str) -> None:
    try:
        agent_type, key = parse(text)
    except InvalidAddress:
        return
    assert check(text) == (f"{agent_type}/{key}" if agent_type else key)
    assert not text.startswith("~")  # so that no agent can write a control key of the journal
    assert split_key(text.encode()).address == text
    assert split_key(cell_key(text, "cell"))[1:] == (text, "cell")


@given(st.binary(max_size=300), st.integers(1, 1_000))
def test_every_key_has_a_partition(key: bytes, partitions: int) -> None:
    assert 0 <= partition_of(key, partitions) < partitions


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON_VALUES)
def test_builtins_come_back(message: Any) -> None:
    _, content_type, payload = encode(message)
    assert decoder_for(Any)(payload, content_type) == message


ANY_DECODER, DICT_DECODER = decoder_for(Any), decoder_for(dict[str, int])


@given(st.binary(), st.text() | st.sampled_from(["application/json", "application/x-protobuf"]))
def test_reading_any_payload_raises_only_our_errors(payload: bytes, content_type: str) -> None:
    for decoder in (ANY_DECODER, DICT_DECODER):
        with suppress(PayloadError):
            decoder(payload, content_type)


@st.composite
def positions(draw: st.DrawFn) -> Position:
    partitions = draw(st.integers(0, 5))
    lanes = []
    for _ in range(3):
        prefix = draw(st.integers(0, 2**62))
        done = bytes(draw(st.lists(st.integers(0, 1), max_size=40)))
        lanes.append(LanePosition(prefix, done, array("Q", [draw(U64) for _ in range(partitions)])))
    return Position(lanes, draw(U64), draw(U64), draw(U64), draw(U32), partitions)


MESSAGES = st.lists(st.tuples(st.none() | st.binary(max_size=9), st.binary(max_size=20)), max_size=5)
SLOTS = st.builds(Slot, U64, st.dictionaries(st.tuples(st.text(max_size=9), U32), MESSAGES, max_size=4))
CLAIMS = st.builds(Claim, st.integers(-1, 2**31), st.text(), U32)
AGENTS = st.builds(AgentRecord, st.text(), U32, st.integers(0, 255), st.binary())
RECORDS: list[tuple[Callable[[bytes], Any], st.SearchStrategy[tuple[bytes, Any]]]] = [
    (decode_claim, CLAIMS.map(lambda record: (encode_claim(record), record))),
    (decode_position, positions().map(lambda record: (encode_position(record), record))),
    (decode_slot, SLOTS.map(lambda record: (encode_slot(record), record))),
    (decode_agent, AGENTS.map(lambda record: (encode_agent(*record), record))),
]


@pytest.mark.parametrize(("decoder", "records"), RECORDS)
@given(data=st.data())
def test_journal_records_come_back_and_damage_raises_only_our_error(
    decoder: Callable[[bytes], Any], records: st.SearchStrategy[tuple[bytes, Any]], data: st.DataObject
) -> None:
    encoded, record = data.draw(records)
    assert decoder(encoded) == record
    cut = data.draw(st.integers(0, len(encoded)))
    tail = data.draw(st.binary(max_size=20))
    with suppress(JournalError):
        decoder(encoded[:cut] + tail)


@pytest.mark.parametrize("decoder", [decode_claim, decode_position, decode_slot, decode_agent, split_key])
@given(data=st.binary() | st.binary().map(lambda tail: b"\x01" + tail))
def test_garbage_in_the_journal_raises_only_our_error(decoder: Callable[[bytes], Any], data: bytes) -> None:
    with suppress(JournalError):
        decoder(data)
