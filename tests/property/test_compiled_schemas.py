"""The compiled reading and writing of envelopes and slots does what its Python twin does, for all bytes and values."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rookery.schemas import journal, native, wire
from rookery.schemas.envelope import Envelope, Priority, encode_body, seal
from rookery.schemas.errors import CrcMismatch
from rookery.schemas.journal import Slot
from tests.property.test_schemas import BODIES, SLOTS, U32, U64

READ: Any = native.load("rookery.schemas._wire")
WRITE: Any = native.load("rookery.schemas._write")
SLOT: Any = native.load("rookery.schemas._slots")
pytestmark = pytest.mark.compiled

TEXTS = ("sender", "target", "id", "correlation_id", "causation_id", "reply_to", "type", "content_type")
NUMBERS = ("timestamp", "priority", "deadline", "crc32")


def fields(envelope: Any) -> dict[str, Any]:
    """All that a reader sees, with types: no field may come as another kind of object."""
    delivery = envelope.delivery
    found = {name: getattr(envelope, name) for name in (*TEXTS, *NUMBERS, "payload")}
    found |= {name: getattr(delivery, name) for name in ("source", "sequence", "attempt", "schema_version")}
    found["headers"] = dict(envelope.headers)
    present = envelope.HasField("delivery") if isinstance(envelope, Envelope) else envelope.has_delivery
    return {"delivery": bool(present)} | {name: (type(value), value) for name, value in found.items()}


def outcome(function: Callable[..., Any], *args: Any, **more: Any) -> Any:
    """What it returns, or class and text of what it raises."""
    try:
        result = function(*args, **more)
    except Exception as error:  # whatever it is, the twin must raise it, too
        return type(error), str(error)
    return result if isinstance(result, bytes) else fields(result)


def same(data: Any) -> None:
    assert outcome(READ.decode_frame, data) == outcome(wire.decode, data)


def with_crc(data: bytes) -> bytes:
    return data + b"\x7d" + zlib.crc32(data).to_bytes(4, "little")


# --- bytes, from the valid to the absurd ----------------------------------------------------------------------------


def varint(n: int, padding: int = 0) -> bytes:
    """A varint, with bytes that say nothing if there is `padding`."""
    out = bytearray()
    while n > 0x7F or padding:
        padding -= n <= 0x7F
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes((*out, n))


NUMBER = st.builds(varint, U64 | st.integers(0, 300) | st.integers(2**64, 2**70), st.sampled_from([0, 0, 0, 1, 3, 6]))
SHORT = st.builds(varint, st.integers(0, 40), st.sampled_from([0, 0, 0, 1, 3, 4, 5]))
TEXT = (
    st.text(max_size=8).map(str.encode)
    | st.binary(max_size=8)
    | st.sampled_from([b"Counter/1", b"a" * 128, b"a" * 129, b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"])
)


def sized(tag: int, content: bytes, claimed: bytes | None = None) -> bytes:
    """A field with a length, which may be a lie."""
    return bytes((tag,)) + (varint(len(content)) if claimed is None else claimed) + content


def tagged(tag: int, rest: bytes) -> bytes:
    return bytes((tag,)) + rest


TEXT_TAGS = st.sampled_from([0x0A, 0x12, 0x1A, 0x32, 0x3A, 0x42, 0x4A, 0x52, 0x5A])
DELIVERY = st.lists(
    st.builds(tagged, st.just(0x0D), st.binary(min_size=4, max_size=4))
    | st.builds(tagged, st.just(0x11), st.binary(min_size=8, max_size=8))
    | st.builds(tagged, st.sampled_from([0x18, 0x20]), NUMBER)
    | st.binary(max_size=3),
    max_size=4,
).map(b"".join)
ENTRY = (
    st.builds(lambda key, value: sized(0x0A, key) + sized(0x12, value), TEXT, TEXT)
    | st.lists(st.builds(sized, st.sampled_from([0x0A, 0x12, 0x1A]), TEXT), max_size=3).map(b"".join)
    | st.binary(max_size=6)
)
FIELD = (
    st.builds(sized, TEXT_TAGS, TEXT)
    | st.builds(sized, TEXT_TAGS, TEXT, SHORT)
    | st.builds(tagged, st.sampled_from([0x20, 0x28, 0x60]), NUMBER)
    | st.builds(sized, st.just(0x6A), DELIVERY)
    | st.builds(sized, st.just(0x72), ENTRY)
    | st.builds(tagged, st.just(0x7D), st.binary(min_size=4, max_size=4))
)
UNUSUAL = (
    st.builds(tagged, st.integers(0, 255), NUMBER)
    | st.builds(sized, st.integers(0, 255), TEXT)
    | st.builds(lambda number, rest: varint(number) + rest, st.integers(16 << 3, 2**33), NUMBER)
    | st.builds(
        lambda tag, rest: bytes((tag & 0xF8 | 3,)) + rest + bytes((tag & 0xF8 | 4,)), st.integers(0, 127), FIELD
    )
    | st.binary(max_size=5)
)


@given(st.lists(FIELD, max_size=12).map(b"".join))
def test_known_fields_in_any_order_and_number(data: bytes) -> None:
    same(with_crc(data))


@given(st.lists(FIELD | UNUSUAL, max_size=8).map(b"".join))
def test_fields_beside_what_nobody_knows(data: bytes) -> None:
    same(with_crc(data))


@given(st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    same(data)
    same(with_crc(data))
    same(bytearray(with_crc(data)))
    same(memoryview(data))


@pytest.mark.parametrize("data", [None, "text", 3, b"", b"\x7d\0\0\0\0", b"\x7d" * 5, b"\x7d" * 4])
def test_what_is_no_record(data: Any) -> None:
    same(data)


@pytest.mark.parametrize("tag", [0x20, 0x28, 0x60])
@pytest.mark.parametrize(
    "number",
    [
        *map(varint, (2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 5, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**69, 2**70)),
        *(varint(n, padding) for n in (0, 1, 300) for padding in range(1, 11)),
        b"\xff" * 9 + b"\x7f",
        b"\x80" * 10,
    ],
    ids=bytes.hex,
)
def test_numbers_that_are_long(tag: int, number: bytes) -> None:
    same(with_crc(tagged(tag, number)))
    same(with_crc(sized(0x6A, tagged(0x18, number) + tagged(0x20, number))))


@pytest.mark.parametrize("tag", [0x0A, 0x1A, 0x6A, 0x72])
@pytest.mark.parametrize("padding", range(11))
def test_sizes_that_are_long(tag: int, padding: int) -> None:
    for claimed in (0, 4, 5, 2**31 - 1, 2**31, 2**32 + 4, 2**63, 2**64 - 1):
        same(with_crc(sized(tag, b"\x0a\x00\x12\x00", varint(claimed, padding))))


def every_field(number: int) -> bytes:
    envelope = Envelope(
        sender="Order/é", target="Counter/1", payload=b"{}", timestamp=1_700_000_000_000_000_000, priority="HIGH",
        id="i-1", correlation_id="c-1", causation_id="", reply_to="client:me", type="Add",
        content_type="application/json", deadline=-number, headers={"traceparent": "00-ü-1"},
    )  # fmt: skip
    envelope.delivery.source, envelope.delivery.sequence = number, 2**63 + number
    envelope.delivery.attempt, envelope.delivery.schema_version = 2**32 - 1, 300
    return envelope.SerializeToString()


def test_each_byte_that_changes_goes_and_comes_wherever_it_stands() -> None:
    good, rng = every_field(7), random.Random(1)
    same(with_crc(good))
    for at in range(len(good)):
        for byte in {good[at] ^ 1 << bit for bit in range(8)} | {0, 0x7F, 0x80, 0xFF, rng.randrange(256)}:
            same(with_crc(good[:at] + bytes((byte,)) + good[at + 1 :]))
            same(with_crc(good[:at] + bytes((byte,)) + good[at:]))
        same(with_crc(good[:at]))
        same(with_crc(good[:at] + good[at + 1 :]))
        same(with_crc(good)[:at])
    for byte in range(256):
        same(with_crc(good + bytes((byte,))))
        same(with_crc(good) + bytes((byte,)))
    for bit in range(8 * len(with_crc(good))):
        record = with_crc(good)
        same((int.from_bytes(record) ^ 1 << bit).to_bytes(len(record)))


@given(st.integers(8_100, 8_300), st.sampled_from(["payload", "id"]))
def test_frames_around_their_limit(size: int, name: str) -> None:
    fields: dict[str, Any] = {name: b"x" * size if name == "payload" else "x" * size}
    same(with_crc(Envelope(target="A/1", **fields).SerializeToString()))
    same(with_crc(Envelope(target="A/1", payload=b"x" * 9_000, id="i" * (size - 20)).SerializeToString()))


# --- frames ---------------------------------------------------------------------------------------------------------


def test_the_usual_needs_no_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    def twin(*_: object) -> None:
        raise AssertionError("not for this")

    data = with_crc(every_field(1))
    for name in ("decode", "encode_body", "seal"):
        monkeypatch.setattr(wire, name, twin)
    monkeypatch.setattr(journal, "encode_slot_pure", twin)
    assert READ.decode_frame(data).sequence == 2**63 + 1
    body = WRITE.encode_body("é", "B/2", b"{}", -1, 1, "i", "T", "c", "", "", "client:c", 5, 7, {"traceparent": "t"})
    assert READ.decode_frame(WRITE.seal(body, 1, 2)).schema_version == 7
    assert SLOT.encode_slot(Slot(1, {("t", 1): [(None, b"a"), (b"k", b"b")]}))


def test_texts_that_come_again_are_the_same_object() -> None:
    one, other = READ.decode_frame(with_crc(every_field(1))), READ.decode_frame(with_crc(every_field(2)))
    for name in ("target", "type", "content_type", "reply_to"):
        assert getattr(one, name) is getattr(other, name)
    assert one.sender == other.sender == "Order/é"


@given(st.lists(st.text(max_size=10), min_size=1, max_size=40))
def test_shared_texts_are_never_mixed_up(texts: list[str]) -> None:
    for text in texts * 2:
        assert READ.decode_frame(with_crc(Envelope(sender=text).SerializeToString())).sender == text


def test_more_names_than_there_are_places() -> None:
    for _ in range(2):
        for number in range(40_000):
            name = b"A/%d" % number
            assert READ.decode_frame(with_crc(sized(0x12, name))).target == name.decode()


def test_a_frame_and_its_envelope() -> None:
    data = with_crc(every_field(3))
    frame = READ.decode_frame(data)
    envelope = READ.envelope_of(frame)
    assert envelope == Envelope.FromString(data)
    assert READ.envelope_of(frame) is envelope
    assert READ.envelope_of(envelope) is envelope
    assert (frame.raw, fields(READ.frame_of(envelope))) == (data, fields(frame))
    assert "Add i-1 from Order/é to Counter/1" in repr(frame)
    with pytest.raises(TypeError):
        READ.Frame()


# --- writing --------------------------------------------------------------------------------------------------------

ODD: dict[str, list[Any]] = {
    "sender": ["\ud800", None, 3, type("S", (str,), {})("sub")],
    "payload": [bytearray(b"x"), memoryview(b"y"), None, "text"],
    "timestamp": [2**63, -(2**63) - 1, 2**70, None, 1.5],
    "priority": [-1, 127, 128, 300, 2**40, None, True],
    "id": ["\udcff", None, b"x"],
    "correlation_id": ["x\ud800", None],
    "reply_to": ["\ud800", None, 5],
    "deadline": [2**63, -(2**63), 2.5, None],
    "schema_version": [-1, 2**32, 2**32 - 1, None, "x"],
    "headers": [
        {},
        {"a": "\ud800"},
        {"\ud800": ""},
        {"a": 1},
        {3: "a"},
        [("a", "b")],
        5,
        {"": ""},
        {"a": "b", "c": "d"},
    ],
}


@given(BODIES, U32 | st.just(0))
def test_bodies_are_the_same_to_the_byte(body: dict[str, Any], version: int) -> None:
    compiled, pure = (twin.encode_body(**body, schema_version=version) for twin in (WRITE, wire))
    if len(body.get("headers", ())) < 2:
        assert compiled == pure
    else:  # Protobuf writes several in an order of its own
        assert Envelope.FromString(compiled) == Envelope.FromString(pure)


PLAIN = ("S/1", "T/1", b"{}", 1_700_000_000_000_000_000, 1, "i", "Add", "application/json")


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ODD.items() for value in values])
def test_an_odd_value_has_the_same_fate(name: str, value: Any) -> None:
    body = dict(
        zip(("sender", "target", "payload", "timestamp", "priority", "id", "type", "content_type"), PLAIN, strict=True)
    )
    body |= {name: value}
    compiled, pure = (outcome(twin.encode_body, **body) for twin in (WRITE, wire))
    if name == "headers" and isinstance(pure, bytes):
        compiled, pure = Envelope.FromString(compiled), Envelope.FromString(pure)
    assert compiled == pure


@given(BODIES, st.data())
def test_odd_values_have_the_same_fate(body: dict[str, Any], data: st.DataObject) -> None:
    body.pop("headers", None)
    for name in data.draw(st.lists(st.sampled_from(sorted(ODD)), min_size=1, max_size=2, unique=True)):
        body[name] = data.draw(st.sampled_from(ODD[name]))
    assert outcome(WRITE.encode_body, **body) == outcome(wire.encode_body, **body)


@given(
    st.binary(max_size=400),
    st.none() | U32 | st.sampled_from([-1, 2**32, 1.5]),
    U64 | st.sampled_from([-1, 2**64, None]),
)
def test_seals_are_the_same_to_the_byte(body: bytes, source: Any, sequence: Any) -> None:
    assert outcome(WRITE.seal, body, source, sequence) == outcome(wire.seal, body, source, sequence)
    assert WRITE.seal(body) == wire.seal(body)


@pytest.mark.parametrize("size", [*range(40), 4_096, 100_001])
def test_the_crc_is_that_of_zlib(size: int) -> None:
    body = random.Random(size).randbytes(size)
    assert WRITE.seal(body) == with_crc(body)
    with pytest.raises(CrcMismatch):
        READ.decode_frame(body + b"\x7d" + (zlib.crc32(body) ^ 1).to_bytes(4, "little"))


@given(SLOTS)
def test_slots_are_the_same_to_the_byte(slot: Slot) -> None:
    assert SLOT.encode_slot(slot) == journal.encode_slot_pure(slot)


@pytest.mark.parametrize(
    "slot",
    [
        Slot(-1, {}),
        Slot(2**64 - 1, {}),
        Slot(2**64, {}),
        Slot(1, {("t" * 65_535, 1): []}),
        Slot(1, {("t" * 65_536, 1): []}),
        Slot(1, {("\ud800", 1): []}),
        Slot(1, {("t", -1): []}),
        Slot(1, {("t", 2**32): []}),
        Slot(1, {("t", 1): [(b"k", None)]}),  # type: ignore[list-item]
        Slot(1, {("t", 1): [(bytearray(b"k"), memoryview(b"v"))]}),  # type: ignore[list-item]
        Slot(1, {("t", 1): ((None, b"v"), (b"k", b""))}),  # type: ignore[dict-item]
        Slot(1, {("t", 1): [[b"k", b"v"]]}),  # type: ignore[list-item]
        Slot(1, {("t", 1): [(b"k", b"v", b"w")]}),  # type: ignore[list-item]
        Slot(1, {("t", True): [(b"", b"")]}),
    ],
)
def test_odd_slots_have_the_same_fate(slot: Slot) -> None:
    assert outcome(SLOT.encode_slot, slot) == outcome(journal.encode_slot_pure, slot)


# --- checksums ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_table", [False, True])
def test_every_crc_is_that_of_zlib(by_table: bool) -> None:
    chance = random.Random(20)
    memory = memoryview(chance.randbytes(2_100))
    for size in range(2_001):
        for at in {0, chance.randrange(64), 2_100 - size}:
            data = memory[at : at + size]
            assert WRITE.checksum(data, by_table=by_table) == zlib.crc32(data), (size, at)


@pytest.mark.parametrize("frequent", ["sender", "target"])
def test_frequent_names_are_one_object_among_many_rare_ones(frequent: str) -> None:
    rng, same, names = random.Random(frequent), 0, dict[str, str]()
    for number in range(40_000):
        name = f"{frequent}/{rng.randrange(100)}"
        sender, target = (name, f"Rare/{number}") if frequent == "sender" else (f"rare/{number}", name)
        frame = READ.decode_frame(seal(encode_body(sender, target, b"", 1, Priority.NORMAL, "id", "type", "x")))
        assert (frame.sender, frame.target) == (sender, target)
        found = getattr(frame, frequent)
        same += names.get(name) is found
        names[name] = found
    assert same > 30_000
