"""The records that both sides of a pair handle: 100 B payloads for counters, with or without a reply to one client."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
import uuid
from collections.abc import Iterable, Iterator

import msgspec
from aiokafka import AIOKafkaProducer

from rookery import Agent, handler
from rookery.schemas.address import partition_of
from rookery.schemas.envelope import Priority, encode_body, seal

AGENTS = 1_000
# The reply topic of this client name takes the one message that each asked turn sends.
CLIENT = "bench"
_PAD = "x" * 77
BUCKET = math.log(1.02)
"""A bucket of a histogram of times is two per cent wider than the one before."""

Message = tuple[int, bytes, bytes]
"""Partition, key, value."""


class Add(msgspec.Struct):
    """100 bytes as JSON."""

    n: int
    pad: str = _PAD


ADD = Add(1)


class Nap(msgspec.Struct):
    """A handler that waits."""

    seconds: float


class Burn(msgspec.Struct):
    """A handler that computes."""

    cpu_seconds: float


class Blob(msgspec.Struct):
    """A message of any size, for an agent with a state of any size."""

    state_bytes: int
    pad: str


class Paced(msgspec.Struct):
    """When it should have been sent, on the clock all processes share, and the partition of its agent."""

    due: float
    partition: int
    pad: str = _PAD


class Timed(msgspec.Struct):
    """When it should have been sent, on the clock all processes share, and how many are sent in its stretch."""

    due: float
    of: int
    pad: str = _PAD


class Total(msgspec.Struct):
    """The reply."""

    count: int
    pad: str = _PAD


class Counter(Agent):
    """Counts; about 100 B of state."""

    count: int = 0
    total: int = 0
    pad: str = _PAD[:60]

    @handler
    async def add(self, msg: Add) -> Total:
        """One durable turn: state changes, one message is sent if it was asked for."""
        self.count += 1
        self.total += msg.n
        return Total(self.count)

    @handler
    async def nap(self, msg: Nap) -> None:
        """A turn that waits for something."""
        await asyncio.sleep(msg.seconds)
        self.count += 1

    @handler
    async def burn(self, msg: Burn) -> None:
        """A turn that takes so much of the processor, however many share it."""
        until = time.thread_time() + msg.cpu_seconds
        while time.thread_time() < until:
            pass
        self.count += 1

    @handler
    async def blob(self, msg: Blob) -> Total:
        """A durable turn with other sizes."""
        self.count += 1
        if len(self.pad) != msg.state_bytes:
            self.pad = "x" * msg.state_bytes
        return Total(self.count)


def bucket(seconds: float) -> int:
    """Where a time belongs in a histogram."""
    return round(math.log(max(seconds, 1e-6)) / BUCKET)


def names(agents: int = AGENTS) -> list[str]:
    """Addresses of so many counters."""
    return [f"Counter/{number}" for number in range(agents)]


def records(
    count: int, partitions: int, targets: Iterable[str], *, message: msgspec.Struct = ADD, replies: bool = True
) -> Iterator[Message]:
    """`count` messages, one after the other to each target, again and again."""
    payload, kind = msgspec.json.encode(message), type(message).__name__
    places = [(target, target.encode(), partition_of(target, partitions)) for target in targets]
    nonce = uuid.uuid4().hex[:8]
    for number, (target, key, partition) in zip(range(count), itertools.cycle(places), strict=False):
        body = encode_body(
            f"client:{CLIENT}",
            target,
            payload,
            time.time_ns(),
            Priority.NORMAL,
            f"{nonce}-{number}",
            kind,
            "application/json",
            reply_to=f"client:{CLIENT}" if replies else "",
        )
        yield partition, key, seal(body)


async def prefill(broker: str, topic: str, messages: Iterable[Message], partitions: int) -> None:
    """Write the messages to a topic, in large batches."""
    producer = AIOKafkaProducer(
        bootstrap_servers=broker, acks="all", max_batch_size=500_000, max_request_size=1_000_000
    )
    await producer.start()
    try:
        builders = {number: producer.create_batch() for number in range(partitions)}
        flying: list[asyncio.Future[object]] = []
        for partition, key, value in messages:
            if builders[partition].append(key=key, value=value, timestamp=None) is None:
                builder, builders[partition] = builders[partition], producer.create_batch()
                builder.close()
                flying.append(await producer.send_batch(builder, topic, partition=partition))
                builders[partition].append(key=key, value=value, timestamp=None)
        for partition, builder in builders.items():
            if builder.record_count():
                builder.close()
                flying.append(await producer.send_batch(builder, topic, partition=partition))
        await asyncio.gather(*flying)
    finally:
        await producer.stop()
