"""The raw loop: aiokafka getmany and two send_batch, nothing in between. What a durable turn is measured against.

    python -m bench.raw BROKER INPUT_TOPIC OUTPUT_TOPIC_1 OUTPUT_TOPIC_2 COUNT PARTITIONS BROKER_PID [--codec]

With --codec it also checks the CRC of each envelope and parses it, and makes and seals another one for the second
output. Same records, acks, idempotence and batch size as the worker; the clock runs from the first fetch to the last
ack.
"""

import asyncio
import json
import sys
import time
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from bench.machine import cpu_seconds
from rookery.schemas.envelope import Priority, decode, encode_body, seal

BATCH_BYTES = 900_000


async def main(
    broker: str, topic: str, out: tuple[str, str], count: int, partitions: int, broker_pid: int, codec: bool
) -> dict[str, float]:
    """Copy `count` records of `topic` to both outputs; returns seconds, rate and processor time per record."""
    consumer = AIOKafkaConsumer(bootstrap_servers=broker, enable_auto_commit=False, fetch_max_bytes=52_428_800)
    producer = AIOKafkaProducer(
        bootstrap_servers=broker,
        acks="all",
        enable_idempotence=True,
        max_batch_size=BATCH_BYTES,
        max_request_size=1_048_588,
    )
    await consumer.start()
    await producer.start()
    tps = [TopicPartition(topic, number) for number in range(partitions)]
    consumer.assign(tps)
    await consumer.seek_to_beginning(*tps)
    done, flying = 0, set[asyncio.Future[Any]]()
    start = cpu = broker_cpu = 0.0
    while done < count:
        fetched = await consumer.getmany(timeout_ms=1000, max_records=5_000)
        if not start:
            start, cpu, broker_cpu = time.perf_counter(), time.process_time(), cpu_seconds(broker_pid)
        for tp, records in fetched.items():
            copies = [(record.key, record.value) for record in records]
            for target, pairs in zip(
                out, (copies, [_answer(*pair) for pair in copies] if codec else copies), strict=True
            ):
                builder = producer.create_batch()
                for key, value in pairs:
                    if builder.append(key=key, value=value, timestamp=None) is None:
                        flying.add(await _send(producer, builder, target, tp.partition))
                        builder = producer.create_batch()
                        builder.append(key=key, value=value, timestamp=None)
                flying.add(await _send(producer, builder, target, tp.partition))
            done += len(records)
        flying = {future for future in flying if not future.done()}
        if len(flying) > 64:
            await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.gather(*flying)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    broker_cpu = cpu_seconds(broker_pid) - broker_cpu
    await consumer.stop()
    await producer.stop()
    return {
        "per_s": done / seconds,
        "seconds": seconds,
        "count": done,
        "cpu_us": cpu / done * 1e6,
        "broker_cpu_us": broker_cpu / done * 1e6,
    }


def _answer(key: bytes, value: bytes) -> tuple[bytes, bytes]:
    """The message that a turn sends: to whoever wants the reply, with the same payload."""
    envelope = decode(value)
    body = encode_body(
        envelope.target, envelope.reply_to, envelope.payload, time.time_ns(), Priority.NORMAL, envelope.id,
        envelope.type, envelope.content_type, envelope.correlation_id, envelope.id,
    )  # fmt: skip
    return key, seal(body)


async def _send(producer: AIOKafkaProducer, builder: Any, topic: str, partition: int) -> asyncio.Future[Any]:
    builder.close()
    future: asyncio.Future[Any] = await producer.send_batch(builder, topic, partition=partition)
    return future


if __name__ == "__main__":
    _, broker, topic, first, second, *numbers = (word for word in sys.argv if word != "--codec")
    count, partitions, broker_pid = map(int, numbers)
    result = asyncio.run(main(broker, topic, (first, second), count, partitions, broker_pid, "--codec" in sys.argv))
    print("RESULT " + json.dumps(result), flush=True)
