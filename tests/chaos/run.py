"""One run: brokers, a fleet, a load and faults; then quiet, questions, and the verdict."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import statistics
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rookery.ops.servers.process import launch
from tests.chaos import checker, faults, nemesis, outages, topics
from tests.chaos.broker import Broker
from tests.chaos.disks import Disks
from tests.chaos.evidence import (
    ANOMALIES,
    DEAD_LETTER_MISMATCH,
    LOST,
    LOST_SEND,
    REPLY_LOST,
    STATE_DIVERGENCE,
    STUCK,
    Anomaly,
    Evidence,
)
from tests.chaos.fleet import ROOT, Fleet, until
from tests.chaos.journals import Journals
from tests.chaos.workload import address
from tests.cluster.redis_kit import RedisServer

GENERATOR, CHECKER = "generator", "checker"
START_SECONDS = 120.0
# From the end of the load until everything must be handled: the first in seconds, plus a share of the load's length.
DRAIN_SECONDS, DRAIN_SHARE = 120.0, 0.5
# How often an agent that is silent is asked.
ASK_TIMES = 4
# The share of orders with a lock, in runs with a Redis.
LOCKED = 0.03
# Witnesses shown of each anomaly.
SHOWN_MAX = 5

# What a fleet that needs more time looks like.
NOT_DONE_YET = {STUCK, LOST, LOST_SEND, REPLY_LOST, STATE_DIVERGENCE, DEAD_LETTER_MISMATCH}

Say = Callable[[str], None]


@dataclass
class Plan:
    """What a run is made of."""

    seed: int = 1
    minutes: float = 1.0
    workers: int = 3
    agents: int = 300
    partitions: int = 6
    rate: float = 200.0
    session_timeout: float = 10.0
    gap: float = 5.0
    kinds: Sequence[str] = ()
    store: str = "memory"
    standbys: int = 0
    compaction: bool = False  # the journal is compacted while the run lasts
    off: str = ""
    emphasis: Mapping[str, float] = field(default_factory=dict)  # see workload.commands
    patience: float = 45.0  # without any progress for so long, the fleet is stuck and not slow; seconds
    folder: Path = field(default_factory=lambda: Path(".rookery/chaos"))


@dataclass
class Verdict:
    """How a run ended; `word` is OK, FAILED, INVALID or OVERLOAD."""

    word: str
    anomalies: list[Anomaly]
    summary: str
    why: str = ""

    @property
    def names(self) -> Counter[str]:
        """Messages by anomaly."""
        names: Counter[str] = Counter()
        for anomaly in self.anomalies:
            names[anomaly.name] += anomaly.messages
        return names

    @property
    def line(self) -> str:
        """The last line of a run."""
        counts = ", ".join(f"{self.names[name]} {name}" for name in ANOMALIES if self.names[name] or self.word == "OK")
        return f"{self.word} {self.why + ': ' if self.why else ''}{self.summary}: {counts or 'no anomaly'}"


class Run:
    """One run of a plan on a cluster."""

    def __init__(self, plan: Plan, brokers: Sequence[Broker], say: Say) -> None:
        self.plan, self._brokers, self._say = plan, brokers, say
        self._broker = ",".join(broker.address for broker in brokers)
        self.app_id = f"chaos-{uuid.uuid4().hex[:8]}"
        self.names = topics.Names(self.app_id)
        self._folder = (plan.folder / f"{plan.off or 'run'}-{plan.seed}-{self.app_id[-4:]}").absolute()
        self._folder.mkdir(parents=True)
        self._proxy: subprocess.Popen[bytes] | None = None
        self._load: subprocess.Popen[bytes] | None = None
        workers = [f"worker-{number}" for number in range(1, plan.workers + 1)]
        self.disks = Disks(self._folder / "data", workers if faults.DISK & set(plan.kinds) else [])
        self._redis = RedisServer(self._folder / "redis") if outages.REDIS & set(plan.kinds) else None
        self._ports = self._start_proxy(workers) if outages.NETWORK & set(plan.kinds) else {}
        self.fleet = Fleet(self._folder, self._env, workers)
        self._history = self._folder / "history.jsonl"
        self.faults: list[nemesis.Fault] = []

    def _env(self, worker: str) -> dict[str, str]:
        plan = self.plan
        return {
            "ROOKERY_APP_ID": self.app_id,
            "ROOKERY_BROKER": self._broker,
            "ROOKERY_AGENT_ID": worker,
            "ROOKERY_REPLICATION_FACTOR": "3" if len(self._brokers) >= 3 else "1",
            "ROOKERY_MIN_INSYNC_REPLICAS": "2" if len(self._brokers) >= 3 else "1",
            "ROOKERY_PARTITIONS": str(plan.partitions),
            "ROOKERY_SESSION_TIMEOUT": str(plan.session_timeout),
            "ROOKERY_STORE": "rocksdb" if faults.DISK & set(plan.kinds) else plan.store,
            "ROOKERY_DATA_DIR": str(self.disks.folder(worker)),
            "ROOKERY_STANDBYS": str(plan.standbys),
            **({"ROOKERY_REDIS_URL": self._redis.url} if self._redis else {}),
            "CHAOS_COMPACTION": "1" if plan.compaction else "",
            "CHAOS_LINKS": json.dumps(self._ports.get(worker, {})),
            "CHAOS_OFF": plan.off,
            # What is switched off are parts of the Python twins.
            **({"ROOKERY_PURE": "1"} if plan.off else {}),
        }

    def _start_proxy(self, workers: Sequence[str]) -> dict[str, dict[str, int]]:
        order = {"folder": str(self._folder), "workers": workers, "brokers": self._broker.split(",")}
        command = [sys.executable, "-m", "tests.chaos.proxy", json.dumps(order)]
        with (self._folder / "proxy.log").open("wb") as out:
            self._proxy = launch(command, dies_with_us=signal.SIGKILL, cwd=ROOT, stdout=out, stderr=out)
        deadline = time.monotonic() + 20
        while not (ports := self._folder / "ports.json").exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the proxy did not start: see {self._folder / 'proxy.log'}")
            time.sleep(0.05)
        found: dict[str, dict[str, int]] = json.loads(ports.read_text())
        return found

    def _network(self, rules: dict[str, dict[str, Any]]) -> None:
        partial = self._folder / "network.new"
        partial.write_text(json.dumps(rules))
        partial.replace(self._folder / "network.json")

    async def __call__(self) -> Verdict:
        """Run it, and leave no process behind."""
        try:
            return await self._run()
        finally:
            self.fleet.kill()
            self.disks.close()
            if self._redis is not None:
                self._redis.stop()
            for process in (self._load, self._proxy):
                if process is not None:
                    process.kill()
                    process.wait()

    async def _run(self) -> Verdict:
        plan = self.plan
        self._say(f"seed {plan.seed}: {plan.workers} workers, {plan.agents} agents, logs in {self._folder}")
        for worker in self.fleet.workers:
            worker.start()
        workers = self.fleet.workers
        await until(lambda: self.fleet.owned() == plan.partitions or not all(w.alive for w in workers), START_SECONDS)
        if self.fleet.owned() != plan.partitions:
            word = "OVERLOAD" if all(worker.alive for worker in workers) else "INVALID"
            return Verdict(word, [], f"the fleet did not start within {START_SECONDS:.0f} s")
        await topics.make_replies(self._broker, self.names, [GENERATOR, CHECKER], min(3, len(self._brokers)))
        if plan.compaction:
            await topics.compact_soon(self._broker, self.names.journal)
        world = self._start_load()
        rng = random.Random(plan.seed)
        self.faults = nemesis.schedule(plan.kinds, plan.minutes * 60 - plan.gap, plan.gap, rng) if plan.kinds else []
        striking = asyncio.create_task(nemesis.strike(world, self.faults, self._say))
        await asyncio.sleep(plan.minutes * 60)
        world.stopping.set()
        await striking
        drained = await self._drain(world)
        self._say("asking every agent")
        agents = [address(number) for number in range(plan.agents)]
        times = 1 if drained else ASK_TIMES
        books = await topics.ask_all(self._broker, self.names, CHECKER, agents, times)
        await asyncio.sleep(2)  # what the questions moved is committed
        for worker in [worker for worker in self.fleet.workers if worker.alive]:
            await self.fleet.stop(worker)
        self._say("checking")
        clients = (GENERATOR, CHECKER)
        found = await topics.collect(self._broker, self.names, clients, self._lines(), books, plan.compaction)
        return self._judge(found, drained, world)

    def _start_load(self) -> nemesis.World:
        plan = self.plan
        order = {
            "name": f"client:{GENERATOR}", "app_id": self.app_id, "broker": self._broker, "rate": plan.rate,
            "agents": plan.agents, "seed": plan.seed, "history": str(self._history),
            "emphasis": {**({"lock": LOCKED} if self._redis else {}), **plan.emphasis},
        }  # fmt: skip
        with (self._folder / "generator.log").open("wb") as out:
            command = [sys.executable, "-m", "tests.chaos.generator", json.dumps(order)]
            self._load = launch(command, dies_with_us=signal.SIGKILL, cwd=ROOT, stdout=out, stderr=out)
        return nemesis.World(
            self.fleet, self._brokers, self.disks, self._load.pid, self._again_count, self._network,
            self.names.inboxes[1],
            plan.session_timeout, plan.partitions, random.Random(plan.seed + 1),
            partial(topics.control, self._broker, self.names), redis=self._redis,
        )  # fmt: skip

    def _lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._history.read_text().splitlines() if line.endswith("}")]

    def _again_count(self) -> int:
        return sum(line.get("again", 0) for line in self._lines() if "again" in line)

    async def _drain(self, world: nemesis.World) -> str:
        """End the load and wait until all is handled; says what is wrong if it does not come to that."""
        self._say("draining")
        assert self._load is not None
        self._load.terminate()
        await until(lambda: self._load is not None and self._load.poll() is not None, 200)
        if self._load.poll() != 0:
            return f"the generator ended with {self._load.poll()}"
        bound = time.monotonic() + DRAIN_SECONDS + self.plan.minutes * 60 * DRAIN_SHARE
        async with topics.consumer(self._broker) as reader, topics.admin(self._broker) as client:
            left, moved_at, quiet = -1, time.monotonic(), 0
            while quiet < 3:
                world.revive()
                # All partitions are owned, else nobody tells what is parked.
                ready = self.fleet.owned() >= self.plan.partitions
                now = await topics.backlog(reader, client, self.names, self.plan.partitions) + self.fleet.parked()
                quiet = quiet + 1 if now == 0 and ready else 0
                if now != left:
                    left, moved_at = now, time.monotonic()
                elif now and time.monotonic() - moved_at > self.plan.patience:
                    return f"stuck with {now} messages to do"
                if time.monotonic() > bound:
                    return f"too slow: {now} messages still to do"
                await asyncio.sleep(1)
        return ""

    # -- the verdict --------------------------------------------------------------------------------------------------

    def _judge(self, evidence: Evidence, drained: str, world: nemesis.World) -> Verdict:
        anomalies, log, journals = checker.check(evidence)
        if drained.startswith("stuck"):
            anomalies.append(Anomaly(STUCK, "the fleet", drained))
        for line in self._witnesses(anomalies):
            self._say(line)
        summary = self._summary(evidence, log, journals)
        if world.failovers:
            median, longest = statistics.median(world.failovers), max(world.failovers)
            self._say(f"failover: p50 {median:.1f} s, max {longest:.1f} s over {len(world.failovers)} kills")
        for seconds, which in ((world.moves, ""), (world.postponed, ", moves put off for long turns")):
            if seconds:
                median, longest = statistics.median(seconds), max(seconds)
                self._say(
                    f"weight changed to all owned{which}: p50 {median:.1f}, max {longest:.1f} s of {len(seconds)}"
                )
        if slow := self._overload(drained, anomalies, world):
            return Verdict("OVERLOAD", anomalies, summary, slow)
        if anomalies:
            return Verdict("FAILED", anomalies, summary, drained)
        if why := self._invalid(evidence, log, journals):
            return Verdict("INVALID", anomalies, summary, why)
        return Verdict("OK", anomalies, summary, drained)

    def _witnesses(self, anomalies: Sequence[Anomaly]) -> list[str]:
        lines, shown = [], Counter[str]()
        for anomaly in anomalies:
            shown[anomaly.name] += 1
            if shown[anomaly.name] <= SHOWN_MAX:
                lines.append(f"{anomaly.name}: {anomaly.subject}: {anomaly.witness}")
        return lines

    def _summary(self, evidence: Evidence, log: checker.Log, journals: Journals) -> str:
        kinds = Counter(one.kind for one in self.faults if one.did)
        struck = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        fleet = self.fleet
        return (
            f"seed {self.plan.seed}, {log.handled:,} messages, {len(evidence.letters):,} dead letters, "
            f"{log.repeats:,} repeats dropped, {fleet.total('rebalances')} assignments, {journals.claims} claims, "
            f"{fleet.total('refused_appends')} appends refused, {journals.holes:,} journal records compacted, "
            f"{sum(kinds.values())} faults ({struck})"
        )

    def _overload(self, drained: str, anomalies: Sequence[Anomaly], world: nemesis.World) -> str:
        """Why nothing can be said, if the machine was too slow for the fleet: what is not done yet looks like lost."""
        if any(anomaly.name not in NOT_DONE_YET for anomaly in anomalies):
            return ""
        if drained.startswith("too slow"):
            return drained
        lags = {pid: line["lag"] for worker in self.fleet.workers for pid, line in worker.last.items()}
        slow = max((lag for pid, lag in lags.items() if pid not in world.excused), default=0.0)
        if slow > self.plan.session_timeout / 2 and any(anomaly.name == STUCK for anomaly in anomalies):
            return f"a worker stood still for {slow:.0f} s without our doing"
        return ""

    def _invalid(self, evidence: Evidence, log: checker.Log, journals: Journals) -> str:
        """Why the run proves nothing, if it does not."""
        if self.fleet.bad_ends:
            return "; ".join(self.fleet.bad_ends)
        for kind in self.plan.kinds:
            struck = [one for one in self.faults if one.kind == kind and one.did]
            if struck and not any(one.effects for one in struck):
                return f"{kind} had no effect"
        if self.faults and not any(one.effects for one in self.faults):
            return "no fault had an effect"
        if self.plan.compaction and not journals.holes:
            return "the log cleaner did nothing"
        if not log.repeats or not evidence.letters:
            return "no message came twice, or none was poisoned"
        return ""
