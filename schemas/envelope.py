"""The envelope on the wire: sealed with a CRC when it is sent, checked and parsed when it is read.

A worker encodes an envelope while its turn runs (`encode_body`) and seals it when the commit batch is built, since only
then its sequence is known (`seal`). Protobuf reads the concatenation of two messages as their merge; that is what lets
both work by joining bytes. `envelope.proto` says how other languages do it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from rookery.schemas import native, wire
from rookery.schemas.address import client_address
from rookery.schemas.envelope_pb2 import Envelope
from rookery.schemas.errors import FrameTooLarge, Undecodable
from rookery.schemas.wire import FRAME_BYTES_MAX, SEAL_BYTES

__all__ = [
    "FRAME_BYTES_MAX",
    "JSON",
    "KAFKA_HEADERS_MAX",
    "REPLAY_OF",
    "SEAL_BYTES",
    "Envelope",
    "Priority",
    "Received",
    "check_frame",
    "check_headers",
    "decode",
    "decode_json",
    "encode_body",
    "envelope_of",
    "frame_of",
    "is_json",
    "seal",
]

JSON = "application/json"

# Kafka headers of one record; ten are known.
KAFKA_HEADERS_MAX = 64
# Names the message that this one repeats: its id, or its coordinates if it had none.
REPLAY_OF = "replay-of"


class Priority(IntEnum):
    """QoS tier of a message; the value is the number of its lane, and names its inbox topic in lower case."""

    LOW = 0
    NORMAL = 1
    HIGH = 2


# Without compiled modules, both are the same object.
def _same(envelope: Envelope) -> Received:
    return envelope


def _envelope_of(received: Received) -> Envelope:
    assert isinstance(received, Envelope)  # noqa: S101 - no other kind was made
    return received


# `frame_of` and `envelope_of` lead from one kind of Received to the other.
encode_body, seal = wire.encode_body, wire.seal
decode: Callable[[bytes | None], Received] = wire.decode
frame_of: Callable[[Envelope], Received] = _same
envelope_of: Callable[[Received], Envelope] = _envelope_of
_write, _wire = native.load("rookery.schemas._write"), native.load("rookery.schemas._wire")
if _write is not None:
    encode_body, seal = _write.encode_body, _write.seal
if _wire is not None:
    decode, frame_of, envelope_of = _wire.decode_frame, _wire.frame_of, _wire.envelope_of

# What `decode` returns, to be read and not changed; both kinds have the same fields.
if TYPE_CHECKING:
    from rookery.schemas._wire import Frame

    Received: TypeAlias = Envelope | Frame
else:
    Received = Envelope if _wire is None else Envelope | _wire.Frame


def check_headers(headers: Sequence[tuple[str, bytes | None]]) -> None:
    """Raise FrameTooLarge for Kafka headers that are too many or too large."""
    if len(headers) > KAFKA_HEADERS_MAX:
        raise FrameTooLarge("Kafka headers of the record", len(headers), KAFKA_HEADERS_MAX)
    size = sum(len(name) + len(value or b"") for name, value in headers)
    if size > FRAME_BYTES_MAX:
        raise FrameTooLarge("bytes of the record's Kafka headers", size, FRAME_BYTES_MAX)


def check_frame(body: bytes, payload: bytes) -> None:
    """Raise FrameTooLarge for a body that no agent would read; for senders."""
    if (size := len(body) - len(payload)) > FRAME_BYTES_MAX:
        raise FrameTooLarge("bytes of the message without its payload (ids, type, headers)", size, FRAME_BYTES_MAX)


def is_json(headers: Iterable[tuple[str, bytes | None]]) -> bool:
    """Whether the Kafka headers of a record say that its value is JSON rather than an envelope."""
    for name, value in headers:
        if name.lower() == "content-type":
            return value is not None and value.split(b";")[0].strip().lower() == JSON.encode()
    return False


def decode_json(  # noqa: PLR0913, PLR0917 - what a Kafka record has
    key: bytes | None,
    value: bytes | None,
    headers: Iterable[tuple[str, bytes | None]],
    timestamp_ms: int,
    topic: str,
    partition: int,
    offset: int,
    priority: Priority = Priority.NORMAL,
) -> Received:
    """Read a record that a plain Kafka client wrote: the key is the target, the value the message body as JSON.

    Kafka headers, all optional: `type` (else the member "type" of the body), `id` (else the record's coordinates),
    `sender`, `correlation-id`, `reply-to` (the client's name; replies are plain JSON, too), `deadline-ms`
    (milliseconds since the epoch), `traceparent`, `replay-of`. Raises Undecodable, FrameTooLarge, and nothing else.
    """
    if not key:
        raise Undecodable("a JSON record needs the target's address as its key")
    if value is None:
        raise Undecodable("a JSON record needs a value")
    try:
        given = {name.lower(): content.decode() for name, content in headers if content is not None}
        body = msgspec.json.decode(value)
        kind = given.get("type") or (body.get("type") if isinstance(body, dict) else None)
        reply_to = client_address(given["reply-to"], "json") if given.get("reply-to") else ""
        envelope = Envelope(
            sender=given.get("sender") or reply_to,
            target=key.decode(),
            payload=value,
            timestamp=max(timestamp_ms, 0) * 1_000_000,
            priority=int(priority),  # type: ignore[arg-type]  # the stub wants the generated enum, the class an int
            id=given.get("id") or f"{topic}/{partition}/{offset}",
            correlation_id=given.get("correlation-id"),
            reply_to=reply_to,
            type=kind if isinstance(kind, str) else "",
            content_type=JSON,
            deadline=int(given.get("deadline-ms") or 0) * 1_000_000,
            headers={name: given[name] for name in ("traceparent", REPLAY_OF) if given.get(name)},
        )
    except (ValueError, RecursionError) as error:  # UTF-8, JSON (also nested too deeply), client name, number
        raise Undecodable(str(error)) from None
    if (frame := envelope.ByteSize() - len(value)) > FRAME_BYTES_MAX:
        raise FrameTooLarge("bytes of key, type and headers of the record", frame, FRAME_BYTES_MAX)
    return frame_of(envelope)
