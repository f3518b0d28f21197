import zlib
from typing import Any

import pytest

from rookery.schemas.envelope import JSON, SEAL_BYTES, Priority, decode, decode_json, encode_body, is_json, seal
from rookery.schemas.envelope_pb2 import Priority as WirePriority
from rookery.schemas.errors import CrcMismatch, MissingCrc, Undecodable

BODY = encode_body("A/1", "B/2", b"{}", 5, Priority.HIGH, "id", "Add", JSON)


def test_what_seal_adds() -> None:
    assert len(seal(BODY)) == len(BODY) + 5
    assert len(seal(BODY, 2**32 - 1, 2**64 - 1)) == len(BODY) + SEAL_BYTES
    envelope = decode(seal(BODY, 7, 9))
    assert (envelope.delivery.source, envelope.delivery.sequence) == (7, 9)
    assert envelope.crc32 == zlib.crc32(seal(BODY, 7, 9)[:-5])
    assert decode(seal(BODY)).delivery.sequence == 0


def test_sealing_keeps_the_schema_version() -> None:
    envelope = decode(seal(encode_body("A/1", "B/2", b"", 5, 1, "id", "Add", JSON, schema_version=4), 7, 9))
    assert (envelope.delivery.schema_version, envelope.delivery.sequence) == (4, 9)


def test_priorities_are_those_of_the_wire_and_number_the_lanes() -> None:
    assert {p.name: int(p) for p in Priority} == dict(WirePriority.items()) == {"LOW": 0, "NORMAL": 1, "HIGH": 2}


def test_a_record_without_value_has_no_crc() -> None:
    with pytest.raises(MissingCrc):
        decode(None)


def test_a_mismatch_names_both_numbers() -> None:
    with pytest.raises(CrcMismatch) as caught:
        decode(b"abc\x7d\x01\x00\x00\x00")
    assert (caught.value.stated, caught.value.computed) == (1, zlib.crc32(b"abc"))


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], False),
        ([("content-type", b"application/json")], True),
        ([("Content-Type", b"Application/JSON; charset=utf-8")], True),
        ([("type", b"application/json")], False),
        ([("content-type", None)], False),
        ([("content-type", b"application/x-protobuf")], False),
    ],
)
def test_is_json(headers: list[tuple[str, bytes | None]], expected: bool) -> None:
    assert is_json(headers) is expected


def read(value: bytes | None, key: bytes | None = b"Counter/a", **headers: bytes | None) -> Any:
    names = [(name.replace("_", "-"), content) for name, content in headers.items()]
    return decode_json(key, value, names, 1_500, "app.inbox.high", 3, 42, Priority.HIGH)


def test_json_with_all_headers() -> None:
    envelope = read(
        b'{"n": 1}',
        type=b"Add",
        id=b"order-7",
        reply_to=b"desk.7",
        correlation_id=b"c",
        sender=b"shop",
        deadline_ms=b"2500",
        traceparent=b"00-1-2-01",
        other=b"\xff"[:0],
    )
    assert (envelope.target, envelope.payload, envelope.type, envelope.id) == (
        "Counter/a",
        b'{"n": 1}',
        "Add",
        "order-7",
    )
    assert (envelope.sender, envelope.reply_to, envelope.correlation_id) == ("shop", "json:desk.7", "c")
    assert (envelope.timestamp, envelope.deadline) == (1_500_000_000, 2_500_000_000)
    assert (envelope.content_type, envelope.priority) == (JSON, Priority.HIGH)
    assert dict(envelope.headers) == {"traceparent": "00-1-2-01"}


def test_json_without_headers_takes_its_type_from_the_body_and_its_id_from_the_record() -> None:
    envelope = read(b'{"type": "Add", "n": 1}')
    assert (envelope.type, envelope.id) == ("Add", "app.inbox.high/3/42")
    assert (envelope.sender, envelope.reply_to, envelope.deadline) == ("", "", 0)


@pytest.mark.parametrize("value", [b"3", b"[1]", b'"type"', b"null", b'{"type": 3}', b"{}"])
def test_any_json_is_a_body(value: bytes) -> None:
    envelope = read(value)
    assert (envelope.payload, envelope.type) == (value, "")


def test_the_header_type_wins_over_the_body() -> None:
    assert read(b'{"type": "Sub"}', type=b"Add").type == "Add"


@pytest.mark.parametrize("value", [None, b"", b"{", b"{}}", b"\xff", b'{"a": NaN}', b"[" * 100_000])
def test_what_is_no_json(value: bytes | None) -> None:
    with pytest.raises(Undecodable):
        read(value)


@pytest.mark.parametrize("key", [None, b"", b"\xff\xfe"])
def test_json_needs_a_key(key: bytes | None) -> None:
    with pytest.raises(Undecodable):
        read(b"{}", key)


@pytest.mark.parametrize(
    "headers",
    [
        {"reply_to": b"no name"},
        {"deadline_ms": b"soon"},
        {"deadline_ms": b"9" * 30},
        {"id": b"\xff"},
        {"type": b"\xff"},
    ],
)
def test_headers_that_say_nothing(headers: dict[str, bytes]) -> None:
    with pytest.raises(Undecodable):
        read(b"{}", **headers)


def test_a_header_without_value_is_not_given() -> None:
    assert read(b'{"type": "Add"}', type=None, reply_to=None).type == "Add"
