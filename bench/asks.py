"""Asks of an idle worker, alone and 64 at once, beside a raw round trip: produce, echo, consume.

Both sides live at the same time, and stretches alternate. Our answer leaves after the turn is in the journal.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewTopic

from bench.harness import Figures, Harness, Void
from bench.processes import application, counted, program, worker
from bench.workload import Add, names
from rookery import Client
from rookery.streams.kafka import topics

PARTITIONS = 4
AGENTS = 64
AT_ONCE = 64
SECONDS = 5.0
WARM_SECONDS = 1.0

Ask = Callable[[int], Awaitable[None]]
"""One round trip; the number chooses whom to ask."""


async def stretch(ask: Ask, at_once: int, seconds: float) -> Figures:
    """So many tasks ask one after the other, for so long."""
    began = time.perf_counter()
    latencies: list[float] = []

    async def one(number: int) -> None:
        while time.perf_counter() - began < seconds:
            asked = time.perf_counter()
            await ask(number)
            latencies.append(time.perf_counter() - asked)
            number += at_once

    await asyncio.gather(*(one(number) for number in range(at_once)))
    took = time.perf_counter() - began
    latencies.sort()
    count = len(latencies)
    return {
        "per_s": count / took,
        "p50_ms": latencies[count // 2] * 1e3,
        "p99_ms": latencies[int(count * 0.99)] * 1e3,
        "count": count,
    }


@asynccontextmanager
async def raw(broker: str) -> AsyncIterator[Ask]:
    """Round trips through a process that echoes, without anything else."""
    prefix = f"raw-{uuid.uuid4().hex[:8]}"
    requests, replies = f"{prefix}-requests", f"{prefix}-replies"
    pending: dict[bytes, asyncio.Future[None]] = {}
    producer = AIOKafkaProducer(bootstrap_servers=broker, acks="all", enable_idempotence=True)
    consumer = AIOKafkaConsumer(bootstrap_servers=broker, enable_auto_commit=False, auto_offset_reset="earliest")
    value = b"x" * 250  # about an envelope of 100 bytes

    async def read() -> None:
        while True:
            for records in (await consumer.getmany(timeout_ms=1_000)).values():
                for record in records:
                    pending.pop(record.key).set_result(None)

    async def ask(number: int) -> None:
        key = uuid.uuid4().hex.encode()
        answered = pending[key] = asyncio.get_running_loop().create_future()
        await producer.send(requests, value, key=key, partition=number % PARTITIONS)
        await asyncio.wait_for(answered, 30)

    async with topics.admin({"bootstrap_servers": broker}) as admin:
        await admin.create_topics([NewTopic(requests, PARTITIONS, 1), NewTopic(replies, 1, 1)])
        await asyncio.sleep(1)  # until they have leaders
        await producer.start()
        await consumer.start()
        consumer.assign([TopicPartition(replies, 0)])
        reading = asyncio.create_task(read())
        try:
            async with program([sys.executable, "-m", "bench.raw_echo", broker, requests, replies, str(PARTITIONS)]):
                await ask(0)
                yield ask
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await consumer.stop()
            await producer.stop()
            await admin.delete_topics([requests, replies])


async def asks(h: Harness) -> None:
    """Latency of one ask at a time, and the rate of 64 at once, against raw."""
    agents = names(AGENTS)
    asked = 0
    async with (
        application(h.broker, PARTITIONS) as settings,
        worker(settings, "bench.worker"),
        Client(settings.app_id, settings=settings) as client,
        raw(h.broker) as raw_ask,
    ):
        handles = [client.get_agent(address) for address in agents]

        async def ask(number: int) -> None:
            nonlocal asked
            await handles[number % AGENTS].ask(Add(1), 120)
            asked += 1

        for way in (ask, raw_ask):
            await stretch(way, AT_ONCE, WARM_SECONDS)
        ways: dict[str, Ask] = {"raw": raw_ask, "ask": ask}
        alone = await h.interleaved({name: partial(stretch, way, 1, SECONDS) for name, way in ways.items()})
        many = await h.interleaved(
            {f"{name} x {AT_ONCE}": partial(stretch, way, AT_ONCE, SECONDS) for name, way in ways.items()}
        )
        total = await counted(client, agents)
        if total != asked:
            raise Void(f"the agents counted {total} of {asked} asks")
    h.ratios("ask_p50_vs_raw", alone["ask"], alone["raw"], "p50_ms")
    h.ratios("ask_p99_vs_raw", alone["ask"], alone["raw"], "p99_ms")
    ours, theirs = many[f"ask x {AT_ONCE}"], many[f"raw x {AT_ONCE}"]
    h.ratios("asks_64_vs_raw", ours, theirs, "per_s")
    h.ratios("asks_64_p99_vs_raw", ours, theirs, "p99_ms")
