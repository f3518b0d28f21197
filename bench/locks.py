"""Lock and unlock against the bare pair SET NX + Lua release, interleaved in one run; ratios are medians over rounds.

    python -m rookery.ops.servers run -- python -m bench.locks [--rounds 5] [--count 500]

Alone: one task, one lock after another, empty body. Contended: 50 tasks want one lock 10 times each; a time is from
asking to having given back. The bare one knows no queue: it tries again after a random pause up to 10 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from rookery import Client, Lock, Settings, acquire_lock, release_lock
from rookery.ops import servers
from rookery.ops.locks.connect import connect
from rookery.streams.kafka import topics

TASKS = 50
EACH = 10
RETRY_SECONDS = 0.01
RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"

Cycle = Callable[[], Awaitable[None]]


def cycles(redis: Any) -> dict[str, Cycle]:
    """One lock and unlock, in four ways; the first is what the others are measured against."""
    release = redis.register_script(RELEASE)

    async def bare() -> None:
        owner = uuid.uuid4().hex
        while not await redis.set("bench-bare", owner, nx=True, px=30_000):  # noqa: ASYNC110 - as people do
            await asyncio.sleep(random.uniform(0, RETRY_SECONDS))
        await release(["bench-bare"], [owner])

    async def functions() -> None:
        owner = uuid.uuid4().hex
        while not await acquire_lock(redis, "bench-functions", owner):  # noqa: ASYNC110
            await asyncio.sleep(random.uniform(0, RETRY_SECONDS))
        await release_lock(redis, "bench-functions", owner)

    async def without_token() -> None:
        async with Lock("bench", fence=False):
            pass

    async def with_token() -> None:
        async with Lock("bench-fenced"):
            pass

    return {
        "SET NX + Lua": bare,
        "functions": functions,
        "Lock, fence=False": without_token,
        "Lock with token": with_token,
    }


async def alone(cycle: Cycle, count: int) -> list[float]:
    times = []
    for _ in range(count):
        began = time.perf_counter()
        await cycle()
        times.append(time.perf_counter() - began)
    return times


async def contended(cycle: Cycle, _: int) -> list[float]:
    return [time for times in await asyncio.gather(*(alone(cycle, EACH) for _ in range(TASKS))) for time in times]


async def measure(redis: Any, rounds: int, count: int) -> None:
    ways = cycles(redis)
    for title, work in (("alone", alone), (f"contended by {TASKS}", contended)):
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for cycle in ways.values():
            await alone(cycle, 20)
        for _ in range(rounds):
            for name, cycle in ways.items():
                times = sorted(await work(cycle, count))
                found[name].append((statistics.median(times), times[int(len(times) * 0.99)]))
        print(f"{title}, {rounds} rounds:")
        bare = found["SET NX + Lua"]
        for name, figures in found.items():
            p50, p99 = (statistics.median(figure[n] for figure in figures) * 1000 for n in (0, 1))
            ratio = statistics.median(ours[0] / theirs[0] for ours, theirs in zip(figures, bare, strict=True))
            print(f"  {name:18} p50 {p50:8.2f} ms   p99 {p99:8.2f} ms   {ratio:5.2f} x SET NX + Lua at p50")


@asynccontextmanager
async def application(broker: str, redis_url: str) -> AsyncIterator[None]:
    app_id = f"bench-{uuid.uuid4().hex[:8]}"
    settings = Settings.load(app_id=app_id, broker=broker, redis_url=redis_url, partitions=1)
    kafka = {"bootstrap_servers": broker}
    await topics.ensure(settings, kafka)
    async with Client(app_id, settings=settings):
        yield
    await topics.remove(app_id, kafka)


async def main(broker: str, redis_url: str, rounds: int, count: int) -> None:
    redis = connect(redis_url, 5.0, max_connections=100)
    async with application(broker, redis_url):
        await measure(redis, rounds, count)
    await redis.aclose()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=500)
    options = parser.parse_args()
    with servers.ensure(kafka=True, redis=True) as found_servers:
        asyncio.run(main(found_servers.broker, found_servers.redis_url, options.rounds, options.count))
