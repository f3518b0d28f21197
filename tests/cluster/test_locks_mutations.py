"""Each safety mechanism switched off in turn: the scenario that it is for must then go wrong.

A scenario returns what went wrong, in words. With everything in place that is nothing; with one mechanism off it is
something, else the scenario proves nothing about it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rookery import Lock, LockLost, StaleFence, acquire_lock, check_fence, release_lock, renew_lock
from rookery.ops.locks import lease, scripts
from tests.cluster.redis_kit import locks_of

pytestmark = pytest.mark.slow

Scenario = Callable[[Any], Awaitable[list[str]]]


class Inside:
    """Counts who is inside, as the resource sees it."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self._who: set[str] = set()

    def enter(self, who: str) -> None:
        if self._who:
            self.wrong.append(f"{who} came in beside {', '.join(self._who)}")
        self._who.add(who)

    def leave(self, who: str) -> None:
        self._who.discard(who)


def in_another_process(client: Any, work: Callable[[Any], Awaitable[None]]) -> threading.Thread:
    """Run `work(client)` on a loop of its own; whoever joins the thread stands still, as if frozen."""
    given = client._rookery_locks.fence.given
    port = client.connection_pool.connection_kwargs["port"]

    async def run() -> None:
        async with locks_of(f"redis://127.0.0.1:{port}/0") as (its_client, _, tokens):
            tokens.given = given
            with contextlib.suppress(LockLost):
                await work(its_client)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    return thread


async def frozen_holder_gives_back(client: Any) -> list[str]:
    """One is frozen past its ttl, a second one comes, the first wakes up and gives back: a third must not come in."""
    inside, arrived, leave = Inside(), threading.Event(), threading.Event()

    async def hold(its_client: Any) -> None:
        async with Lock("a", ttl=5, redis=its_client):
            inside.enter("the second")
            arrived.set()
            await asyncio.to_thread(leave.wait, 10)
            inside.leave("the second")

    with contextlib.suppress(LockLost):
        async with Lock("a", ttl=0.3, redis=client):
            second = in_another_process(client, hold)
            arrived.wait(10)  # frozen
    with contextlib.suppress(TimeoutError):
        async with Lock("a", ttl=5, redis=client, wait=0.3):
            inside.enter("a third")
    leave.set()
    second.join(10)
    return inside.wrong


async def foreign_owner_gives_back(client: Any) -> list[str]:
    """The same for the plain functions."""
    await acquire_lock(client, "k", "a", ttl=5)
    wrong = []
    if await renew_lock(client, "k", "b"):
        wrong.append("b renewed the lock of a")
    if await release_lock(client, "k", "b") or await acquire_lock(client, "k", "c"):
        wrong.append("b gave back the lock of a")
    return wrong


async def late_write(client: Any) -> list[str]:
    """Read, freeze, write: what a second holder wrote meanwhile must not be overwritten."""
    seen: dict[str, int] = {}
    balance = accepted = 0

    async def deposit(its_client: Any, then: Callable[[], None] = lambda: None) -> None:
        nonlocal balance, accepted
        async with Lock("a", ttl=0.3, redis=its_client) as fence:
            CHECK(seen, "a", fence)
            read = balance
            then()
            CHECK(seen, "a", fence)
            balance = read + 1
            accepted += 1

    with contextlib.suppress(StaleFence, LockLost):
        await deposit(client, lambda: in_another_process(client, deposit).join(10))
    return [] if balance == accepted else [f"{accepted - balance} of {accepted} accepted deposits lost"]


CHECK = check_fence


async def long_body(client: Any) -> list[str]:
    """A body that runs for three ttls keeps others out."""
    inside = Inside()

    async def run(who: str, seconds: float) -> None:
        try:
            async with Lock("a", ttl=0.6, redis=client, wait=10):
                inside.enter(who)
                await asyncio.sleep(seconds)
                inside.leave(who)
        except LockLost:
            inside.leave(who)

    first = asyncio.create_task(run("the first", 1.8))
    await asyncio.sleep(0.1)
    await asyncio.gather(first, run("the second", 0))
    return inside.wrong


async def forgotten_body(client: Any) -> list[str]:
    """Redis forgets the lock: its body must end before the ttl, whoever else has come in."""
    ended = False
    try:
        async with Lock("a", ttl=0.9, redis=client):
            await client.flushall()
            await asyncio.sleep(1.5)
            ended = True
    except LockLost:
        pass
    return ["the body ran to its end"] if ended else []


async def slow_token(client: Any) -> list[str]:
    """A lock is forgotten while its token is fetched, and another one comes and goes: tokens grow all the same."""
    numbers = iter(range(100))
    holders: list[str] = []
    slow = asyncio.Event()

    async def source(name: str, holder: str) -> int:
        if not holders:
            holders.append("slow")
            await slow.wait()
        return next(numbers)

    had: list[int] = []

    async def hold(seconds: float) -> None:
        async with Lock("a", ttl=3, redis=client, fence=source, wait=10) as fence:
            had.append(fence)
            await asyncio.sleep(seconds)

    first = asyncio.create_task(hold(0))
    await asyncio.sleep(0.2)
    await client.flushall()
    second = asyncio.create_task(hold(0.6))
    await asyncio.sleep(0.3)
    slow.set()
    await asyncio.sleep(0.2)  # the second is still inside
    wrong = ["two inside"] if len(had) > 1 else []
    await asyncio.gather(first, second, return_exceptions=True)
    return wrong


async def cancelled_acquire(client: Any) -> list[str]:
    """An acquire whose command is under way when it is cancelled must not keep others out."""
    service = client._rookery_locks
    original = service.run

    async def run(script: str, *arguments: Any) -> Any:
        result = await original(script, *arguments)
        if script == scripts.ACQUIRE:
            await asyncio.sleep(0.2)  # the reply is on its way
        return result

    service.run = run
    task = asyncio.create_task(Lock("a", redis=client).__aenter__())
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    service.run = original
    try:
        async with Lock("a", redis=client, wait=1):
            return []
    except TimeoutError:
        return ["an orphan keeps others out"]


def owner_check_off(patch: pytest.MonkeyPatch) -> None:
    text = scripts.RELEASE.replace("redis.call('ZREM', KEYS[1], ARGV[1])", "redis.call('DEL', KEYS[1])")
    assert text != scripts.RELEASE
    patch.setattr(scripts, "RELEASE", text)


def owner_check_of_functions_off(patch: pytest.MonkeyPatch) -> None:
    check = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end\n"
    for name in ("RELEASE_KEY", "RENEW_KEY"):
        text = getattr(scripts, name)
        assert check in text
        patch.setattr(scripts, name, text.replace(check, ""))


def fence_compare_off(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(globals(), "CHECK", lambda seen, name, token: None)


def watchdog_off(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lease.Lease, "_watch", lambda self: None)


def check_after_token_off(patch: pytest.MonkeyPatch) -> None:
    async def fenced(self: lease.Lease, until: float) -> bool:
        assert self.spec.fence is not None
        self.token = await self.spec.fence(self.spec.name, self.holder)
        return True

    patch.setattr(lease.Lease, "_fenced", fenced)


def clean_up_off(patch: pytest.MonkeyPatch) -> None:
    async def nothing(self: lease.Lease) -> None:
        pass

    patch.setattr(lease.Lease, "_clean_up", nothing)


TABLE: list[tuple[Callable[[pytest.MonkeyPatch], None], Scenario]] = [
    (owner_check_off, frozen_holder_gives_back),
    (owner_check_of_functions_off, foreign_owner_gives_back),
    (fence_compare_off, late_write),
    (watchdog_off, long_body),
    (watchdog_off, forgotten_body),
    (check_after_token_off, slow_token),
    (clean_up_off, cancelled_acquire),
]
IDS = [f"{switch.__name__}-{scenario.__name__}" for switch, scenario in TABLE]


@pytest.mark.asyncio
@pytest.mark.parametrize(("switch", "scenario"), TABLE, ids=IDS)
async def test_with_everything_in_place_nothing_goes_wrong(
    client: Any, switch: Callable[[pytest.MonkeyPatch], None], scenario: Scenario
) -> None:
    assert await scenario(client) == []


@pytest.mark.asyncio
@pytest.mark.parametrize(("switch", "scenario"), TABLE, ids=IDS)
async def test_with_a_mechanism_off_something_does(
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
    switch: Callable[[pytest.MonkeyPatch], None],
    scenario: Scenario,
) -> None:
    switch(monkeypatch)
    assert await scenario(client) != [], f"{switch.__name__}: nobody noticed"
