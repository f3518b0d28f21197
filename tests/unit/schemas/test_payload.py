from dataclasses import dataclass
from typing import Any

import msgspec
import pydantic
import pytest

from rookery.schemas.envelope import JSON
from rookery.schemas.envelope_pb2 import Delivery
from rookery.schemas.errors import PayloadError
from rookery.schemas.payload import OCTETS, PROTOBUF, decoder_for, encode


@dataclass
class Point:
    x: int
    y: int = 0


class Leg(msgspec.Struct):
    dest: str


class Order(pydantic.BaseModel):
    number: int


class Picky(pydantic.BaseModel):
    number: int

    @pydantic.field_validator("number")
    @classmethod
    def refuse(cls, value: int) -> int:
        raise KeyError(value)


@pytest.mark.parametrize(
    ("message", "annotation", "name", "content_type"),
    [
        (Point(1, 2), Point, "Point", JSON),
        (Leg("EWR"), Leg, "Leg", JSON),
        (Order(number=7), Order, "Order", JSON),
        (Delivery(source=7), Delivery, "Delivery", PROTOBUF),
        (b"\x00\xff", bytes, "bytes", OCTETS),
        (b"\x00\xff", Any, "bytes", OCTETS),
        ({"type": "PING", "n": 1}, dict, "PING", JSON),
        ({"n": 1}, dict[str, int], "dict", JSON),
        ({"type": 3}, Any, "dict", JSON),
        ([1, "a"], object, "list", JSON),
        ("text", str, "str", JSON),
        (3, int | None, "int", JSON),
        (None, Any, "NoneType", JSON),
    ],
)
def test_round_trip(message: object, annotation: Any, name: str, content_type: str) -> None:
    type_name, kind, payload = encode(message)
    assert (type_name, kind) == (name, content_type)
    assert decoder_for(annotation)(payload, kind) == message


def test_bytes_in_other_forms() -> None:
    assert encode(bytearray(b"a")) == encode(memoryview(b"a")) == ("bytes", OCTETS, b"a")
    assert decoder_for(bytearray)(b"a", OCTETS) == bytearray(b"a")


def test_json_reads_into_protobuf_messages_too() -> None:
    assert decoder_for(Delivery)(b'{"source": 7}', JSON) == Delivery(source=7)


def test_content_type_with_parameters() -> None:
    assert decoder_for(int)(b"3", "Application/JSON; charset=utf-8") == 3


def test_unknown_members_are_left_out_so_that_senders_may_be_newer() -> None:
    assert decoder_for(Point)(b'{"type": "Point", "x": 1, "z": 9}', JSON) == Point(1)


@pytest.mark.parametrize(
    ("annotation", "payload", "content_type", "why"),
    [
        (Point, b'{"x": "one"}', JSON, "Expected `int`"),
        (Point, b"{", JSON, "truncated"),
        (Point, b"{}", OCTETS, "handler reads application/json"),
        (Point, b"{}", "", "content type is ''"),
        (Any, b"\x08\x01", PROTOBUF, "application/x-protobuf"),
        (Any, b"[" * 100_000, JSON, "recursion"),
        (Any, b'"\xff"', JSON, "."),
        (Delivery, b"\xff", PROTOBUF, "."),
        (Delivery, b'{"nothing": 1}', JSON, "nothing"),
        (Delivery, b"x", OCTETS, "application/x-protobuf"),
        (Order, b'{"number": "x"}', JSON, "number"),
        (Picky, b'{"number": 1}', JSON, "1"),
    ],
)
def test_payloads_that_do_not_fit(annotation: Any, payload: bytes, content_type: str, why: str) -> None:
    with pytest.raises(PayloadError, match=why):
        decoder_for(annotation)(payload, content_type)


class Plain:
    pass


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize("message", [Plain(), {"a": Plain()}, {"type": "X", "a": object()}, CYCLE, "\ud800", 1j])
def test_messages_that_can_not_travel(message: object) -> None:
    with pytest.raises(PayloadError, match="can't be encoded"):
        encode(message)


@pytest.mark.parametrize("annotation", [Plain, Point | Leg | Order, "no type", 3])
def test_annotations_that_nothing_can_become(annotation: Any) -> None:
    with pytest.raises(PayloadError):
        decoder_for(annotation)
