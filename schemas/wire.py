"""The wire format of envelopes in Python: encoded, sealed, and read. `envelope.py` takes it where nothing is compiled.

`_wire.pyx` does the same in C for what is usual and comes here for all else, so that odd cases have one meaning.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from functools import lru_cache

from google.protobuf.message import DecodeError

from rookery.schemas.envelope_pb2 import Envelope
from rookery.schemas.errors import CrcMismatch, FrameTooLarge, MissingCrc, Undecodable

# What an envelope may have around its payload, bytes: names, ids and headers are kept in windows and mailboxes and
# copied into replies and dead letters, so their size must not be the sender's choice.
FRAME_BYTES_MAX = 8_192

# --- writing --------------------------------------------------------------------------------------------------------

# Tags of the wire format: field number << 3 | wire type (0 varint, 2 length-delimited, 5 fixed32, 1 fixed64).
_CRC_TAG = 15 << 3 | 5  # 0x7d
# delivery (field 13) of 14 bytes: source (1, fixed32), sequence (2, fixed64).
_DELIVERY = struct.Struct("<3sIBQ")
_DELIVERY_HEAD, _SEQUENCE_TAG = bytes((13 << 3 | 2, 14, 1 << 3 | 5)), 2 << 3 | 1
_CRC = struct.Struct("<BI")

# The most that `seal` adds to a body, bytes.
SEAL_BYTES = _DELIVERY.size + _CRC.size


def encode_body(  # noqa: PLR0913, PLR0917 - the fields of an envelope; an object for them would cost a microsecond
    sender: str,
    target: str,
    payload: bytes,
    timestamp: int,
    priority: int,
    id: str,  # noqa: A002 - the name of the field
    type: str,  # noqa: A002
    content_type: str,
    correlation_id: str = "",
    causation_id: str = "",
    reply_to: str = "",
    deadline: int = 0,
    schema_version: int = 0,
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """Serialize an envelope, all but what `seal` adds; `timestamp` and `deadline` are nanoseconds since the epoch.

    Raises ValueError if a text can't be written as UTF-8 or a number is out of range.
    """
    # Joining what nearly every message has, from cached pieces, takes a third of the time of the generated class.
    identity, conversation, cause = id.encode(), correlation_id.encode(), causation_id.encode()
    sizes: tuple[bytes, ...]
    try:
        sizes = _ID[len(identity)], _CORRELATION[len(conversation)], _CAUSATION[len(cause)], _PAYLOAD[len(payload)]
    except IndexError:
        texts = ((0x32, identity), (0x3A, conversation), (0x42, cause), (0x1A, payload))
        sizes = tuple(bytes((tag,)) + _varint(len(text)) for tag, text in texts)
    low = timestamp & 0xFFF_FFFF
    body = b"".join(
        (
            _head(sender, target, type, content_type, priority),
            # The 10 bytes of the timestamp's varint: 14 bits, 14 bits, and the upper 36, which change every 268 ms.
            _SEVEN_AND_SEVEN[low & 0x3FFF],
            _SEVEN_AND_SEVEN[low >> 14],
            _varint(timestamp >> 28 & 0xF_FFFF_FFFF),
            sizes[0],
            identity,
            sizes[1],
            conversation,
            sizes[2],
            cause,
            sizes[3],
            payload,
        )
    )
    if reply_to or deadline or schema_version or headers:
        more = Envelope(reply_to=reply_to, deadline=deadline, headers=headers)
        if schema_version:
            more.delivery.schema_version = schema_version
        body += more.SerializeToString()
    return body


def seal(body: bytes, source: int | None = None, sequence: int = 0) -> bytes:
    """Complete a body with its source partition and sequence (from 1; both left out by clients) and the CRC."""
    if source is not None:
        body += _DELIVERY.pack(_DELIVERY_HEAD, source, _SEQUENCE_TAG, sequence)
    return body + _CRC.pack(_CRC_TAG, zlib.crc32(body))


@lru_cache(maxsize=16_384)
def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


# 14 bits as two bytes of a varint that goes on; 16,384 x 35 bytes = 0.6 MB.
_SEVEN_AND_SEVEN = [bytes((n & 0x7F | 0x80, n >> 7 | 0x80)) for n in range(1 << 14)]


# Tag and length of the fields that no cache holds; longer ones are computed. 4 x 1,024 x 35 bytes.
_ID, _CORRELATION, _CAUSATION, _PAYLOAD = (
    [bytes((tag,)) + _varint(n) for n in range(1 << 10)] for tag in (0x32, 0x3A, 0x42, 0x1A)
)


@lru_cache(maxsize=65_536)
def _text(tag: int, text: str) -> bytes:
    data = text.encode()
    return bytes((tag,)) + _varint(len(data)) + data


@lru_cache(maxsize=16_384)
def _head(sender: str, target: str, name: str, content_type: str, priority: int) -> bytes:
    """What all messages of a kind between two share, and last the tag of the timestamp."""
    fields = (_text(0x0A, sender), _text(0x12, target), _text(0x52, name), _text(0x5A, content_type))
    return b"".join((*fields, b"\x28", _varint(priority), b"\x20"))


# --- reading --------------------------------------------------------------------------------------------------------


_parse = Envelope.FromString


def decode(data: bytes | None) -> Envelope:
    """Check the CRC over the bytes as received and parse them; addresses are not looked at.

    Raises MissingCrc, CrcMismatch, Undecodable or FrameTooLarge, and nothing else.
    """
    if data is None or (size := len(data) - _CRC.size) < 0:
        raise MissingCrc(len(data or b""))
    tag, stated = _CRC.unpack_from(data, size)
    if tag != _CRC_TAG:
        raise MissingCrc(len(data))
    if stated != (computed := zlib.crc32(data[:size])):
        raise CrcMismatch(stated, computed)
    try:
        envelope = _parse(data)
    except DecodeError as error:
        raise Undecodable(f"it is not an Envelope of rookery.v1: {error}") from None
    if envelope.crc32 != stated:
        raise Undecodable("its last field runs into the crc32, it is not an Envelope of rookery.v1")
    # A record that is no larger needs no look at its parts.
    if size > FRAME_BYTES_MAX and (frame := size - len(envelope.payload)) > FRAME_BYTES_MAX:
        raise FrameTooLarge("bytes of the envelope without its payload", frame, FRAME_BYTES_MAX)
    return envelope
