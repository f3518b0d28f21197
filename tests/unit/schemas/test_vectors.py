"""The published vectors hold the wire format still; they were made without the code that reads them here."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rookery.schemas
from rookery.schemas.envelope import Envelope, Received, decode
from rookery.schemas.errors import EnvelopeError

VECTORS = json.loads((Path(rookery.schemas.__file__).parent / "vectors" / "envelopes.json").read_text())


def named(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", VECTORS[kind], ids=lambda vector: vector["name"])


def fields(envelope: Received) -> dict[str, Any]:
    delivery = envelope.delivery
    return {
        **{name: getattr(envelope, name) for name in ("sender", "target", "priority", "id", "correlation_id")},
        **{name: getattr(envelope, name) for name in ("causation_id", "reply_to", "type", "content_type")},
        "payload": envelope.payload.hex(),
        "timestamp": str(envelope.timestamp),
        "deadline": str(envelope.deadline),
        "headers": dict(envelope.headers),
        "delivery": {
            "source": delivery.source,
            "sequence": str(delivery.sequence),
            "attempt": delivery.attempt,
            "schema_version": delivery.schema_version,
        },
    }


NOTHING = fields(Envelope())


@named("valid")
def test_reads(vector: dict[str, Any]) -> None:
    stated = vector["fields"]
    delivery = NOTHING["delivery"] | stated.get("delivery", {})
    assert fields(decode(bytes.fromhex(vector["hex"]))) == NOTHING | stated | {"delivery": delivery}


@named("invalid")
def test_refuses(vector: dict[str, Any]) -> None:
    with pytest.raises(EnvelopeError) as caught:
        decode(bytes.fromhex(vector["hex"]))
    assert caught.value.reason == vector["error"]


def derived(data: bytes, rule: str) -> Iterator[bytes]:
    if rule.startswith("flip each bit"):
        for bit in range(8 * len(data)):
            yield (int.from_bytes(data) ^ 1 << bit).to_bytes(len(data))
    else:
        assert rule.startswith("keep the first n bytes")
        for size in range(len(data)):
            yield data[:size]


@named("derived")
def test_refuses_all_derived(vector: dict[str, Any]) -> None:
    good, errors = bytes.fromhex(vector["hex"]), set()
    decode(good)
    for data in derived(good, vector["rule"]):
        with pytest.raises(EnvelopeError) as caught:
            decode(data)
        errors.add(caught.value.reason)
    assert errors <= set(vector["errors"])
