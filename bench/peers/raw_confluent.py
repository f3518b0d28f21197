"""The raw loop with confluent-kafka: consume and two produce, nothing in between.

    python -m bench.peers.raw_confluent BROKER INPUT_TOPIC OUTPUT_TOPIC_1 OUTPUT_TOPIC_2 COUNT PARTITIONS BROKER_PID

Acks, idempotence and batch size as in bench/raw.py; what the library has for its own at their defaults.
"""

import json
import sys
import time

from confluent_kafka import Consumer, Producer, TopicPartition

from bench.machine import cpu_seconds

BATCH_BYTES = 900_000


def main(
    broker: str, topic: str, out: tuple[str, str], count: int, partitions: int, broker_pid: int
) -> dict[str, float]:
    """Copy `count` records of `topic` to both outputs."""
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "bench", "enable.auto.commit": False})
    producer = Producer(
        {
            "bootstrap.servers": broker,
            "acks": "all",
            "enable.idempotence": True,
            "batch.size": BATCH_BYTES,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    done = 0
    start = cpu = broker_cpu = 0.0
    while done < count:
        records = consumer.consume(5_000, 1.0)
        if records and not start:
            start, cpu, broker_cpu = time.perf_counter(), time.process_time(), cpu_seconds(broker_pid)
        for record in records:
            if record.error():
                raise SystemExit(f"reading failed: {record.error()}")
            for target in out:
                while True:
                    try:
                        producer.produce(target, record.value(), record.key(), record.partition() or 0)
                        break
                    except BufferError:
                        producer.poll(0.05)
        done += len(records)
        producer.poll(0)
    if producer.flush(60):
        raise SystemExit("not all records were sent")
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    broker_cpu = cpu_seconds(broker_pid) - broker_cpu
    consumer.close()
    return {
        "per_s": done / seconds,
        "seconds": seconds,
        "count": done,
        "cpu_us": cpu / done * 1e6,
        "broker_cpu_us": broker_cpu / done * 1e6,
    }


if __name__ == "__main__":
    _, broker, topic, first, second, count, partitions, broker_pid = sys.argv
    result = main(broker, topic, (first, second), int(count), int(partitions), int(broker_pid))
    print("RESULT " + json.dumps(result), flush=True)
