"""Records of the journal: keys, values, and the lease header that stands on all of them but claims.

Values begin with a format byte, integers are little-endian. The layouts serve the writer, who encodes a position with
every commit batch and a slot with most; the reader checks everything, since recovery must not guess.

    ~claim       format, generation i64, partitions u32, worker
    ~pos         format, partitions u32, ring u32, next slot, next sequence, sent-through u64; per lane: topic id of the
                 inbox (16 bytes), prefix u64, count of done flags u32, the flags as bits (lowest first), last sequence
                 of each source u64
    ~out/<i>     format, number u64, count of destinations u32; per destination: size of topic u16, topic,
                 partition u32, count of messages u32, sizes of keys i32 (-1: no key), sizes of values u32, keys and
                 values in turn
    ~opt/...     what a later version may add and this one can do without
    <address>    format, flags u8, state version u32, size of type u16, type, state
"""

from __future__ import annotations

import re
import struct
import sys
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache, wraps
from itertools import chain
from typing import NamedTuple, TypeVar

from rookery.schemas import native
from rookery.schemas.envelope import Priority
from rookery.schemas.partition_errors import JournalError

FORMAT = 1
_FORMAT = bytes((FORMAT,))
_LANES = len(Priority)

# --- keys -----------------------------------------------------------------------------------------------------------

# No address begins with "~", and none has a control character.
CLAIM = b"~claim"
POSITION = b"~pos"
SLOT_PREFIX = b"~out/"
OPTIONAL_PREFIX = b"~opt/"
"""Under it a later version may keep what this one can do without: ignored here. Every other unknown key is an error."""
_CELL = "\x1f"
CELL_MARK = _CELL.encode()


class KeyKind(Enum):
    """What a journal key holds."""

    CLAIM = "claim"
    POSITION = "position"
    SLOT = "slot"
    OPTIONAL = "optional"
    AGENT = "agent"
    CELL = "cell"


class Key(NamedTuple):
    """A journal key taken apart; `address` is that of the agent, `cell` the name of its cell."""

    kind: KeyKind
    address: str = ""
    cell: str = ""


def slot_key(number: int, ring: int) -> bytes:
    """The key under which slot `number` of an outbox of `ring` slots is kept."""
    return b"~out/%d" % (number % ring)


def cell_key(address: str, cell: str) -> bytes:
    """The key of a cell of an agent."""
    return f"{address}{_CELL}{cell}".encode()


def split_key(key: bytes) -> Key:
    """Say what a key holds; raises JournalError for one that this version doesn't know."""
    if key.startswith(SLOT_PREFIX):
        return Key(KeyKind.SLOT)
    if key.startswith(OPTIONAL_PREFIX):
        return Key(KeyKind.OPTIONAL)
    if key.startswith(b"~"):
        kind = {CLAIM: KeyKind.CLAIM, POSITION: KeyKind.POSITION}.get(key)
        if kind is None:
            raise JournalError(repr(key), "unknown key, written by a newer version: run that one, or a later one")
        return Key(kind)
    try:
        address, mark, cell = key.decode().partition(_CELL)
    except UnicodeDecodeError:
        raise JournalError(repr(key), "the key is not UTF-8") from None
    return Key(KeyKind.CELL, address, cell) if mark else Key(KeyKind.AGENT, address)


# --- the lease header -----------------------------------------------------------------------------------------------

LEASE_HEADER = "l"
_LEASE = struct.Struct(">Q")


def lease_header(offset: int) -> bytes:
    """The value of the lease header: the offset of the lease's claim."""
    return _LEASE.pack(offset)


def lease_number(value: bytes) -> int:
    """The offset in a lease header; raises JournalError."""
    if len(value) != _LEASE.size:
        raise JournalError("lease header", f"{len(value)} bytes instead of {_LEASE.size}")
    return int.from_bytes(value)


# --- values ---------------------------------------------------------------------------------------------------------

_T = TypeVar("_T")
_Decoder = Callable[[bytes], _T]


def _checked(record: str) -> Callable[[_Decoder[_T]], _Decoder[_T]]:
    """Make a decoder check the format byte and raise JournalError for whatever else is wrong."""

    def decorate(decode: _Decoder[_T]) -> _Decoder[_T]:
        @wraps(decode)
        def checked(data: bytes) -> _T:
            if data[:1] != _FORMAT:
                raise JournalError(
                    record, f"format {data[0]}, known is {FORMAT}: use a newer version" if data else "empty"
                )
            try:
                return decode(data)
            except (struct.error, ValueError) as error:  # also UnicodeDecodeError
                raise JournalError(record, f"damaged: {error}") from None

        return checked

    return decorate


@dataclass(frozen=True, slots=True)
class Claim:
    """The first record of a lease: who took the partition over, and for which number of partitions."""

    generation: int
    worker: str
    partitions: int


_CLAIM_HEAD = struct.Struct("<BqI")


def encode_claim(claim: Claim) -> bytes:
    """The value of a claim."""
    return _CLAIM_HEAD.pack(FORMAT, claim.generation, claim.partitions) + claim.worker.encode()


@_checked("~claim")
def decode_claim(data: bytes) -> Claim:
    """Read a claim; raises JournalError."""
    _, generation, partitions = _CLAIM_HEAD.unpack_from(data)
    return Claim(generation, data[_CLAIM_HEAD.size :].decode(), partitions)


NO_INCARNATION = bytes(16)
"""Of a topic whose id is not known."""


@dataclass(slots=True)
class LanePosition:
    """Progress of one lane: all offsets below `prefix` are done, and `prefix + i` where byte i of `done` is 1, else 0.

    `seen[p]` is the last sequence from source partition p among the records below the prefix. `incarnation` tells the
    inbox from one that was made again under its name: the offsets mean nothing there. On the wire a flag takes one bit,
    so that the size is bounded by the window of unfinished records, however torn it is.
    """

    prefix: int
    done: bytes
    seen: array[int]  # of typecode "Q"
    incarnation: bytes = NO_INCARNATION

    @classmethod
    def fresh(cls, start: int, partitions: int) -> LanePosition:
        """Nothing done and nothing seen from offset `start` on."""
        return cls(start, b"", array("Q", bytes(8 * partitions)))

    def ranges(self) -> list[tuple[int, int]]:
        """The done offsets above the prefix as ascending ranges [start, end)."""
        return [(self.prefix + m.start(), self.prefix + m.end()) for m in _DONE_RUN.finditer(self.done)]


@dataclass(slots=True)
class Position:
    """How far a partition has come: its lanes by value of Priority, its outbox ring, and N."""

    lanes: Sequence[LanePosition]
    next_slot: int
    next_sequence: int
    sent_through: int
    ring: int
    partitions: int


_POSITION_HEAD = struct.Struct("<BIIQQQ")
_LANE_HEAD = struct.Struct("<16sQI")
# Between flags (bytes 0 and 1) and binary digits, so that C packs them.
_DIGITS, _FLAGS = bytes.maketrans(b"\x00\x01", b"01"), bytes.maketrans(b"01", b"\x00\x01")
_DONE_RUN = re.compile(rb"\x01+")


def encode_position(position: Position) -> bytes:
    """The value of a position; raises ValueError if `seen` doesn't have one entry for each partition."""
    p = position
    parts = [_POSITION_HEAD.pack(FORMAT, p.partitions, p.ring, p.next_slot, p.next_sequence, p.sent_through)]
    for lane in p.lanes:
        if len(lane.seen) != p.partitions:
            raise ValueError(f"{len(lane.seen)} sequences for {p.partitions} partitions")
        prefix, done = lane.prefix, lane.done
        parts.append(_LANE_HEAD.pack(lane.incarnation, prefix, len(done)))
        if done:
            parts.append(int(done.translate(_DIGITS)[::-1], 2).to_bytes((len(done) + 7) // 8, "little"))
        parts.append(_little_endian(lane.seen).tobytes())
    return b"".join(parts)


@_checked("~pos")
def decode_position(data: bytes) -> Position:
    """Read a position; raises JournalError."""
    _, partitions, ring, next_slot, next_sequence, sent_through = _POSITION_HEAD.unpack_from(data)
    lanes, at = [], _POSITION_HEAD.size
    for _ in range(_LANES):
        incarnation, prefix, count = _LANE_HEAD.unpack_from(data, at)
        at += _LANE_HEAD.size
        size = (count + 7) // 8
        if at + size > len(data):
            raise ValueError(f"{count} done flags at {at}, the record has {len(data)} bytes")
        bits = int.from_bytes(data[at : at + size], "little")
        at += size
        if bits >> count:
            raise ValueError("more done flags than counted")
        done = f"{bits:0{count}b}".encode().translate(_FLAGS)[::-1] if count else b""
        seen = _little_endian(array("Q", data[at : at + 8 * partitions]))
        at += 8 * partitions
        lanes.append(LanePosition(prefix, done, seen, incarnation))
    if at != len(data):  # a slice beyond the end was short, and this finds it
        raise ValueError(f"it ends at {len(data)} instead of {at}")
    return Position(lanes, next_slot, next_sequence, sent_through, ring, partitions)


def _little_endian(numbers: array[int]) -> array[int]:
    """The array in wire order, from or to that of the machine."""
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers


# Record key and value; topic and partition.
Message = tuple[bytes | None, bytes]
Destination = tuple[str, int]


class Slot(NamedTuple):
    """The messages that one commit batch sends: for each destination, in the order in which turns finished."""

    number: int
    messages: dict[Destination, list[Message]]


_SLOT_HEAD = struct.Struct("<BQI")
_TOPIC_SIZE = struct.Struct("<H")
_GROUP_HEAD = struct.Struct("<II")


def encode_slot_pure(slot: Slot) -> bytes:
    """The value of an outbox slot; `_slots.pyx` is its twin."""
    parts = [_SLOT_HEAD.pack(FORMAT, slot.number, len(slot.messages))]
    for (topic, partition), messages in slot.messages.items():
        name, count = topic.encode(), len(messages)
        parts += (_TOPIC_SIZE.pack(len(name)), name, _GROUP_HEAD.pack(partition, count))
        flat = list(chain.from_iterable(messages))
        try:
            sizes = [*map(len, flat[::2]), *map(len, flat[1::2])]  # type: ignore[arg-type]  # see below
        except TypeError:  # a key is None
            sizes = [-1 if key is None else len(key) for key in flat[::2]] + [len(value) for _, value in messages]
        parts.append(struct.pack(f"<{count}i{count}I", *sizes))
        parts += filter(None, flat)
    return b"".join(parts)


encode_slot = encode_slot_pure
if (_slots := native.load("rookery.schemas._slots")) is not None:
    encode_slot = _slots.encode_slot


@_checked("~out")
def decode_slot(data: bytes) -> Slot:
    """Read an outbox slot; raises JournalError."""
    _, number, destinations = _SLOT_HEAD.unpack_from(data)
    at = _SLOT_HEAD.size
    slot = Slot(number, {})
    for _ in range(destinations):
        (size,) = _TOPIC_SIZE.unpack_from(data, at)
        at += _TOPIC_SIZE.size
        topic = data[at : at + size].decode()
        at += size
        partition, count = _GROUP_HEAD.unpack_from(data, at)
        at += _GROUP_HEAD.size
        sizes = struct.unpack_from(f"<{count}i{count}I", data, at)
        at += 8 * count
        slot.messages[topic, partition], at = _messages(data, at, zip(sizes[:count], sizes[count:], strict=True))
    if at != len(data) or len(slot.messages) != destinations:
        raise ValueError(f"it ends at {len(data)} instead of {at}, or a destination stands twice")
    return slot


def _messages(data: bytes, at: int, sizes: Iterable[tuple[int, int]]) -> tuple[list[Message], int]:
    """Cut messages out of a slot; returns them and the position behind them."""
    messages: list[Message] = []
    for key_size, value_size in sizes:
        middle = at + max(key_size, 0)
        key = data[at:middle] if key_size >= 0 else None
        at = middle + value_size
        messages.append((key, data[middle:at]))
    return messages, at


RETIRED = 1


class AgentRecord(NamedTuple):
    """What the journal keeps of an agent; `version` is that of its state's schema, `flags` may have RETIRED."""

    type: str
    version: int
    flags: int
    state: bytes


_AGENT_HEAD = struct.Struct("<BBIH")


def encode_agent(type: str, version: int, flags: int, state: bytes) -> bytes:  # noqa: A002 - the name of the field
    """The value of an agent's record."""
    return _agent_head(type, version, flags) + state


@lru_cache(maxsize=4_096)
def _agent_head(agent_type: str, version: int, flags: int) -> bytes:
    name = agent_type.encode()
    return _AGENT_HEAD.pack(FORMAT, flags, version, len(name)) + name


def is_retired(key: bytes, value: bytes) -> bool:
    """Whether a record is that of an agent that was stopped; looks at two bytes only."""
    return len(value) > 1 and bool(value[1] & RETIRED) and CELL_MARK not in key and not key.startswith(b"~")


@_checked("of an agent")
def decode_agent(data: bytes) -> AgentRecord:
    """Read an agent's record; raises JournalError."""
    _, flags, version, size = _AGENT_HEAD.unpack_from(data)
    end = _AGENT_HEAD.size + size
    if end > len(data):
        raise ValueError(f"the type ends at {end}, the record at {len(data)}")
    return AgentRecord(data[_AGENT_HEAD.size : end].decode(), version, flags, data[end:])
