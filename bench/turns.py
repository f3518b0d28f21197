"""Durable turns: against the raw loop, without replies, of one hot agent, and of handlers that wait.

A durable turn is fetched, checked (CRC), decoded into its class and handled; its agent's state goes to the journal, its
reply through the outbox, progress and metrics are kept, all at their defaults. Raw is getmany and two send_batch of the
same records. Both clocks run from the first fetch to the last ack of the broker.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import msgspec
from aiokafka.admin import NewTopic

from bench.harness import Figures, Harness, Void
from bench.processes import counted, program, turns
from bench.workload import ADD, Nap, names, prefill, records
from rookery.streams.kafka import topics

PARTITIONS = 4
HOT_MESSAGES = 50_000
SLEEPERS, EACH, NAP_SECONDS = 200, 10, 0.05


async def durable(
    h: Harness,
    count: int,
    replies: bool = True,
    agents: int = 1_000,
    partitions: int = PARTITIONS,
    message: msgspec.Struct = ADD,
) -> Figures:
    """One worker, the messages spread over the agents."""
    return await turns(
        h.broker,
        h.broker_pid,
        lambda partitions: records(count, partitions, names(agents), message=message, replies=replies),
        count,
        partitions=partitions,
        replies=replies,
        verify=lambda client: counted(client, names(agents)),
    )


@asynccontextmanager
async def prefilled(h: Harness, count: int) -> AsyncIterator[tuple[str, str, str]]:
    """A topic with the records, and two empty ones."""
    prefix = f"raw-{uuid.uuid4().hex[:8]}"
    source, first, second = f"{prefix}-in", f"{prefix}-a", f"{prefix}-b"
    async with topics.admin({"bootstrap_servers": h.broker}) as admin:
        await admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in (source, first, second)])
        try:
            await asyncio.sleep(1)  # until they have leaders
            await prefill(h.broker, source, records(count, PARTITIONS, names()), PARTITIONS)
            yield source, first, second
        finally:
            await admin.delete_topics([source, first, second])


async def raw(h: Harness, module: str, names: tuple[str, str, str], count: int, *flags: str) -> Figures:
    """A raw loop over a prefilled topic, in a process of its own."""
    command = [sys.executable, "-m", module, h.broker, *names, str(count), str(PARTITIONS), str(h.broker_pid), *flags]
    async with program(command) as running:
        figures = await running.result()
    if figures["count"] != count:
        raise Void(f"the raw loop copied {figures['count']:.0f} of {count} records")
    return figures


async def durable_turn(h: Harness) -> None:
    """The headline: asked turns beside the raw loop, in pairs."""
    count, more = h.count(800_000), h.count(1_600_000)
    async with prefilled(h, more) as topics_:
        runs = await h.interleaved(
            {"raw aiokafka": partial(raw, h, "bench.raw", topics_, more), "durable": partial(durable, h, count)}
        )
    ours, theirs = runs["durable"], runs["raw aiokafka"]
    h.ratios("durable_turn_vs_raw", ours, theirs, "per_s", count=count)
    h.record("durable_turn_per_s", [run["per_s"] for run in ours], count=count)
    for side, name in ((ours, "cpu_us_per_turn"), (theirs, "raw_cpu_us_per_message")):
        broker = statistics.median(run["broker_cpu_us"] for run in side)
        h.record(name, [run["cpu_us"] for run in side], broker_us=round(broker, 2))


async def raw_codec(h: Harness) -> None:
    """The same beside a raw loop that checks, parses and writes envelopes, too."""
    count = more = h.count(800_000)
    async with prefilled(h, more) as topics_:
        runs = await h.interleaved(
            {
                "raw with codec": partial(raw, h, "bench.raw", topics_, more, "--codec"),
                "durable": partial(durable, h, count),
            }
        )
    cpu = statistics.median(run["cpu_us"] for run in runs["raw with codec"])
    h.ratios("durable_turn_vs_raw_codec", runs["durable"], runs["raw with codec"], "per_s", raw_cpu_us=round(cpu, 2))


async def state_only(h: Harness) -> None:
    """Told turns: state, no message."""
    count = h.count(1_200_000)
    runs = await h.interleaved({"state only": partial(durable, h, count, False)})
    h.record("state_only_per_s", [run["per_s"] for run in runs["state only"]], count=count)


async def hot_agent(h: Harness) -> None:
    """All messages to one agent, against as many to 1,000."""
    count = h.count(HOT_MESSAGES)
    runs = await h.interleaved({"even": partial(durable, h, count), "hot": partial(durable, h, count, True, 1)})
    h.ratios("hot_agent_vs_even", runs["hot"], runs["even"], "per_s", count=count)


async def _slow(h: Harness) -> Figures:
    targets = names(SLEEPERS) * EACH
    random.shuffle(targets)
    return await turns(
        h.broker,
        h.broker_pid,
        lambda partitions: records(len(targets), partitions, targets, message=Nap(NAP_SECONDS), replies=False),
        len(targets),
        partitions=1,
        replies=False,
        verify=lambda client: counted(client, names(SLEEPERS)),
    )


async def slow_handlers(h: Harness) -> None:
    """One partition, ten messages to each agent in random order: agents must not wait for each other."""
    runs = await h.interleaved({"slow handlers": partial(_slow, h)})
    ideal = EACH * NAP_SECONDS
    h.record("slow_handlers_vs_ideal", [run["seconds"] / ideal for run in runs["slow handlers"]], ideal_s=ideal)
