"""Dead letters on the wire: a record that was given up, whole, with its coordinates and the reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from google.protobuf.message import DecodeError

from rookery._version import __version__
from rookery.schemas.envelope import Received
from rookery.schemas.envelope_pb2 import DeadLetter
from rookery.schemas.errors import Undecodable
from rookery.schemas.partition_errors import LogTruncated

__all__ = ["DeadLetter", "decode_dead_letter", "encode_dead_letter", "encode_lost_stretch"]

# The topic takes the largest message plus this much text, characters of up to 4 bytes.
_ERROR_CHARS_MAX = 4_000
_TRACEBACK_CHARS_MAX = 8_000
# A record may have more; those that are read have fewer (envelope.FRAME_BYTES_MAX).
_HEADERS_BYTES_MAX = 65_536
_HEADER_OVERHEAD = 16


class _Record(Protocol):
    """A record as fetched from Kafka."""

    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...
    @property
    def timestamp(self) -> int: ...


def encode_dead_letter(  # noqa: PLR0913 - a form with many lines
    record: _Record,
    *,
    topic: str,
    partition: int,
    envelope: Received | None,
    reason: str,
    error: str,
    traceback: str = "",
    attempts: int = 0,
    app_id: str = "",
    agent_type: str = "",
) -> bytes:
    """Serialize a dead letter; `envelope` as far as the record could be read. Long texts are cut; never raises."""
    letter = DeadLetter(
        value=record.value or b"",
        key=record.key or b"",
        headers=list(_headers(record.headers or ())),
        topic=topic,
        partition=partition,
        offset=record.offset,
        timestamp=record.timestamp,
        reason=reason,
        error=_text(error[:_ERROR_CHARS_MAX]),
        traceback=_text(traceback[-_TRACEBACK_CHARS_MAX:]),
        attempts=attempts,
        rookery_version=__version__,
        app_id=app_id,
        agent_type=agent_type,
    )
    if envelope is not None:
        letter.target, letter.sender, letter.id, letter.type = (
            envelope.target,
            envelope.sender,
            envelope.id,
            envelope.type,
        )
    return letter.SerializeToString()


def _headers(headers: Sequence[tuple[str, bytes | None]]) -> Iterator[DeadLetter.Header]:
    """As many as fit: a letter that is larger than its topic takes would hold up everything behind it."""
    room = _HEADERS_BYTES_MAX
    for key, value in headers:
        room -= len(key) * 4 + len(value or b"") + _HEADER_OVERHEAD
        if room < 0:
            return
        yield DeadLetter.Header(key=_text(key), value=value or b"")


def encode_lost_stretch(error: LogTruncated, *, app_id: str = "") -> bytes:
    """Serialize what tells of records that the log deleted before they were handled; there is nothing to send again."""
    return DeadLetter(
        topic=error.topic,
        partition=error.partition,
        offset=error.first,
        last_offset=error.last,
        reason=error.reason,
        error=f"{type(error).__name__}: {error}",
        rookery_version=__version__,
        app_id=app_id,
    ).SerializeToString()


def decode_dead_letter(data: bytes) -> DeadLetter:
    """Read a dead letter; raises Undecodable."""
    try:
        return DeadLetter.FromString(data)
    except DecodeError as error:
        raise Undecodable(f"it is not a DeadLetter of rookery.v1: {error}") from None


def _text(text: str) -> str:
    """Text that Protobuf takes: the message of a user's error may hold what UTF-8 can't say."""
    return text.encode(errors="replace").decode()
