"""Cells of the journal: what it holds of an agent besides its state.

    <address> U+001F parked/<lane>/<offset>           a message that left the inbox before its turn ended
    <address> U+001F step/<lane>/<offset>/<index>     a step of the turn that runs on the message with these coordinates
    <address> U+001F pause                            the agent takes no messages until somebody resumes it

Lane and offset are those of the message's inbox record, zero-padded, so that keys sort in the order of arrival. Values
are a format byte and msgpack: cells are written when a turn waits or fails, which is no hot path.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, TypeVar

import msgspec

from rookery.schemas.journal import FORMAT, cell_key
from rookery.schemas.partition_errors import JournalError

_FORMAT = bytes((FORMAT,))
_PARKED, _STEP, PAUSE = "parked", "step", "pause"


class Place(NamedTuple):
    """Where a message came in: the number of its lane, and its offset there."""

    lane: int
    offset: int


class StepState(IntEnum):
    """How far a step is."""

    PENDING = 1  # an ask whose request is committed, and whose reply has not come
    DONE = 2
    FAILED = 3  # the error is part of what the turn has seen, until the whole turn is tried again


class Step(msgspec.Struct, array_like=True, frozen=True):
    """One step of a turn: what was to be done, as a digest, and what came of it.

    `content_type` and `payload` are the result's, or `error` (a stable code or class name) and `text` say why it
    failed. A pending ask knows the id of its request and its deadline, nanoseconds since the epoch.
    """

    kind: str
    name: str
    digest: bytes
    state: StepState
    content_type: str = ""
    payload: bytes = b""
    error: str = ""
    text: str = ""
    request_id: str = ""
    deadline: int = 0


class Parked(msgspec.Struct, array_like=True, frozen=True):
    """A message in the journal: its record as it was received, so that nothing of it is lost.

    `attempts` turns have failed on it; the next one is due at `not_before`, nanoseconds since the epoch, and `delay`
    nanoseconds from now at the latest: the clock that said so may have been wrong.
    """

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    timestamp: int  # of the record, milliseconds since the epoch
    attempts: int = 0
    not_before: int = 0
    begun: bool = False  # its turn had begun: it goes on before any other of the agent
    delay: int = 0


class Pause(msgspec.Struct, array_like=True, frozen=True):
    """Why an agent was paused and when, nanoseconds since the epoch."""

    reason: str
    since: int


Cell = Step | Parked | Pause
C = TypeVar("C", bound=Cell)
_encode = msgspec.msgpack.Encoder().encode


def encode_cell(cell: Cell) -> bytes:
    """The value of a cell."""
    return _FORMAT + _encode(cell)


def decode_cell(value: bytes, form: type[C]) -> C:
    """Read a cell of a kind; raises JournalError."""
    if value[:1] != _FORMAT:
        raise JournalError(f"of a {form.__name__} cell", "unknown format: use a newer version" if value else "empty")
    try:
        return msgspec.msgpack.decode(memoryview(value)[1:], type=form)
    except msgspec.DecodeError as error:
        raise JournalError(f"of a {form.__name__} cell", f"damaged: {error}") from None


def parked_key(address: str, place: Place) -> bytes:
    """The key of a parked message."""
    return cell_key(address, f"{_PARKED}/{place.lane}/{place.offset:020d}")


def step_key(address: str, place: Place, index: int) -> bytes:
    """The key of a step, by its number in the turn, from 0."""
    return cell_key(address, f"{_STEP}/{place.lane}/{place.offset:020d}/{index:06d}")


def pause_key(address: str) -> bytes:
    """The key that pauses an agent."""
    return cell_key(address, PAUSE)


class CellName(NamedTuple):
    """The name of a cell taken apart; `form` is its kind, None for one of a newer version."""

    form: type[Cell] | None
    place: Place = Place(0, 0)
    number: int = 0  # of a step in its turn


def read_name(cell: str) -> CellName:
    """What the cell of this name (the part of the key behind U+001F) holds; raises JournalError."""
    kind, *numbers = cell.split("/")
    try:
        if kind == _PARKED:
            lane, offset = map(int, numbers)
            return CellName(Parked, Place(lane, offset))
        if kind == _STEP:
            lane, offset, index = map(int, numbers)
            return CellName(Step, Place(lane, offset), index)
    except ValueError:
        raise JournalError(repr(cell), "damaged cell name") from None
    return CellName(Pause if cell == PAUSE else None)
