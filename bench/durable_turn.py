"""Durable turns against the raw loop, in pairs in one run; the ratio of medians is the figure.

    python -m bench.durable_turn [--count 500000] [--pairs 3]

A turn here: an asked message of 100 B is fetched, checked (CRC), decoded into its class, handled, its agent's state
goes to the journal and its reply through the outbox. Raw: getmany and two send_batch of the same records. Every agent's
totals are asked for after the clock stopped; a wrong one voids the run.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import uuid

from aiokafka.admin import NewTopic

from bench.raw import main as raw_loop
from bench.workload import AGENTS, CLIENT, prefill
from rookery import Client
from rookery.ops.settings import Settings
from rookery.streams.kafka import topics

PARTITIONS = 4


async def durable(broker: str, count: int) -> dict[str, float]:
    """One worker process handles `count` prefilled messages."""
    app_id = f"bench-{uuid.uuid4().hex[:8]}"
    settings = Settings.load(app_id=app_id, broker=broker, partitions=PARTITIONS)
    kafka = {"bootstrap_servers": broker}
    await topics.ensure(settings, kafka)
    async with topics.admin(kafka) as admin:
        await topics.create(admin, [topics.replies_spec(settings, CLIENT)])
    await prefill(broker, f"{app_id}.inbox.normal", count, PARTITIONS)
    environment = {
        **os.environ,
        "ROOKERY_APP_ID": app_id,
        "ROOKERY_BROKER": broker,
        "ROOKERY_PARTITIONS": str(PARTITIONS),
        "BENCH_COUNT": str(count),
    }
    command = [sys.executable, "-m", "faust", "-A", "bench.worker", "worker", "-l", "info", "--without-web"]
    worker = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        result = await asyncio.wait_for(_result(worker), 600)
        async with Client(app_id, settings=settings) as client:
            states = [client.get_agent(f"Counter/{number}").state(timeout=60) for number in range(AGENTS)]
            total = sum(state["count"] for state in await asyncio.gather(*states))
        if total != count:
            raise SystemExit(f"VOID: the agents counted {total} of {count} messages")
    finally:
        worker.terminate()
        await worker.wait()
        await topics.remove(app_id, kafka)
    return result


async def _result(worker: asyncio.subprocess.Process) -> dict[str, float]:
    assert worker.stdout is not None
    async for line in worker.stdout:
        if line.startswith(b"RESULT "):
            found: dict[str, float] = json.loads(line[7:])
            return found
    raise SystemExit("VOID: the worker ended without a result")


async def raw(broker: str, count: int) -> dict[str, float]:
    """The raw loop over the same records."""
    prefix = f"raw-{uuid.uuid4().hex[:8]}"
    names = [f"{prefix}-in", f"{prefix}-a", f"{prefix}-b"]
    async with topics.admin({"bootstrap_servers": broker}) as admin:
        await admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in names])
        await asyncio.sleep(1)
        await prefill(broker, names[0], count, PARTITIONS)
        try:
            return await raw_loop(broker, names[0], (names[1], names[2]), count, PARTITIONS)
        finally:
            await admin.delete_topics(names)


async def main() -> None:
    """Run the pairs and print both absolute rates and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500_000)
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    broker = Settings.load(app_id="bench").broker
    ours, theirs = [], []
    for number in range(arguments.pairs):
        theirs.append(await raw(broker, arguments.count))
        ours.append(await durable(broker, arguments.count))
        print(
            f"pair {number + 1}: raw {theirs[-1]['per_s']:,.0f}/s, durable {ours[-1]['per_s']:,.0f}/s",
            ours[-1],
            flush=True,
        )
    rate, base = (statistics.median(run["per_s"] for run in runs) for runs in (ours, theirs))
    print(
        f"durable turns {rate:,.0f}/s, raw {base:,.0f}/s, ratio {rate / base:.3f} (medians of {arguments.pairs} pairs)"
    )


if __name__ == "__main__":
    asyncio.run(main())
