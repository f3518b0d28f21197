"""The same turns in plain Faust: a table counts, a topic takes the replies. `PEER_TUNED=1` sets what helps."""

import asyncio
import json
import os
import sys
import time
from typing import Any

import faust
from aiokafka import AIOKafkaConsumer, TopicPartition

from bench.peers.settings import FAUST_STOCK, FAUST_TUNED

BROKER = os.environ.get("PEER_BROKER", "127.0.0.1:9092")
SOURCE = os.environ.get("PEER_SOURCE", "in")
REPLIES = os.environ.get("PEER_REPLIES", "out")
APP_ID = os.environ.get("PEER_APP_ID", "peer")
COUNT = int(os.environ.get("PEER_COUNT", "0"))
PARTITIONS = 4
PAD = " " + "x" * 60

chosen = FAUST_TUNED if os.environ.get("PEER_TUNED") == "1" else FAUST_STOCK
app = faust.App(
    APP_ID, broker=f"kafka://{BROKER}", topic_partitions=PARTITIONS, datadir=f".rookery/peers/{APP_ID}", **chosen
)
source = app.topic(SOURCE, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
replies = app.topic(REPLIES, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
counts: Any = app.Table("counts", key_type=bytes, value_type=bytes, partitions=PARTITIONS, default=bytes)
counts.key_serializer = counts.value_serializer = "raw"
clock: dict[str, float] = {}


@app.agent(source)
async def turn(stream: Any) -> None:
    """One turn: count in the table, send a reply."""
    async for key, _ in stream.items():  # noqa: PERF102 - Faust's, no dict's
        if not clock:
            clock.update(start=time.perf_counter(), cpu=time.process_time())
        state = str(int((counts[key] or b"0").split()[0]) + 1).encode() + PAD.encode()
        counts[key] = state
        await replies.send(key=key, value=state)


@app.task  # type: ignore[untyped-decorator]
async def watch() -> None:
    """The clock stops when everything is in the changelog and the reply topic."""
    if not COUNT:
        return
    while not clock:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    consumer = AIOKafkaConsumer(bootstrap_servers=BROKER)
    await consumer.start()
    written = (REPLIES, f"{APP_ID}-counts-changelog")
    tps = [[TopicPartition(name, number) for number in range(PARTITIONS)] for name in written]
    while True:
        ends = [sum((await consumer.end_offsets(places)).values()) for places in tps]
        if min(ends) >= COUNT:
            break
        await asyncio.sleep(0.05)
    seconds, cpu = time.perf_counter() - clock["start"], time.process_time() - clock["cpu"]
    await consumer.stop()
    result = {"per_s": COUNT / seconds, "seconds": seconds, "count": min(ends), "cpu_us": cpu / COUNT * 1e6}
    print("RESULT " + json.dumps(result), file=sys.__stdout__, flush=True)
