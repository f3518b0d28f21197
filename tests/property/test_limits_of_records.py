"""Records from outside, however strange: each is read within bounds, or refused with a typed error."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rookery.schemas.deadletter import encode_dead_letter
from rookery.schemas.envelope import (
    FRAME_BYTES_MAX,
    KAFKA_HEADERS_MAX,
    SEAL_BYTES,
    Envelope,
    check_frame,
    decode,
    encode_body,
    envelope_of,
    seal,
)
from rookery.schemas.errors import CrcMismatch, FrameTooLarge, MissingCrc, Undecodable
from rookery.streams.engine.inbound import EnvelopeReader
from rookery.streams.kafka.topics import DEAD_LETTER_EXTRA_BYTES

READ = EnvelopeReader("app.inbox.normal", 0, 1)
LONG = 10 * FRAME_BYTES_MAX
NAMES = st.sampled_from(
    ["content-type", "Content-Type", "type", "id", "sender", "correlation-id", "reply-to", "deadline-ms", "traceparent"]
) | st.text(max_size=20)
CONTENTS = st.none() | st.binary(max_size=40) | st.sampled_from([b"application/json", b"9" * 5_000, b"x" * LONG])
HEADERS = st.lists(st.tuples(NAMES, CONTENTS), max_size=100)
JSON = st.recursive(
    st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)
VALUES = (
    st.none()
    | st.binary(max_size=200)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.sampled_from(
        [b"[" * 100_000, b'{"a":' * 100_000, b'{"type": "' + b"x" * LONG + b'"}', b'"\\ud800"', b"1" * LONG]
    )
)


def record(key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]]) -> Any:
    return SimpleNamespace(key=key, value=value, headers=headers, timestamp=-1, offset=7)


def frame(envelope: Envelope) -> int:
    return envelope.ByteSize() - len(envelope.payload)


@given(st.none() | st.binary(max_size=50) | st.just(b"Counter/" + b"x" * LONG), VALUES, HEADERS, st.booleans())
def test_any_record_is_read_within_bounds_or_refused(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]], as_json: bool
) -> None:
    found = record(key, value, [("content-type", b"application/json"), *headers] if as_json else headers)
    try:
        envelope = READ(found)
    except (MissingCrc, CrcMismatch, Undecodable, FrameTooLarge) as error:
        error_text, read = f"{type(error).__name__}: {error}", None
    else:
        error_text, read = "x" * 10_000, envelope
        assert frame(envelope_of(envelope)) <= FRAME_BYTES_MAX + 8  # the payload's own tag and length
    letter = encode_dead_letter(found, topic="t", partition=0, envelope=read, reason="r", error=error_text)
    size = (
        len(key or b"") + len(value or b"") + sum(len(name.encode()) + len(more or b"") for name, more in found.headers)
    )
    assert len(letter) <= size + DEAD_LETTER_EXTRA_BYTES


TEXTS = st.text(max_size=30) | st.just("é" * LONG)


@given(
    fields=st.fixed_dictionaries({}, optional=dict.fromkeys(("id", "sender", "correlation_id", "type"), TEXTS)),
    headers=st.dictionaries(st.text(max_size=10), TEXTS, max_size=3),
    payload=st.binary(max_size=100) | st.just(bytes(500_000)),
)
def test_an_envelope_is_read_exactly_if_its_frame_is_small(
    fields: dict[str, str], headers: dict[str, str], payload: bytes
) -> None:
    envelope = Envelope(target="Counter/1", payload=payload, headers=headers, **fields)  # type: ignore[arg-type]
    data = seal(envelope.SerializeToString())
    small = len(data) - 5 - len(payload) <= FRAME_BYTES_MAX
    if small:
        assert decode(data).payload == payload
    else:
        with pytest.raises(FrameTooLarge, match=f"the limit is {FRAME_BYTES_MAX}"):
            decode(data)


def test_too_many_kafka_headers_are_refused_and_their_letter_is_small() -> None:
    headers: list[tuple[str, bytes | None]] = [("a", None)] * 300_000
    found = record(b"Counter/1", seal(b""), headers)
    with pytest.raises(FrameTooLarge, match=f"Kafka headers of the record: 300000, the limit is {KAFKA_HEADERS_MAX}"):
        READ(found)
    letter = encode_dead_letter(found, topic="t", partition=0, envelope=None, reason="r", error="e")
    assert len(letter) < 80_000


def test_what_the_largest_allowed_frame_holds_comes_through() -> None:
    def sealed(length: int) -> bytes:
        return seal(encode_body("S/1", "T/1", b"p" * 10_000, 1, 1, "i" * length, "t", "c"))

    fits = max(
        n for n in range(FRAME_BYTES_MAX) if len(sealed(n)) - SEAL_BYTES - 10_000 <= FRAME_BYTES_MAX - SEAL_BYTES
    )
    assert decode(sealed(fits)).id == "i" * fits
    with pytest.raises(FrameTooLarge):
        decode(sealed(FRAME_BYTES_MAX))


def test_senders_are_told_before_anything_is_sent() -> None:
    check_frame(encode_body("S/1", "T/1", bytes(500_000), 1, 1, "i", "t", "c"), bytes(500_000))
    with pytest.raises(FrameTooLarge, match="put data into the payload, not around it"):
        check_frame(encode_body("S/1", "T/1", b"", 1, 1, "i", "t", "c", headers={"h": "x" * FRAME_BYTES_MAX}), b"")
