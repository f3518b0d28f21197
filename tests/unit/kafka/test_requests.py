"""Our producers encode a request with one copy of its batches, to the same bytes as aiokafka does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import IncompatibleBrokerVersion
from aiokafka.protocol.produce import ProduceRequest

from rookery.streams.kafka.batches import Identity, OneCopy, SequencedBatch, plain_producer

BATCH = bytes(SequencedBatch(Identity(1, 2), [(b"k", b"v"), (None, b"w" * 300)], [("lease", b"12345678")])._build())
TOPICS = [
    [("t", [(0, bytearray(BATCH))])],
    [("t\u00e9", [(0, BATCH), (7, b"")]), ("u", [(2, BATCH * 3)]), ("none", [])],
    [],
]


@pytest.mark.parametrize("topics", TOPICS)
@pytest.mark.parametrize("version", range(8))
def test_the_bytes_are_those_of_aiokafka(version: int, topics: Any) -> None:
    for transactional_id in (None, "x") if version >= 3 else (None,):
        theirs = ProduceRequest(transactional_id, -1, 1000, topics)
        ours = OneCopy(theirs)
        versions = {0: (version, version)}
        expected, made = theirs.prepare(versions), ours.prepare(versions)
        assert made.encode() == expected.encode()
        assert isinstance(made, type(expected))
        assert made.build_request_header(5, "c").encode() == expected.build_request_header(5, "c").encode()
        assert made.RESPONSE_TYPE is expected.RESPONSE_TYPE
        assert (repr(made), ours.required_acks) == (repr(expected), -1)


def test_what_the_broker_is_too_old_for_is_refused_as_before() -> None:
    with pytest.raises(IncompatibleBrokerVersion):
        OneCopy(ProduceRequest("x", -1, 1000, [])).prepare({0: (0, 2)})


def test_our_producers_send_it_so(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []

    async def send(self: Any, *args: Any, **more: Any) -> None:
        sent.append((*args, more))

    async def main(request: Any, other: Any) -> None:
        producer = plain_producer({"bootstrap_servers": "localhost:1"}, 1.0)
        await producer._sender.client.send(3, request)
        await producer.client.send(3, other, group=1)
        await producer.stop()

    monkeypatch.setattr(AIOKafkaClient, "send", send)
    request, other = ProduceRequest(None, -1, 1000, TOPICS[0]), object()
    asyncio.run(main(request, other))
    assert sent[1:] == [(3, other, {"group": 1})]
    assert (sent[0][0], type(sent[0][1]), vars(sent[0][1])) == (3, OneCopy, vars(request))
