"""More than one worker: what a second and a third bring, and how soon a new one carries its share of a load."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from bisect import bisect_right
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.harness import Figures, Harness, Void
from bench.machine import cpu_seconds
from bench.members import Member, Members
from bench.offer import Offer, spread
from bench.processes import application, counted
from bench.workload import Burn, Nap, names, prefill, records
from rookery import Client

PARTITIONS = 12
SIZES = (1, 2, 3)
TURNS = {"wait": (Nap(0.005), 200_000), "burn": (Burn(0.0002), 40_000)}
"""What a turn does, and how many of them a run has."""

JOIN_RATE = 200
"""Turns per second of a fleet that another worker joins; together they need one core."""
JOIN_TURN = Burn(0.005)
WEIGHT, SHARE, TOLERANCE = 2.0, 0.5, 0.1
"""Of the worker that joins two of weight 1; the tolerance is a share of the share."""
WINDOW, HOLD, STEP = 2.0, 5.0, 0.1
"""A share is that of the turns in the last WINDOW seconds, and has to stay for HOLD seconds."""
JOIN_SECONDS_MAX = 120.0


async def _handle(h: Harness, kind: str, workers: int) -> Figures:
    """So many workers handle prefilled messages; the clock runs from the opening of all gates to the last commit."""
    message, full = TURNS[kind]
    count = h.count(full)
    async with application(h.broker, PARTITIONS) as settings, Members(settings, "bench.fleet_worker") as members:
        messages = records(count, PARTITIONS, names(), message=message, replies=False)
        await prefill(h.broker, f"{settings.app_id}.inbox.normal", messages, PARTITIONS)
        with tempfile.TemporaryDirectory() as folder:
            gate = Path(folder) / "open"
            for number in range(workers):
                await members.start(f"w{number}", BENCH_GATE=gate)
            await members.until_owned([PARTITIONS // workers] * workers)
            if members.count:
                raise Void(f"{members.count} turns before the clock started")
            pids = [member.pid for member in members.all]
            before, broker = sum(map(cpu_seconds, pids)), cpu_seconds(h.broker_pid)
            began = time.monotonic()
            gate.touch()
            await members.until(lambda: members.count >= count, f"{count} turns", 300)
        worked, broker = sum(map(cpu_seconds, pids)) - before, cpu_seconds(h.broker_pid) - broker
        seconds = max(member.latest["last"] for member in members.all) - began
        async with Client(settings.app_id, settings=settings) as client:
            total = await counted(client, names())
        if total != count:
            raise Void(f"the agents counted {total} of {count} messages")
    return {
        "per_s": count / seconds,
        "seconds": seconds,
        "worker_cores": worked / seconds,
        "broker_cores": broker / seconds,
        "worker_us": worked / count * 1e6,
        "broker_us": broker / count * 1e6,
    }


async def fleet(h: Harness) -> None:
    """1, 2 and 3 workers on 12 partitions: turns that wait 5 ms, and turns that compute for 0.2 ms."""
    ways = {f"fleet_{kind}_{size}_per_s": partial(_handle, h, kind, size) for kind in TURNS for size in SIZES}
    for row, runs in (await h.interleaved(ways)).items():
        more = {
            name: round(statistics.median(run[name] for run in runs), 2)
            for name in ("worker_cores", "broker_cores", "worker_us", "broker_us")
        }
        h.record(row, [run["per_s"] for run in runs], **more)


def _at(report: dict[str, Any]) -> float:
    return float(report["at"])


class Share:
    """Follows what share of the turns the last of some workers does."""

    def __init__(self, members: Sequence[Member], since: float) -> None:
        self._members = members
        self._moment = since + WINDOW
        self._held_since: float | None = None
        self.now = 0.0

    def carried_since(self) -> float | None:
        """When it began to carry its share, once it has kept to it; looks at what was reported since the last call."""
        reported = min(member.latest["at"] for member in self._members)
        while self._moment <= reported:
            *others, its = [self._turns(member) for member in self._members]
            self.now = its / (sum(others) + its or 1)
            if abs(self.now - SHARE) > SHARE * TOLERANCE:
                self._held_since = None
            elif self._held_since is None:
                self._held_since = self._moment
            elif self._moment - self._held_since >= HOLD:
                return self._held_since
            self._moment += STEP
        return None

    def _turns(self, member: Member) -> int:
        """Committed in the window that ends now, by the last reports before its ends."""
        ends = (bisect_right(member.reports, end, key=_at) for end in (self._moment - WINDOW, self._moment))
        before, after = (int(member.reports[end - 1]["count"]) if end else 0 for end in ends)
        return after - before


async def _join(h: Harness) -> Figures:
    """A worker is started beside two that are at work."""
    stop = asyncio.Event()
    rate = JOIN_RATE * min(1.0, h.scale)
    targets = spread(names(), PARTITIONS)
    async with (
        application(h.broker, PARTITIONS) as settings,
        Members(settings, "bench.fleet_worker") as members,
        Offer(settings, targets, lambda due, partition: JOIN_TURN, replies=False) as offer,
    ):
        for name in "ab":
            await members.start(name)
        await members.until_owned([6, 6])
        sending = asyncio.create_task(offer.at_rate(rate, stop))
        try:
            await asyncio.sleep(WINDOW)
            began = time.monotonic()
            newcomer = await members.start("c", WEIGHT)
            share = Share(members.all, began)
            carried: float | None = None

            def carries() -> bool:
                nonlocal carried
                if sending.done():
                    sending.result()
                carried = share.carried_since()
                return carried is not None

            try:
                await members.until(carries, "a steady share", JOIN_SECONDS_MAX)
            except Void as why:
                raise Void(f"{why}; in the end it was {share.now:.0%}") from None
        finally:
            stop.set()
            await asyncio.wait([sending], timeout=30)
        sending.result()
        await members.until(lambda: members.count >= offer.sent, f"{offer.sent} turns")
        async with Client(settings.app_id, settings=settings) as client:
            total = await counted(client, targets)
        if total != offer.sent:
            raise Void(f"the agents counted {total} of {offer.sent} messages")
        first = next(report["at"] for report in newcomer.reports if report["count"])
        assert carried is not None
    return {"seconds": carried - began, "first_turn_s": first - began}


async def fleet_join(h: Harness) -> None:
    """A worker of weight 2 joins two of weight 1 at work (5 ms of processor time a turn), until it does half of it."""
    runs = (await h.interleaved({"join": partial(_join, h)}))["join"]
    first = statistics.median(run["first_turn_s"] for run in runs)
    h.record("fleet_join_s", [run["seconds"] for run in runs], rate=JOIN_RATE, first_turn_s=round(first, 2))
