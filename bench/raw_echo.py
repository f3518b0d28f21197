"""The other end of a raw round trip: what arrives is sent back.

python -m bench.raw_echo BROKER REQUESTS REPLIES PARTITIONS
"""

import asyncio
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition


async def main(broker: str, requests: str, replies: str, partitions: int) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=broker, enable_auto_commit=False, auto_offset_reset="earliest")
    producer = AIOKafkaProducer(bootstrap_servers=broker, acks="all", enable_idempotence=True)
    await consumer.start()
    await producer.start()
    consumer.assign([TopicPartition(requests, number) for number in range(partitions)])
    while True:
        for records in (await consumer.getmany(timeout_ms=1_000)).values():
            for record in records:
                await producer.send(replies, record.value, key=record.key, partition=0)


if __name__ == "__main__":
    _, broker, requests, replies, partitions = sys.argv
    asyncio.run(main(broker, requests, replies, int(partitions)))
