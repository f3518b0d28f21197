"""The faults of workers; those of what they stand on are in `outages`. Each says what it did and what effect was seen;
`nemesis` lets them happen.

A fault whose effect was not seen proves nothing: a run in which a kind of fault never had an effect is invalid.
"""

from __future__ import annotations

import asyncio
import re
import signal
import time

import psutil

from tests.chaos import failpoints
from tests.chaos.fleet import Worker, until
from tests.chaos.nemesis import EXTRA, MARGIN, PATIENCE, Fault, World, fault, replaced

# Stores write to disk once a minute at the latest.
FLUSH_SECONDS = 90.0

DISK = {"disk-full"}
"""Kinds that need stores on small disks."""

# --- workers ---------------------------------------------------------------------------------------------------------


async def _recovered(world: World, one: Fault, before: int) -> None:
    """Somebody recovered partitions since, and all are owned again."""
    await until(lambda: world.fleet.total("recoveries") > before, PATIENCE)
    await until(lambda: world.fleet.owned() >= world.partitions, PATIENCE)
    if (count := world.fleet.total("recoveries") - before) > 0:
        one.effects.append(f"{count} partitions recovered")


@fault
async def kill(world: World, one: Fault) -> None:
    """SIGKILL, and a new process a moment later."""
    if (victim := world.victim()) is None:
        return
    before, one.did = world.fleet.total("recoveries"), f"{victim.name} ({victim.now()['owned']} partitions)"
    victim.signal(signal.SIGKILL)
    await until(lambda: not victim.alive, 10)
    await asyncio.sleep(world.rng.uniform(0, 2))
    victim.start()
    await _recovered(world, one, before)


@fault
async def failover(world: World, one: Fault) -> None:
    """SIGKILL, and no new process until others have recovered all partitions: how long that takes."""
    if (victim := world.victim()) is None:
        return
    one.did = f"{victim.name} ({victim.now()['owned']} partitions)"
    killed = time.monotonic()
    victim.signal(signal.SIGKILL)
    await until(lambda: not victim.alive, 10)
    if await until(lambda: world.fleet.owned() >= world.partitions, PATIENCE):
        lines = [worker.now() for worker in world.fleet.workers if worker.alive and worker.now().get("owned")]
        world.failovers.append(max(line["since"] for line in lines) - killed)
        one.effects.append(f"others had them after {world.failovers[-1]:.1f} s")
    victim.start()
    await until(lambda: bool(victim.now().get("owned")), PATIENCE)


@fault
async def failpoint(world: World, one: Fault) -> None:
    """SIGKILL at a point of the code."""
    points = [p for p in failpoints.POINTS if p not in (failpoints.CLAIMING, failpoints.CLAIMED, failpoints.FOLDED)]
    if (victim := world.victim()) is None:
        return
    point = one.kind.partition(":")[2] or world.rng.choice(points)
    await _die_at(world, one, victim, point, world.rng.randrange(1, 20))


@fault
async def die_in_recovery(world: World, one: Fault) -> None:
    """SIGKILL while partitions are being taken over."""
    world.extras += 1
    extra = world.fleet.add_place(f"{EXTRA}{world.extras}")
    point = world.rng.choice((failpoints.CLAIMING, failpoints.CLAIMED, failpoints.FOLDED))
    extra.arm("kill", point)
    extra.start()
    await _die_at(world, one, extra, point, 1, armed=True)


async def _die_at(world: World, one: Fault, victim: Worker, point: str, after: int, armed: bool = False) -> None:
    before, pid = world.fleet.total("recoveries"), victim.pid
    one.did = f"{victim.name} at {point} {after}"
    if not armed:
        victim.arm("kill", point, after)
    if not await until(lambda: not victim.alive, PATIENCE):
        victim.disarm()
        victim.signal(signal.SIGKILL)
        return
    if any(fired["pid"] == pid for fired in world.fleet.fired()):
        one.effects.append(f"died at {point}")
    if not armed:
        victim.start()
    await _recovered(world, one, before)


@fault
async def freeze(world: World, one: Fault) -> None:
    """SIGSTOP until others own its partitions, then SIGCONT: it goes on where it was."""
    if (victim := world.victim()) is None:
        return
    seconds = world.session_timeout + MARGIN + world.rng.uniform(0, 3)
    one.did = f"{victim.name} for {seconds:.0f} s"
    world.excused.add(victim.pid)
    before = victim.now()
    victim.signal(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    victim.signal(signal.SIGCONT)
    await replaced(world, one, victim, before)


@fault
async def freeze_before_claim(world: World, one: Fault) -> None:
    """A new worker freezes between its assignment and its claim, and claims when others have taken over."""
    world.extras += 1
    extra = world.fleet.add_place(f"{EXTRA}{world.extras}")
    extra.arm("freeze", failpoints.CLAIMING)
    extra.start()
    one.did = extra.name
    world.excused.add(extra.pid)
    if not await until(lambda: _stopped(extra.pid), PATIENCE):
        extra.signal(signal.SIGKILL)
        return
    await asyncio.sleep(world.session_timeout + MARGIN)
    before = failures(extra)
    extra.signal(signal.SIGCONT)
    await until(lambda: failures(extra) > before, 15)
    if failures(extra) > before:
        one.effects.append("its late claim was refused")
    await asyncio.sleep(2)
    await world.fleet.stop(extra)
    await until(lambda: world.fleet.owned() >= world.partitions, PATIENCE)


def failures(worker: Worker) -> int:
    """Recoveries that failed, by its log."""
    log = worker.log.read_text(errors="replace")
    return log.count("recovery of partition")


def _stopped(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False


@fault
async def term(world: World, one: Fault) -> None:
    """SIGTERM, and a new process."""
    if (victim := world.victim()) is None:
        return
    before, one.did = world.fleet.total("recoveries"), victim.name
    if await world.fleet.stop(victim) == 0:
        one.effects.append("left with 0")
    victim.start()
    await _recovered(world, one, before)


@fault
async def storm(world: World, one: Fault) -> None:
    """Workers come and go faster than partitions are recovered."""
    before = world.fleet.total("rebalances")
    world.extras += 1
    extra = world.fleet.add_place(f"{EXTRA}{world.extras}")
    rounds = world.rng.randrange(2, 5)
    one.did = f"{extra.name} {rounds} times"
    for number in range(rounds):
        extra.start()
        await until(lambda: bool(extra.now().get("owned")), 15)  # it has joined
        await asyncio.sleep(world.rng.uniform(0, 2))
        if number % 2:
            extra.signal(signal.SIGKILL)
            await until(lambda: not extra.alive, 10)
        else:
            await world.fleet.stop(extra)
    if (count := world.fleet.total("rebalances") - before) > rounds:
        one.effects.append(f"{count} assignments")
    await until(lambda: world.fleet.owned() >= world.partitions, PATIENCE)


@fault
async def stall(world: World, one: Fault) -> None:
    """The main loop of a worker is blocked past the session timeout; its heartbeats go on in their thread."""
    if (victim := world.victim()) is None:
        return
    seconds = world.session_timeout + MARGIN
    one.did = f"{victim.name} for {seconds:.0f} s"
    world.excused.add(victim.pid)
    pid, before = victim.pid, victim.now()["t"]
    victim.arm("stall", after=seconds)

    def stood_still() -> bool:
        began = [fired["t"] for fired in world.fleet.fired() if fired["pid"] == pid and fired["t"] > before]
        return bool(began) and (not victim.alive or victim.now(pid)["t"] > began[-1] + seconds)

    if await until(stood_still, seconds + PATIENCE):
        one.effects.append("its loop stood still" if victim.alive else "it ended itself")
    if not victim.alive:
        victim.start()
    await until(lambda: world.fleet.owned() >= world.partitions, PATIENCE)


@fault
async def clock_jump(world: World, one: Fault) -> None:
    """The wall clock of a worker jumps by an hour, forth or back."""
    if (victim := world.victim()) is None:
        return
    jump = world.rng.choice((3600.0, -3600.0))
    one.did = f"{victim.name} by {jump:+.0f} s"
    before = victim.now()
    victim.arm("clock", after=jump)

    def jumped() -> bool:
        now = victim.now()
        return bool(abs(now["wall"] - before["wall"] - (now["t"] - before["t"])) > abs(jump) / 2)

    if await until(jumped, 5):
        one.effects.append("its clock says so")


@fault
async def disk_full(world: World, one: Fault) -> None:
    """The disk under a worker's stores is full: it must end and say so, and come back when there is room."""
    victim = world.victim()
    if victim is None or not world.disks.has(victim.name):
        return
    one.did = victim.name
    before = victim.log.read_text(errors="replace").count("StoreFailed")
    world.disks.fill(victim.name)
    await until(lambda: not victim.alive, FLUSH_SECONDS)
    if victim.log.read_text(errors="replace").count("StoreFailed") > before:
        one.effects.append("its store failed" + (", it ended" if not victim.alive else ""))
    world.disks.free(victim.name)
    if not victim.alive:
        victim.start()
    await until(lambda: world.fleet.owned() >= world.partitions, PATIENCE)


def _postponed(world: World) -> int:
    """How often the leaders have put moves off."""
    return sum(
        len(re.findall(r"\d moves? later", worker.log.read_text(errors="replace"))) for worker in world.fleet.workers
    )


@fault
async def drain(world: World, one: Fault) -> None:
    """An operator drains a worker, and lets it take its share again: its weight becomes nothing and what it was."""
    if (victim := world.victim()) is None:
        return
    one.did = victim.name
    for value in (b"drained", None):
        before, asked, postponed = victim.now()["owned"], time.monotonic(), _postponed(world)
        await world.control(f"drain/{victim.name}", value)

        def moved(gone: bool = value is not None) -> bool:
            return bool(victim.now().get("owned")) != gone and world.fleet.owned() >= world.partitions

        if not await until(moved, PATIENCE):
            return
        lines = [worker.now() for worker in world.fleet.workers if worker.alive]
        took = max(line.get("since", 0.0) for line in lines) - asked
        waited = _postponed(world) > postponed  # for long turns, as the balancer is meant to
        (world.postponed if waited else world.moves).append(took)
        after = ", some after long turns" if waited else ""
        one.effects.append(f"{before} to {victim.now()['owned']} partitions in {took:.1f} s{after}")
        await asyncio.sleep(world.rng.uniform(1, 4))
