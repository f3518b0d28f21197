"""A raw produce beside a long run: what disk, broker and machine do to a small record meanwhile.

    python -m bench.probe BROKER TOPIC

A hundred times a second, open loop; twice a second it tells the times from the intended send to the ack.
"""

import asyncio
import json
import sys
import time
from collections import Counter

from aiokafka import AIOKafkaProducer

from bench.workload import bucket

INTERVAL, REPORT_SECONDS = 0.01, 0.5
VALUE = b"x" * 250  # about an envelope of 100 bytes


async def main(broker: str, topic: str) -> None:
    buckets: Counter[int] = Counter()
    producer = AIOKafkaProducer(bootstrap_servers=broker, acks="all", enable_idempotence=True)

    async def send(due: float) -> None:
        await producer.send_and_wait(topic, VALUE, partition=0)
        buckets[bucket(time.monotonic() - due)] += 1

    await producer.start()
    await producer.send_and_wait(topic, VALUE, partition=0)
    due = told = time.monotonic()
    async with asyncio.TaskGroup() as sending:
        while True:
            due += INTERVAL
            await asyncio.sleep(due - time.monotonic())
            sending.create_task(send(due))
            if due - told >= REPORT_SECONDS:
                told = due
                print("RESULT " + json.dumps({"at": time.monotonic(), "buckets": buckets}), flush=True)
                buckets.clear()


if __name__ == "__main__":
    _, broker, topic = sys.argv
    asyncio.run(main(broker, topic))
