"""Many minutes at 70 per cent of what the worker can do, open loop: what grows, and what gets slower.

Capacity is found in the same setting: the same generator sends as fast as turns are committed. The broker needs about
three gigabytes of disk for each minute, and the check reads all journals afterwards, which takes minutes, too.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from bench import journals
from bench.harness import Figures, Harness, Void
from bench.members import Members
from bench.offer import Offer
from bench.processes import application
from bench.turns import PARTITIONS
from bench.workload import BUCKET, Paced, names

LOAD = 0.7
CAPACITY_SECONDS, WARM_SECONDS = 15.0, 5.0
UNDERWAY_MAX, CHUNK = 50_000, 2_000
"""While capacity is measured: messages sent and not committed, and how many are made at a time."""


def p99_ms(reports: Sequence[dict[str, Any]]) -> float:
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
        stop, began = asyncio.Event(), time.monotonic()
        sending = asyncio.create_task(offer.at_rate(able * LOAD, stop))
        while time.monotonic() < began + minutes * 60 and not sending.done():
            await members.until(lambda: True, "")  # a worker that has ended ends this, too
            await asyncio.sleep(1)
        ended = time.monotonic()
        stop.set()
        await sending
        await members.until(lambda: members.count >= offer.sent, f"{offer.sent} turns")
        reports = [report for report in member.reports if began < report["at"] <= ended]
        found = await journals.read(settings)
        if found.counted != offer.sent or members.count != offer.sent:
            raise Void(f"the agents counted {found.counted} of {offer.sent} messages in {members.count} turns")
    quarter = len(reports) // 4
    warm = reports[quarter:]
    grown = found.written_bytes - before.written_bytes
    line = statistics.linear_regression([report["at"] / 60 for report in warm], [report["rss_mb"] for report in warm])
    second, last = p99_ms(reports[quarter : 2 * quarter]), p99_ms(reports[-quarter:])
    return {
        "capacity_per_s": able,
        "per_s": (reports[-1]["count"] - reports[0]["count"]) / (reports[-1]["at"] - reports[0]["at"]),
        "memory_mb_per_min": line.slope,
        "rss_mb": reports[-1]["rss_mb"],
        "p99_ms": last,
        "p99_drift": last / second,
        "gc_longest_ms": max(report["gc_longest_ms"] for report in reports),
        "gc_share": (reports[-1]["gc_s"] - reports[0]["gc_s"]) / (reports[-1]["at"] - reports[0]["at"]),
        "journal_mb_per_min": grown / 1e6 / ((ended - began) / 60),
        "live_mb": found.live_bytes / 1e6,
    }


async def soak(h: Harness) -> None:
    """1,000 agents, for so many minutes (--minutes) at 70 % of capacity, open loop."""
    minutes = h.minutes * min(1.0, h.scale)
    (run,) = (await h.interleaved({"soak": partial(_soak, h, minutes)}, 1))["soak"]
    shown = {name: float(f"{value:.4g}") for name, value in run.items()}

    def record(row: str, figure: str, *beside: str) -> None:
        h.record(row, [run[figure]], minutes=minutes, **{name: shown[name] for name in beside})

    record("soak_memory_mb_per_min", "memory_mb_per_min", "rss_mb")
    record("soak_p99_drift", "p99_drift", "p99_ms", "per_s", "capacity_per_s")
    record("soak_gc_longest_ms", "gc_longest_ms", "gc_share")
    record("soak_journal_mb_per_min", "journal_mb_per_min", "live_mb")
