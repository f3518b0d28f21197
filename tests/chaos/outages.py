"""Faults of what workers stand on: network, brokers, Redis, and clients that send again."""

from __future__ import annotations

import asyncio
import signal

import psutil

from tests.chaos.fleet import until
from tests.chaos.nemesis import MARGIN, PATIENCE, Fault, World, fault, replaced

NETWORK = {"cut", "black-hole"}
"""Kinds that need the proxy."""
REDIS = {"redis-away", "redis-flush"}
"""Kinds that need a Redis; with them agents use locks."""


# --- network ---------------------------------------------------------------------------------------------------------


@fault
async def cut(world: World, one: Fault) -> None:
    """Nothing passes between a worker and the broker until others own its partitions; then all of it arrives."""
    if (victim := world.victim()) is None:
        return
    seconds = world.session_timeout + MARGIN + world.rng.uniform(0, 3)
    one.did = f"{victim.name} for {seconds:.0f} s"
    before = victim.now()
    world.network({victim.name: {"cut": True}})
    await asyncio.sleep(seconds)
    world.network({})
    await replaced(world, one, victim, before)


@fault
async def black_hole(world: World, one: Fault) -> None:
    """The produce requests of a worker for one inbox partition are swallowed."""
    if (victim := world.victim()) is None:
        return
    partition, seconds = world.rng.randrange(world.partitions), world.rng.uniform(20, 60)
    one.did = f"normal-{partition} for {victim.name}, {seconds:.0f} s"
    before, swallowed = victim.now(), world.fleet.count("swallowed.jsonl")
    world.network({victim.name: {"hole": [world.inbox, partition]}})
    await asyncio.sleep(seconds)
    world.network({})
    requests, retries = world.fleet.count("swallowed.jsonl") - swallowed, victim.now()["retries"] - before["retries"]
    if requests and retries:
        one.effects.append(f"{requests} requests swallowed, {retries} batches sent again")


# --- brokers ---------------------------------------------------------------------------------------------------------


@fault
async def broker_restart(world: World, one: Fault) -> None:
    """A broker ends, by SIGKILL or in order, and comes back."""
    broker, kill_it = world.rng.choice(world.brokers), world.rng.random() < 0.7
    one.did = f"{'SIGKILL' if kill_it else 'SIGTERM'} to {broker.address}"
    await asyncio.to_thread(broker.end, kill_it)
    if not broker.answers:
        one.effects.append("it was gone")
    await asyncio.sleep(world.rng.uniform(0, 3))
    broker.start()  # in the main thread: the kernel ties its life to ours
    await until(lambda: world.fleet.owned() >= world.partitions, PATIENCE)


@fault
async def broker_pause(world: World, one: Fault) -> None:
    """A broker stands still for longer than a session."""
    broker, seconds = world.rng.choice(world.brokers), world.session_timeout + world.rng.uniform(0, 5)
    one.did = f"{broker.address} for {seconds:.0f} s"
    broker.freeze()
    try:
        await asyncio.sleep(seconds / 2)
        if not await asyncio.to_thread(lambda: broker.answers):
            one.effects.append("it did not answer")
        await asyncio.sleep(seconds / 2)
    finally:
        broker.thaw()
    await until(lambda: world.fleet.owned() >= world.partitions, PATIENCE)


# --- Redis -----------------------------------------------------------------------------------------------------------


@fault
async def redis_away(world: World, one: Fault) -> None:
    """Redis is frozen, or killed and comes back with nothing: who waits for locks waits, all others go on."""
    if world.redis is None:
        return
    before, seconds = world.fleet.total("lock_errors"), world.rng.uniform(3, 6)
    if kill_it := world.rng.random() < 0.5:
        world.redis.stop()
    else:
        world.redis.signal(signal.SIGSTOP)
    one.did = f"{'killed' if kill_it else 'frozen'} for {seconds:.0f} s"
    try:
        await asyncio.sleep(seconds)
    finally:
        if kill_it:
            world.redis.start()
        else:
            world.redis.signal(signal.SIGCONT)
    await until(lambda: world.fleet.total("lock_errors") > before, 5)
    if (errors := world.fleet.total("lock_errors") - before) > 0:
        one.effects.append(f"{errors} commands failed")


@fault
async def redis_flush(world: World, one: Fault) -> None:
    """Redis forgets all locks while they are held: two may hold one, and the older token must be refused."""
    if world.redis is None:
        return
    locked = world.fleet.total("locked")
    with world.redis.admin() as admin:
        one.did = f"{admin.dbsize()} keys"
    world.redis.flush()
    if await until(lambda: world.fleet.total("locked") > locked, 15):
        one.effects.append("locks are taken again")


# --- clients ---------------------------------------------------------------------------------------------------------


@fault
async def duplicates(world: World, one: Fault) -> None:
    """A second client sends the last messages again, under their ids."""
    before, one.did = world.again_count(), "a twin of the generator"
    psutil.Process(world.generator_pid).send_signal(signal.SIGUSR1)
    if await until(lambda: world.again_count() > before, PATIENCE):
        one.effects.append(f"{world.again_count() - before} messages again")
