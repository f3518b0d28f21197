"""Record batches that carry a producer identity of our own: the one primitive under leases and shipping.

aiokafka keeps one identity and one sequence table per producer, so one failed partition spoils all of them, and its
sequence wraps wrongly. Here the identity belongs to one target partition, and the aiokafka producer below is a plain
one (acks=all, not idempotent) that only moves bytes. It may send a batch again until its time is up; since the bytes
carry producer id, epoch and sequence, the broker stores them once.
"""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.errors import (
    ConcurrentTransactions,
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    NodeNotReadyError,
    NotCoordinatorError,
    RequestTimedOutError,
    StaleMetadata,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.protocol.types import Array, Bytes, Int32, Schema
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from rookery.schemas import native

_records = native.load("rookery.streams.kafka._records")

Headers = list[tuple[str, bytes]]

# Sequences are 31 bits and wrap to 0 (the protocol's rule, DefaultRecordBatch.incrementSequence in Kafka).
SEQUENCES = 2**31
# A builder never refuses a record: whoever fills it has reserved the size. The format's own limit is a 32-bit length.
BATCH_BYTES_MAX = 2**31 - 1
# No transaction is ever begun, so this bounds nothing; it must only be below the broker's transaction.max.timeout.ms.
TRANSACTION_TIMEOUT_MS = 60_000
TOPIC_CHECK = 0.5  # seconds without an answer until we look whether the topic is still there
RETRY_DELAY = 0.02  # seconds between attempts at a coordinator that is not ready

COORDINATOR_NOT_READY = (
    ConcurrentTransactions,
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    KafkaConnectionError,
    NodeNotReadyError,
    NotCoordinatorError,
    RequestTimedOutError,
    StaleMetadata,
)


class Identity:
    """Producer id and epoch with the next sequence number for one target partition."""

    __slots__ = ("epoch", "producer_id", "sequence")

    def __init__(self, producer_id: int, epoch: int, sequence: int = 0) -> None:
        self.producer_id = producer_id
        self.epoch = epoch
        self.sequence = sequence

    def advance(self, count: int) -> None:
        """Move past `count` records that were handed over."""
        self.sequence = (self.sequence + count) % SEQUENCES


class SequencedBatch(BatchBuilder):  # type: ignore[misc]
    """One record batch under an identity; made whole, so that nobody can append to it afterwards."""

    def __init__(
        self, identity: Identity, records: Iterable[tuple[bytes | None, bytes | None]], headers: Headers
    ) -> None:
        super().__init__(BATCH_BYTES_MAX, 0)
        now = time.time_ns() // 1_000_000
        encode = encode_batch if _records is None else _records.encode_batch
        # A builder that has built gives what it built, and nothing else: see `BatchBuilder._build`.
        batch, count = encode(records, headers, now, identity.producer_id, identity.epoch, identity.sequence)
        self._buffer: bytearray = batch
        self._relative_offset: int = count
        self._closed = True


def encode_batch(
    records: Iterable[tuple[bytes | None, bytes | None]],
    headers: Headers,
    timestamp: int,
    producer_id: int,
    epoch: int,
    sequence: int,
) -> tuple[bytearray, int]:
    """A batch of all records, with the same headers and time (milliseconds) on each, and how many they are."""
    # The transactional flag must stay off: with it the broker asks for a transaction that contains the partition.
    builder = DefaultRecordBatchBuilder(2, 0, 0, producer_id, epoch, sequence, BATCH_BYTES_MAX)
    append = builder.append
    count = 0
    for key, value in records:
        append(count, timestamp, key, value, headers)
        count += 1
    return builder.build(), count


class OneCopy(ProduceRequest):  # type: ignore[misc]
    """A request whose batches are copied once when it is encoded; aiokafka joins them anew at each of six levels."""

    def __init__(self, request: ProduceRequest) -> None:
        self.__dict__.update(request.__dict__)

    def build(self, request_struct_class: Any) -> Any:
        """The same struct, but for how it is encoded."""
        return super().build(_encoded_once(request_struct_class))


@functools.cache
def _encoded_once(struct: Any) -> type[Any]:
    def encode(self: Any) -> bytes:
        return b"".join(_parts(struct.SCHEMA, [vars(self)[name] for name in struct.SCHEMA.names]))

    return type(struct.__name__, (struct,), {"encode": encode})


def _parts(field: Any, value: Any) -> Iterator[bytes]:
    if isinstance(field, Schema):
        for inner, item in zip(field.fields, value, strict=True):
            yield from _parts(inner, item)
    elif type(field) is Array:
        yield Int32.encode(len(value))
        for item in value:
            yield from _parts(field.array_of, item)
    elif field is Bytes:
        yield Int32.encode(len(value))
        yield value
    else:
        yield field.encode(value)


async def _send(send: Callable[..., Awaitable[Any]], node_id: int, request: Any, **more: Any) -> Any:
    return await send(node_id, OneCopy(request) if isinstance(request, ProduceRequest) else request, **more)


def plain_producer(client_kwargs: Mapping[str, Any], request_timeout: float) -> AIOKafkaProducer:
    """A producer for sequenced batches; `request_timeout` in seconds bounds a request and a batch's attempts."""
    producer = AIOKafkaProducer(
        **client_kwargs,
        acks="all",
        enable_idempotence=False,
        linger_ms=0,
        request_timeout_ms=int(request_timeout * 1000),
        retry_backoff_ms=50,
        max_request_size=BATCH_BYTES_MAX,
    )
    producer.client.send = functools.partial(_send, producer.client.send)
    return producer


async def deliver(
    producer: AIOKafkaProducer,
    topic: str,
    partition: int,
    batch: SequencedBatch,
    timeout: float,
) -> int:
    """Send one batch and return its base offset, or raise KafkaError or TimeoutError within `timeout` seconds.

    The topic must be known to the producer. A batch handed over can't be recalled: after an error it may still land.
    """
    async with asyncio.timeout(timeout):
        future = await producer.send_batch(batch, topic, partition=partition)
        try:
            while not (await asyncio.wait((future,), timeout=TOPIC_CHECK))[0]:
                if producer.client.cluster.partitions_for_topic(topic) is None:
                    # Deleted meanwhile; aiokafka would ask for its leader without a pause until the time is up.
                    producer._message_accumulator._batches.pop(TopicPartition(topic, partition), None)
                    raise UnknownTopicOrPartitionError(topic)
        finally:
            # When given up, the batch still ends somehow, and nobody else will look at it.
            future.add_done_callback(_look_at)
    metadata = future.result()
    if metadata is None or metadata.offset < 0:
        # The broker knows the sequence as stored but no longer where, so the answer can't be used.
        raise KafkaError(f"the broker did not say where it stored the batch for {topic}-{partition}")
    return int(metadata.offset)


def _look_at(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


async def stop_producer(producer: AIOKafkaProducer, timeout: float) -> None:
    """Stop within `timeout` seconds; batches under way fail, whether they landed is unknown."""
    accumulator = producer._message_accumulator
    accumulator.fail_all(KafkaError("the producer was stopped"))
    try:
        async with asyncio.timeout(timeout):
            await producer.stop()
    except TimeoutError:
        await producer.client.close()


async def fetch_identity(producer: AIOKafkaProducer, transactional_id: str | None, timeout: float) -> Identity:
    """InitProducerId: a new producer id, or the next epoch of a transactional id, within `timeout` seconds.

    Raises KafkaError; a coordinator that is moving, loading or unreachable is asked again until the time is up.
    """
    client = producer.client
    until = time.monotonic() + timeout
    while True:
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                return await _init_producer_id(client, transactional_id)
        except TimeoutError:
            raise KafkaTimeoutError(f"no producer id within {timeout:g} s") from None
        except COORDINATOR_NOT_READY:
            if time.monotonic() + RETRY_DELAY >= until:
                raise
        await asyncio.sleep(RETRY_DELAY)


async def _init_producer_id(client: Any, transactional_id: str | None) -> Identity:
    group = ConnectionGroup.DEFAULT
    if transactional_id is None:
        node = client.get_random_node()
    else:
        group = ConnectionGroup.COORDINATION
        node = await client.coordinator_lookup(CoordinationType.TRANSACTION, transactional_id)
    response = await client.send(node, InitProducerIdRequest(transactional_id, TRANSACTION_TIMEOUT_MS), group=group)
    error = for_code(response.error_code)
    if error.errno:
        raise error()
    return Identity(response.producer_id, response.producer_epoch)
