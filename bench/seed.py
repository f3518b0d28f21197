"""The seed table: messages at a fixed rate, whatever the worker does, until their turns are committed.

A time counts from the moment at which a message should have been sent to the ack of the commit batch that holds its
turn, on the clock that the processes of one machine share.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
import uuid
from functools import partial

import msgspec
from aiokafka import AIOKafkaProducer

from bench.harness import Figures, Harness, Void
from bench.processes import Running, application, worker
from bench.workload import Timed, names
from rookery.schemas.envelope import Priority, encode_body, seal

POINTS = ((1, 1_200, 15), (3, 3_200, 8), (10, 8_500, 5))
"""Agents, messages per second over all of them, and the bar of the mean in milliseconds."""
SECONDS = 6.0
WAKE_SECONDS = 0.001


async def stretch(running: Running, producer: AIOKafkaProducer, topic: str, agents: int, rate: int) -> Figures:
    """Send at a rate for some seconds; the worker tells the times of exactly that many turns."""
    count = int(rate * SECONDS)
    nonce = uuid.uuid4().hex[:8]
    targets = itertools.cycle([(address, address.encode()) for address in names(agents)])
    began = time.monotonic()
    sent = 0
    while sent < count:
        while sent < count and (due := began + sent / rate) <= time.monotonic():
            target, key = next(targets)
            payload = msgspec.json.encode(Timed(due, count))
            body = encode_body(
                "client:bench", target, payload, time.time_ns(), Priority.NORMAL, f"{nonce}-{sent}", "Timed",
                "application/json",
            )  # fmt: skip
            await producer.send(topic, seal(body), key=key, partition=0)
            sent += 1
        await asyncio.sleep(WAKE_SECONDS)
    figures = await running.result()
    if figures["count"] != count:
        raise Void(f"{figures['count']:.0f} of {count} turns were committed")
    return figures


async def seed_table(h: Harness) -> None:
    """Mean and p99 from the intended send to the committed turn, open loop."""
    async with application(h.broker, 1) as settings, worker(settings, "bench.seed_worker") as running:
        producer = AIOKafkaProducer(bootstrap_servers=h.broker, acks="all", enable_idempotence=True)
        await producer.start()
        topic = f"{settings.app_id}.inbox.normal"
        try:
            await stretch(running, producer, topic, 1, 500)
            runs = await h.interleaved(
                {
                    f"{agents} agents": partial(stretch, running, producer, topic, agents, rate)
                    for agents, rate, _ in POINTS
                }
            )
        finally:
            await producer.stop()
    for agents, rate, _ in POINTS:
        found = runs[f"{agents} agents"]
        p99 = statistics.median(run["p99_ms"] for run in found)
        h.record(f"seed_{agents}_mean_ms", [run["mean_ms"] for run in found], rate=rate, p99_ms=round(p99, 2))
