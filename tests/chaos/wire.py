"""What stands in the topics, read by the documented layouts and nothing else.

`schemas/envelope.proto` and the head of `schemas/journal.py` are the documents. Nothing of the product is imported but
the class that protoc made of the .proto: a defect in the product's decoders must not hide itself here.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
from google.protobuf.message import DecodeError

from rookery.schemas.envelope_pb2 import DeadLetter, Envelope

LANES = ("low", "normal", "high")
CRC_TAG = 0x7D


class Damaged(Exception):
    """Bytes that are not what the layout says."""


# --- messages --------------------------------------------------------------------------------------------------------


class Order(msgspec.Struct):
    """The payload of a message of the workload; see `workload`."""

    n: int = 0
    ops: list[list[object]] = []
    asked: bool = False


class Heard(NamedTuple):
    """A message as it stands in an inbox or an outbox slot; `sequence` 0 comes from a client."""

    id: str
    sender: str
    target: str
    type: str
    source: int
    sequence: int
    payload: bytes
    causation_id: str = ""
    reply_to: str = ""


def envelope_crc_fits(value: bytes) -> bool:
    """Whether a record ends in field 15 and this is the CRC-32 of all bytes before it."""
    return len(value) > 5 and value[-5] == CRC_TAG and int.from_bytes(value[-4:], "little") == zlib.crc32(value[:-5])


def read_envelope(value: bytes | None) -> Heard:
    """Decode an inbox record; raises Damaged."""
    if value is None or not envelope_crc_fits(value):
        raise Damaged("crc")
    try:
        e = Envelope.FromString(value)
    except DecodeError as error:
        raise Damaged(str(error)) from None
    delivery = e.delivery
    return Heard(
        e.id, e.sender, e.target, e.type, delivery.source, delivery.sequence, e.payload, e.causation_id, e.reply_to
    )


def write_envelope(**fields: object) -> bytes:
    """An envelope as a stranger writes it: any Protobuf library, then the tag of field 15 and the CRC."""
    body = Envelope(**fields).SerializeToString()  # type: ignore[arg-type]
    return body + bytes((CRC_TAG,)) + zlib.crc32(body).to_bytes(4, "little")


def read_letter(value: bytes) -> DeadLetter:
    """Decode a dead letter; raises Damaged."""
    try:
        return DeadLetter.FromString(value)
    except DecodeError as error:
        raise Damaged(str(error)) from None


# --- the journal -----------------------------------------------------------------------------------------------------

FORMAT = 1
CELL_MARK = b"\x1f"


@dataclass(frozen=True, slots=True)
class Lane:
    """Progress of one lane: below `prefix` all is done, above it what `done` says (offsets)."""

    prefix: int
    done: frozenset[int]


@dataclass(frozen=True, slots=True)
class Pos:
    """A `~pos` record."""

    lanes: tuple[Lane, ...]
    next_slot: int
    next_sequence: int
    sent_through: int
    ring: int
    partitions: int


class SlotRecord(NamedTuple):
    """A `~out/<i>` record: (topic, partition) -> messages as (key, value)."""

    number: int
    messages: dict[tuple[str, int], list[tuple[bytes | None, bytes]]]


class Reader:
    """Little-endian numbers and bytes, one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        chunk = self.data[self.at : self.at + size]
        if len(chunk) != size:
            raise Damaged(f"{size} bytes wanted at {self.at} of {len(self.data)}")
        self.at += size
        return chunk

    def numbers(self, form: str) -> Sequence[int]:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))

    def end(self) -> None:
        if self.at != len(self.data):
            raise Damaged(f"{len(self.data) - self.at} bytes are left")


def _open(value: bytes) -> Reader:
    reader = Reader(value)
    if reader.numbers("B")[0] != FORMAT:
        raise Damaged("unknown format")
    return reader


def read_position(value: bytes) -> Pos:
    """format, partitions u32, ring u32, next slot, next sequence, sent-through u64; per lane: topic id of the inbox
    (16 bytes), prefix u64, count of done flags u32, the flags as bits (lowest first), last sequence of each source u64.
    """
    reader = _open(value)
    partitions, ring, next_slot, next_sequence, sent_through = reader.numbers("IIQQQ")
    lanes = []
    for _ in LANES:
        reader.take(16)
        prefix, count = reader.numbers("QI")
        bits = reader.take((count + 7) // 8)
        done = frozenset(prefix + i for i in range(count) if bits[i // 8] >> i % 8 & 1)
        reader.take(8 * partitions)
        lanes.append(Lane(prefix, done))
    reader.end()
    return Pos(tuple(lanes), next_slot, next_sequence, sent_through, ring, partitions)


def read_slot(value: bytes) -> SlotRecord:
    """format, number u64, count of destinations u32; per destination: size of topic u16, topic, partition u32, count of
    messages u32, sizes of keys i32 (-1: no key), sizes of values u32, keys and values in turn."""
    reader = _open(value)
    number, destinations = reader.numbers("QI")
    slot = SlotRecord(number, {})
    for _ in range(destinations):
        topic = reader.take(reader.numbers("H")[0]).decode()
        partition, count = reader.numbers("II")
        keys, values = reader.numbers(f"{count}i"), reader.numbers(f"{count}I")
        slot.messages[topic, partition] = [
            (reader.take(k) if k >= 0 else None, reader.take(v)) for k, v in zip(keys, values, strict=True)
        ]
    reader.end()
    return slot


class AgentRow(NamedTuple):
    """An agent's record: format, flags u8, state version u32, size of type u16, type, state."""

    flags: int
    type: str
    state: bytes


def read_agent(value: bytes) -> AgentRow:
    """Decode an agent's record; raises Damaged."""
    reader = _open(value)
    flags, _, size = reader.numbers("BIH")
    name = reader.take(size).decode()
    return AgentRow(flags, name, value[reader.at :])


DONE = 2


def read_step(value: bytes) -> int:
    """The state of a step's cell: a format byte, then msgpack: kind, name, digest, state, what came of it."""
    return int(msgspec.msgpack.decode(_open(value).data[1:])[3])


def lease_of(headers: Sequence[tuple[str, bytes]]) -> int | None:
    """The number in the header `l`, big-endian; None on a claim."""
    for name, value in headers:
        if name == "l":
            return int.from_bytes(value, "big")
    return None
