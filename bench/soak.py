"""Many minutes at 70 per cent of what the worker can do, open loop: what grows, and what gets slower.

Capacity is found in the same setting: the same generator sends as fast as turns are committed. The broker needs about
three gigabytes of disk for each minute, and the check reads all journals afterwards, which takes minutes, too.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from aiokafka.admin import NewTopic

from bench import journals
from bench.harness import Figures, Harness, Void
from bench.members import Member, Members, followed
from bench.offer import Offer
from bench.processes import application, program
from bench.turns import PARTITIONS
from bench.workload import BUCKET, Paced, names
from rookery.streams.kafka import topics

LOAD = 0.7
CAPACITY_SECONDS, WARM_SECONDS = 15.0, 5.0
UNDERWAY_MAX, CHUNK = 50_000, 2_000
"""While capacity is measured: messages sent and not committed, and how many are made at a time."""
WINDOW_SECONDS = 10.0
PROBE = "bench-probe"
"""The topic of the raw produce."""

Reports = Sequence[dict[str, Any]]


def p99_ms(reports: Reports) -> float:
    """The 99th percentile over some reports."""
    buckets: Counter[int] = Counter()
    for report in reports:
        buckets.update({int(bucket): count for bucket, count in report["buckets"].items()})
    left = buckets.total() * 0.01
    for bucket in sorted(buckets, reverse=True):
        left -= buckets[bucket]
        if left <= 0:
            return math.exp(bucket * BUCKET) * 1e3
    raise Void("no turn was timed")


def usual_p99_ms(reports: Reports) -> float:
    """The median of the 99th percentiles of ten seconds each.

    Of a quarter as a whole, a hundredth is three seconds: one stall of the disk decides its p99, and nothing else does.
    """
    windows: defaultdict[float, list[dict[str, Any]]] = defaultdict(list)
    for report in reports:
        if report["buckets"]:
            windows[report["at"] // WINDOW_SECONDS].append(report)
    return statistics.median(p99_ms(window) for window in windows.values())


def between(reports: Reports, began: float, ended: float) -> Reports:
    """Those of a time."""
    return [report for report in reports if began < report["at"] <= ended]


@asynccontextmanager
async def probe(broker: str) -> AsyncIterator[Member]:
    """The raw produce, and its topic."""
    async with topics.admin({"bootstrap_servers": broker}) as admin:
        await admin.create_topics([NewTopic(PROBE, 1, 1)])
        try:
            async with (
                program([sys.executable, "-m", "bench.probe", broker, PROBE]) as running,
                followed(running) as member,
            ):
                yield member
        finally:
            await admin.delete_topics([PROBE])


async def capacity(members: Members, offer: Offer) -> float:
    """Turns per second when there is always something to do."""
    stop = asyncio.Event()

    def more() -> int:
        return CHUNK if offer.sent - members.count < UNDERWAY_MAX else 0

    sending = asyncio.create_task(offer.at_most(more, stop))
    await asyncio.sleep(WARM_SECONDS)
    first = members.all[0].latest
    await asyncio.sleep(CAPACITY_SECONDS)
    last = members.all[0].latest
    stop.set()
    await sending
    await members.until(lambda: members.count >= offer.sent, f"{offer.sent} turns")
    return float((last["count"] - first["count"]) / (last["at"] - first["at"]))


async def _soak(h: Harness, minutes: float) -> Figures:
    agents = [name.replace("Counter", "Soaked") for name in names()]
    async with (
        application(h.broker, PARTITIONS) as settings,
        Members(settings, "bench.soak_worker") as members,
        Offer(settings, agents, Paced, replies=True) as offer,
    ):
        member = await members.start("soak")
        await members.until_owned([PARTITIONS])
        able = await capacity(members, offer)
        before = await journals.read(settings)
        async with probe(h.broker) as beside:
            stop, began = asyncio.Event(), time.monotonic()
            sending = asyncio.create_task(offer.at_rate(able * LOAD, stop))
            while time.monotonic() < began + minutes * 60 and not sending.done():
                await members.until(lambda: True, "")  # a worker that has ended ends this, too
                if beside.following.done():
                    beside.following.result()
                await asyncio.sleep(1)
            ended = time.monotonic()
            stop.set()
            await sending
        await members.until(lambda: members.count >= offer.sent, f"{offer.sent} turns")
        found = await journals.read(settings)
        if found.counted != offer.sent or members.count != offer.sent:
            raise Void(f"the agents counted {found.counted} of {offer.sent} messages in {members.count} turns")
    grown = (found.written_bytes - before.written_bytes) / 1e6
    return {
        "capacity_per_s": able,
        "journal_mb_per_min": grown / ((ended - began) / 60),
        "live_mb": found.live_bytes / 1e6,
        **told(member.reports, beside.reports, began, ended),
    }


def told(ours: Reports, raw: Reports, began: float, ended: float) -> Figures:
    """What the reports of the worker and of the raw produce say about a time."""
    quarter = (ended - began) / 4
    all_reports = between(ours, began, ended)
    warm = between(ours, began + quarter, ended)
    second = between(ours, began + quarter, began + 2 * quarter), between(raw, began + quarter, began + 2 * quarter)
    last = between(ours, ended - quarter, ended), between(raw, ended - quarter, ended)
    drift, raw_drift = (usual_p99_ms(then) / usual_p99_ms(before) for before, then in zip(second, last, strict=True))
    line = statistics.linear_regression([report["at"] / 60 for report in warm], [report["rss_mb"] for report in warm])

    def rate(figure: str, reports: Reports = all_reports, per: str = "at") -> float:
        return float((reports[-1][figure] - reports[0][figure]) / (reports[-1][per] - reports[0][per]))

    return {
        "per_s": rate("count"),
        "memory_mb_per_min": line.slope,
        "rss_mb": all_reports[-1]["rss_mb"],
        "p99_drift": drift / raw_drift,
        "ours_drift": drift,
        "raw_drift": raw_drift,
        "p99_ms": usual_p99_ms(last[0]),
        "raw_p99_ms": usual_p99_ms(last[1]),
        "quarter_p99_ms": p99_ms(last[0]),
        "second_quarter_p99_ms": p99_ms(second[0]),
        "cpu_drift": rate("cpu_s", last[0], "count") / rate("cpu_s", second[0], "count"),
        "gc_longest_ms": max(report["gc_longest_ms"] for report in all_reports),
        "gc_share": rate("gc_s"),
    }


async def soak(h: Harness) -> None:
    """1,000 agents, for so many minutes (--minutes) at 70 % of capacity, open loop."""
    minutes = h.minutes * min(1.0, h.scale)
    (run,) = (await h.interleaved({"soak": partial(_soak, h, minutes)}, 1))["soak"]
    shown = {name: float(f"{value:.4g}") for name, value in run.items()}

    def record(row: str, figure: str, *beside: str) -> None:
        h.record(row, [run[figure]], minutes=minutes, **{name: shown[name] for name in beside})

    record("soak_memory_mb_per_min", "memory_mb_per_min", "rss_mb")
    drift = ("ours_drift", "raw_drift", "p99_ms", "raw_p99_ms", "quarter_p99_ms", "second_quarter_p99_ms")
    record("soak_p99_drift", "p99_drift", *drift, "cpu_drift", "per_s", "capacity_per_s")
    record("soak_gc_longest_ms", "gc_longest_ms", "gc_share")
    record("soak_journal_mb_per_min", "journal_mb_per_min", "live_mb")
