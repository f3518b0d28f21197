"""Journals as a whole: filled with agents before a measurement, read after it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from rookery.ops.settings import Settings
from rookery.schemas.address import partition_of
from rookery.schemas.journal import CLAIM, Claim, decode_agent, encode_agent, encode_claim
from rookery.streams.core.routing import Topics
from rookery.streams.kafka.log import KafkaLog

BATCH = 2_000  # records of one append


async def fill(settings: Settings, kind: str, states: Iterable[object]) -> None:
    """Write agents `kind/0`, `kind/1` and so on with these states, through a lease as an owner does."""
    places: list[list[tuple[bytes, bytes | None]]] = [[] for _ in range(settings.partitions)]
    for number, state in enumerate(states):
        address = f"{kind}/{number}"
        record = encode_agent(kind, 1, 0, msgspec.msgpack.encode(state))
        places[partition_of(address, settings.partitions)].append((address.encode(), record))
    log = KafkaLog(Topics(settings.app_id), {"bootstrap_servers": settings.broker})
    await log.start()
    try:
        for number, records in enumerate(places):
            lease = await log.acquire(number)
            claim = await lease.append([(CLAIM, encode_claim(Claim(0, "bench", settings.partitions)))], None)
            for at in range(0, len(records), BATCH):
                await lease.append(records[at : at + BATCH], claim)
    finally:
        await log.stop()


@dataclass
class Found:
    """What journals hold: the sum of what agents counted, bytes of all keys and values, bytes of the agents' last."""

    counted: int
    written_bytes: int
    live_bytes: int


async def read(settings: Settings) -> Found:
    """Read all journals of an application to their present ends."""
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.broker, enable_auto_commit=False)
    await consumer.start()
    last: dict[bytes, bytes | None] = {}
    written = 0
    try:
        tps = [TopicPartition(Topics(settings.app_id).journal, number) for number in range(settings.partitions)]
        ends = await consumer.end_offsets(tps)
        consumer.assign(tps)
        await consumer.seek_to_beginning(*tps)
        left = {tp for tp in tps if ends[tp]}
        while left:
            for tp, records in (await consumer.getmany(*left, timeout_ms=1_000, max_records=10_000)).items():
                for record in records:
                    written += len(record.key) + len(record.value or b"")
                    if not record.key.startswith(b"~"):
                        last[record.key] = record.value
                if records[-1].offset + 1 >= ends[tp]:
                    left.discard(tp)
    finally:
        await consumer.stop()
    counted = live = 0
    for key, value in last.items():
        if value is not None:
            counted += msgspec.msgpack.decode(decode_agent(value).state)["count"]
            live += len(key) + len(value)
    return Found(counted, written, live)
