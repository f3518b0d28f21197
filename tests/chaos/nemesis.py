"""Faults as values: a kind and an instant, made from a seed, what became of them, and what they may touch."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.broker import Broker
from tests.chaos.disks import Disks
from tests.chaos.fleet import Fleet, Worker, until
from tests.cluster.redis_kit import RedisServer

# Beyond the session timeout: until the group has given the partitions away; seconds.
MARGIN = 3.0
# An effect that is not there by then does not come; seconds.
PATIENCE = 40.0


@dataclass
class Fault:
    """One fault: its kind, and when it strikes at the earliest, in seconds from the start of the load.

    A kind may name a failpoint: "failpoint:acked".
    """

    kind: str
    at: float
    did: str = ""
    effects: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class World:
    """What faults may touch."""

    fleet: Fleet
    brokers: Sequence[Broker]
    disks: Disks
    generator_pid: int
    again_count: Callable[[], int]
    network: Callable[[dict[str, dict[str, Any]]], None]  # see `proxy`
    inbox: str  # the topic of NORMAL
    session_timeout: float
    partitions: int
    rng: random.Random
    control: Callable[[str, bytes | None], Awaitable[None]]  # write a name of the control topic
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    failovers: list[float] = field(default_factory=list)  # seconds
    moves: list[float] = field(default_factory=list)  # from a changed weight until all is owned, seconds
    postponed: list[float] = field(default_factory=list)  # the same where moves were put off for long turns
    excused: set[int] = field(default_factory=set)  # pids whose slowness is our doing
    extras: int = 0
    redis: RedisServer | None = None

    def revive(self) -> None:
        """Start workers again that ended by themselves, as any operator's supervisor does."""
        for worker in self.fleet.workers:
            if not worker.alive and not worker.name.startswith(EXTRA):
                worker.start()

    def victim(self) -> Worker | None:
        """A worker that runs and owns something."""
        able = [w for w in self.fleet.workers if w.alive and not w.frozen and w.now().get("owned")]
        return self.rng.choice(able) if able else None


# Workers that faults start for a while.
EXTRA = "extra-"

Act = Callable[[World, Fault], Awaitable[None]]

KINDS: dict[str, Act] = {}


def fault(act: Act) -> Act:
    """Register a kind under the name of its function."""
    KINDS[act.__name__.replace("_", "-")] = act
    return act


async def replaced(world: World, one: Fault, victim: Worker, before: Mapping[str, Any]) -> None:
    """A worker was out of reach for longer than a session: it must find that others have its partitions."""
    await until(lambda: victim.now().get("lost_leases", 0) > before["lost_leases"], 15)
    now = victim.now()
    refused, lost = (now.get(name, 0) - before[name] for name in ("refused_appends", "lost_leases"))
    if refused or lost:
        one.effects.append(f"{refused} appends refused, {lost} leases lost")
    await until(lambda: world.fleet.owned() >= world.partitions, PATIENCE)


def schedule(kinds: Sequence[str], seconds: float, gap: float, rng: random.Random) -> list[Fault]:
    """Faults in turn, shuffled anew each round, about `gap` seconds apart."""
    faults: list[Fault] = []
    round_: list[str] = []
    at = gap
    while at < seconds:
        if not round_:
            round_ = rng.sample(kinds, len(kinds))
        faults.append(Fault(round_.pop(), at))
        at += gap * rng.uniform(0.6, 1.4)
    return faults


async def strike(world: World, faults: Sequence[Fault], say: Callable[[str], None]) -> None:
    """Let the faults happen one after the other; one that takes long delays the next."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    for one in faults:
        await asyncio.sleep(max(0.0, started + one.at - loop.time()))
        if world.stopping.is_set():
            return
        world.revive()
        before = loop.time()
        await KINDS[one.kind.partition(":")[0]](world, one)
        one.seconds = loop.time() - before
        say(f"{before - started:6.1f} s  {one.kind}: {one.did or 'nobody to strike'}; {', '.join(one.effects) or '-'}")
