"""What a poison agent and one that sleeps for ten minutes cost 1,000 busy agents on the same partition.

    python -m bench.neighbours [--rate 300] [--seconds 10] [--pairs 3]

Open loop: asks leave at a fixed rate, whatever the answers do, and each latency counts from the intended moment of
sending. Calm and troubled stretches alternate; the figure is the ratio of the medians of their p99.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
import uuid

from bench.neighbours_worker import Add, Poison, Sleep
from rookery import Client
from rookery.ops.settings import Settings
from rookery.streams.kafka import topics

AGENTS = 1_000


async def stretch(client: Client, rate: int, seconds: float, troubled: bool) -> list[float]:
    """Latencies in seconds of all asks of one stretch."""
    start = time.perf_counter()
    latencies: list[float] = []

    async def one(number: int, due: float) -> None:
        await client.get_agent(f"Counter/{number % AGENTS}").ask(Add(1), 60)
        latencies.append(time.perf_counter() - due)

    tasks = []
    for number in range(int(rate * seconds)):
        due = start + number / rate
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        if troubled and number % rate == 0:
            await client.get_agent("Counter/poison").tell(Poison())
            await client.get_agent("Counter/sleeper").tell(Sleep(600))
        tasks.append(asyncio.create_task(one(number, due)))
    await asyncio.gather(*tasks)
    return sorted(latencies)


async def main() -> None:
    """Run the pairs and print p50 and p99 of each, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    broker = Settings.load(app_id="bench").broker
    app_id = f"bench-{uuid.uuid4().hex[:8]}"
    settings = Settings.load(app_id=app_id, broker=broker, partitions=1)
    await topics.ensure(settings, {"bootstrap_servers": broker})
    environment = {**os.environ, "ROOKERY_APP_ID": app_id, "ROOKERY_BROKER": broker, "ROOKERY_PARTITIONS": "1"}
    command = [sys.executable, "-m", "faust", "-A", "bench.neighbours_worker", "worker", "-l", "error", "--without-web"]
    worker = await asyncio.create_subprocess_exec(*command, env=environment, stdout=subprocess.DEVNULL)
    try:
        async with Client(app_id, settings=settings) as client:
            await client.get_agent("Counter/0").ask(Add(1), 60)
            await stretch(client, arguments.rate, 3, False)
            p99: dict[bool, list[float]] = {False: [], True: []}
            for pair in range(arguments.pairs):
                for troubled in (False, True):
                    found = await stretch(client, arguments.rate, arguments.seconds, troubled)
                    p99[troubled].append(found[int(len(found) * 0.99)])
                    name = "troubled" if troubled else "calm    "
                    p50 = found[len(found) // 2]
                    print(f"pair {pair + 1} {name}: p50 {p50 * 1e3:.1f} ms, p99 {p99[troubled][-1] * 1e3:.1f} ms")
            calm, trouble = statistics.median(p99[False]), statistics.median(p99[True])
            print(f"p99 calm {calm * 1e3:.1f} ms, troubled {trouble * 1e3:.1f} ms, ratio {trouble / calm:.2f}")
    finally:
        worker.kill()
        await worker.wait()
        await topics.remove(app_id, {"bootstrap_servers": broker})


if __name__ == "__main__":
    asyncio.run(main())
