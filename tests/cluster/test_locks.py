"""Locks on a real Redis: who gets them, in what order, for how long, and what is left behind."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from rookery import ConfigurationError, Lock, LockLost, LockTimeout, NotBound, acquire_lock, release_lock, renew_lock
from rookery.ops.locks import lease
from rookery.ops.locks.service import BACKOFF_MAX, backoff
from tests.cluster.redis_kit import Proxy, RedisServer, cancelled_at, eventually, locks_of, servers

pytestmark = pytest.mark.slow


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    yield from servers(tmp_path)


async def nothing_left(client: Any) -> None:
    """Locks have left nothing but the memory of acquisitions that were given up, which ends by itself."""

    async def empty() -> bool:
        return not [key for key in await client.keys("*") if b":gone:" not in key]

    await eventually(empty)
    for key in await client.keys("*"):
        assert 0 < await client.pttl(key) <= lease.GONE_MS


# --- the functions --------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_one_owner_at_a_time_and_only_the_owner_gives_back(client: Any) -> None:
    assert await acquire_lock(client, "k", "a")
    assert 29_000 < await client.pttl("k") <= 30_000
    assert not await acquire_lock(client, "k", "b")
    assert await acquire_lock(client, "k", "a", ttl=5), "a repeated acquire by the same owner succeeds"
    assert await client.pttl("k") <= 5_000
    assert not await renew_lock(client, "k", "b")
    assert not await release_lock(client, "k", "b")
    assert await client.get("k") == b"a"
    assert await renew_lock(client, "k", "a", ttl=60)
    assert await client.pttl("k") > 30_000
    assert await release_lock(client, "k", "a")
    assert not await release_lock(client, "k", "a")


@pytest.mark.asyncio
async def test_an_expired_lock_is_not_given_back_by_its_old_owner(client: Any) -> None:
    assert await acquire_lock(client, "k", "a", ttl=0.05)
    await asyncio.sleep(0.1)
    assert await acquire_lock(client, "k", "b")
    assert not await renew_lock(client, "k", "a")
    assert not await release_lock(client, "k", "a")
    assert await client.get("k") == b"b"


def test_the_functions_take_a_client_without_asyncio(server: RedisServer) -> None:
    with server.admin() as client:
        client.flushall()
        assert acquire_lock(client, "k", "a") is True
        assert acquire_lock(client, "k", "b") is False
        assert renew_lock(client, "k", "a") is True
        assert release_lock(client, "k", "b") is False
        assert release_lock(client, "k", "a") is True


@pytest.mark.asyncio
async def test_a_lost_reply_makes_no_wrong_answer(server: RedisServer) -> None:
    """redis-py sends the command again; the answer has to be the one that was lost."""
    async with Proxy(server.port).serving() as proxy:
        client = redis.asyncio.Redis(port=proxy.port)
        await client.flushall()
        for text in (f(client, "warm", "x") for f in (acquire_lock, renew_lock, release_lock)):
            await text  # loads the scripts
        proxy.lose = 1
        assert await client.set("naive", "a", nx=True) is None, "what everybody writes: we hold it and do not know"
        for function, expected in ((acquire_lock, True), (renew_lock, True), (release_lock, True)):
            proxy.lose = 1
            assert await function(client, "k", "a") is expected, function.__name__
        proxy.lose = 1
        assert await release_lock(client, "k", "a") is False, "a second release is another call"
        assert proxy.lost == 5
        await client.aclose()


# --- Lock -----------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_bodies_exclude_each_other_and_tokens_grow(client: Any) -> None:
    inside, tokens = 0, []

    async def body() -> None:
        nonlocal inside
        async with Lock("a", redis=client) as fence:
            assert inside == 0
            inside += 1
            tokens.append(fence)
            await asyncio.sleep(0.002)
            inside -= 1

    await asyncio.gather(*(body() for _ in range(30)))
    assert len(tokens) == 30
    assert tokens == sorted(set(tokens))
    await nothing_left(client)


@pytest.mark.asyncio
async def test_one_object_serves_many_tasks_and_a_task_does_not_wait_for_itself(client: Any) -> None:
    lock, inside = Lock("a", redis=client), 0

    async def body() -> None:
        nonlocal inside
        async with lock:
            assert inside == 0
            inside += 1
            assert lock.held
            await asyncio.sleep(0.002)
            inside -= 1
        assert not lock.held

    await asyncio.gather(*(body() for _ in range(10)))
    async with lock:
        with pytest.raises(RuntimeError, match="holds a already"):
            await lock.__aenter__()
        assert lock.held


@pytest.mark.asyncio
async def test_waiting_is_first_come_first_served(client: Any) -> None:
    order: list[int] = []

    async def body(number: int) -> None:
        async with Lock("a", redis=client):
            order.append(number)

    async with Lock("a", redis=client):
        waiters = []
        for number in range(8):
            waiters.append(asyncio.create_task(body(number)))

            async def queued(count: int = number + 1) -> bool:
                return int(await client.zcard("rookery:{/lock/a}:queue")) == count

            await eventually(queued)
    began = time.monotonic()
    await asyncio.gather(*waiters)
    assert order == list(range(8))
    assert time.monotonic() - began < 4, "they were not woken, only polled"


@pytest.mark.asyncio
async def test_waiting_ends_at_its_deadline_and_leaves_the_queue(client: Any) -> None:
    async with Lock("a", redis=client):
        began = time.monotonic()
        with pytest.raises(LockTimeout, match=r"not free within 0\.3 s: others held it"):
            async with Lock("a", redis=client, wait=0.3):
                pytest.fail("two bodies")
        assert 0.3 <= time.monotonic() - began < 3
        with pytest.raises(LockTimeout):
            async with Lock("a", redis=client, wait=0):
                pytest.fail("two bodies")
        assert not await client.exists("rookery:{/lock/a}:queue")
    async with Lock("a", redis=client, wait=0):
        pass
    await nothing_left(client)


@pytest.mark.asyncio
async def test_a_waiter_that_died_holds_up_the_others_for_its_patience_only(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "PATIENCE_MS", 700)
    monkeypatch.setattr(lease, "POLL", 0.2)
    await client.zadd("rookery:{/lock/a}:queue", {"dead.1:1000": 0})
    await client.hset("rookery:{/lock/a}:seen", "dead.1:1000", int(time.time() * 1000))
    began = time.monotonic()
    async with Lock("a", redis=client):
        assert 0.4 < time.monotonic() - began < 4


@pytest.mark.asyncio
async def test_a_dead_holders_lock_is_free_after_its_ttl(client: Any) -> None:
    now = time.time()
    await client.zadd("rookery:{/lock/a}:held", {"dead.1:600": int(now * 1000) + 600})
    async with Lock("a", redis=client):
        assert 0.5 < time.time() - now < 5


@pytest.mark.asyncio
@pytest.mark.parametrize("contended", [False, True])
async def test_cancelling_at_every_await_leaves_nothing_behind(client: Any, *, contended: bool) -> None:
    """Acquire, body and release, cancelled at their first wait, their second, and so on, until none is left."""

    async def once() -> None:
        async with Lock("a", redis=client, ttl=20):
            await asyncio.sleep(0)

    async with Lock("warm", redis=client):
        pass
    for number in range(200):
        holder = Lock("a", redis=client)
        if contended:
            await holder.__aenter__()
        reached: list[int] = []
        task = asyncio.create_task(_run(cancelled_at(once(), number, reached)))
        if contended:
            await asyncio.sleep(0.03)
            await holder.__aexit__(None, None, None)
        result = (await asyncio.gather(task, return_exceptions=True))[0]
        if not reached:
            break
        assert isinstance(result, asyncio.CancelledError), (number, result)
        began = time.monotonic()
        async with Lock("a", redis=client, wait=5):
            assert time.monotonic() - began < 3, f"cancelled at wait {number}, it left something behind"
        await nothing_left(client)
    else:
        pytest.fail("it waits for ever")
    assert number > 3  # or nothing was cancelled


async def _run(work: Any) -> Any:
    return await work


@pytest.mark.asyncio
async def test_a_late_acquire_of_one_that_gave_up_is_refused(client: Any) -> None:
    """Its command was on its way when the waiter was cancelled, and Redis runs it after the clean-up."""
    async with locks_of("redis://127.0.0.1:1/0") as (_, service, _):
        spec = lease.Spec("a", "/lock/a", 5.0, 1, None)
        late = lease.Lease(service, spec)
        with pytest.raises(LockTimeout):
            await late.take(0)
        service._client, service._scripts = client, {}
        await late._clean_up()
        with pytest.raises(LockLost, match="given up"):
            await late._ask(may_wait=True)
        service._client, service._scripts = None, {}
    assert not await client.exists("rookery:{/lock/a}:held")


# --- holding --------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_lock_is_renewed_while_its_body_runs(client: Any) -> None:
    lock = Lock("a", redis=client, ttl=0.9)
    async with lock:
        await asyncio.sleep(2.5)
        assert lock.held
        assert await client.zcard("rookery:{/lock/a}:held") == 1


@pytest.mark.asyncio
async def test_the_body_is_cancelled_with_a_typed_error_when_redis_forgot_the_lock(client: Any) -> None:
    stages = []
    with pytest.raises(LockLost, match="lock a is lost: Redis has it no more"):  # noqa: PT012
        async with Lock("a", redis=client, ttl=0.9):
            await client.flushall()
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                stages.append("cancelled")
                raise
    task = asyncio.current_task()
    assert task is not None
    assert (stages, task.cancelling()) == (["cancelled"], 0)
    await asyncio.sleep(0)  # no cancellation is still to come


@pytest.mark.asyncio
async def test_the_body_is_cancelled_before_the_ttl_when_redis_falls_silent(
    start_redis: Callable[..., RedisServer],
) -> None:
    server = start_redis()
    async with locks_of(server.url, timeout=0.4) as (client, service, _):
        lock = Lock("a", redis=client, ttl=3)
        began = time.monotonic()
        with pytest.raises(LockLost, match="could not be renewed in time"):  # noqa: PT012
            async with lock:
                server.stop()
                await asyncio.sleep(30)
        assert time.monotonic() - began < 3, "it was believed in for longer than Redis keeps it"
        assert service.counts["lost"] == 1


@pytest.mark.asyncio
async def test_a_short_silence_of_redis_is_survived(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    async with locks_of(server.url, timeout=0.3) as (client, service, _):
        async with Lock("a", redis=client, ttl=6):
            await asyncio.sleep(1.5)
            server.signal(signal.SIGSTOP)
            await asyncio.sleep(1.5)  # the renewal after 2 s fails
            server.signal(signal.SIGCONT)
            await asyncio.sleep(4)
        assert service.counts["errors"] >= 1
        assert service.counts["lost"] == 0


@pytest.mark.asyncio
async def test_a_cancellation_from_outside_stays_one_and_gives_back(client: Any) -> None:
    async def body() -> None:
        async with Lock("a", redis=client):
            await asyncio.sleep(30)

    task = asyncio.create_task(body())
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with Lock("a", redis=client, wait=1):
        pass


@pytest.mark.asyncio
@pytest.mark.parametrize("ending", ["returns", "raises", "outside too"])
async def test_however_the_body_ends_when_the_lock_is_lost_no_cancellation_stays(client: Any, ending: str) -> None:
    lock = Lock("a", redis=client)
    task = asyncio.current_task()
    assert task is not None
    expected = {"returns": LockLost, "raises": KeyError, "outside too": asyncio.CancelledError}[ending]
    with pytest.raises(expected):  # noqa: PT012
        async with lock:
            lock._leases[task]._lose("the test says so")  # cancels the task, which has not noticed when the body ends
            if ending == "raises":
                raise KeyError
            if ending == "outside too":
                task.cancel()
    if ending == "outside too":
        assert task.uncancel() == 0
    assert task.cancelling() == 0
    await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_a_lock_that_was_lost_unnoticed_is_an_error_when_it_is_given_back(client: Any) -> None:
    with pytest.raises(LockLost, match="given back"):
        async with Lock("a", redis=client):
            await client.flushall()
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the error of the body says more
        async with Lock("a", redis=client):
            await client.flushall()
            _ = 1 / 0


@pytest.mark.asyncio
async def test_check_tells_a_process_that_was_frozen(client: Any) -> None:
    lock = Lock("a", redis=client, ttl=0.3)
    with pytest.raises(LockLost, match="held up"):  # noqa: PT012
        async with lock:
            lock.check()
            time.sleep(0.4)  # noqa: ASYNC251 - nothing runs meanwhile, as in a frozen process
            lock.check()
    with pytest.raises(LockLost, match="does not hold"):
        lock.check()


# --- tokens ---------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_token_is_used_only_if_the_lock_was_ours_all_the_time(client: Any) -> None:
    """Redis forgets the lock while the token is fetched; another one may have a smaller token by then."""
    given: list[int] = []

    async def source(name: str, holder: str) -> int:
        given.append(len(given) + 1)
        if len(given) == 1:
            await client.flushall()
        return given[-1]

    async with Lock("a", redis=client, fence=source) as fence:
        assert (fence, given) == (2, [1, 2])


@pytest.mark.asyncio
async def test_without_a_source_of_tokens_a_lock_says_so(server: RedisServer) -> None:
    with pytest.raises(NotBound):
        async with Lock("a"):
            pass
    async with locks_of(server.url) as (client, service, _):
        service.fence = None
        with pytest.raises(ConfigurationError, match="no source of fencing tokens"):
            async with Lock("a", redis=client):
                pass
        async with Lock("a", redis=client, fence=False) as fence:
            assert fence == -1


# --- Redis away -----------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_without_redis_waiting_is_bounded_and_visible_and_ends_when_it_is_back(
    start_redis: Callable[..., RedisServer],
) -> None:
    server = start_redis()
    async with locks_of(server.url) as (client, service, _):
        assert service.statistics()["up"] is None
        async with Lock("a", redis=client):
            pass
        server.stop()
        began = time.monotonic()
        with pytest.raises(LockTimeout, match="ConnectionError"):
            async with Lock("a", redis=client, wait=1):
                pass
        assert 0.9 < time.monotonic() - began < 4
        found = service.statistics()
        assert (found["up"], found["timeouts"], found["waiting"]) == (False, 1, 0)
        assert found["down_seconds"] > 0.5

        async def wait_for_it() -> float:
            async with Lock("a", redis=client, wait=30):
                return time.monotonic()

        waiters = [asyncio.create_task(wait_for_it()) for _ in range(50)]
        before = service.counts["errors"]
        await asyncio.sleep(2)
        assert service.statistics()["waiting"] == 50
        assert service.counts["errors"] - before < 50 * 12, "they ask without a pause"
        server.start()
        ends = await asyncio.gather(*waiters)
        assert max(ends) - min(ends) < 20
        assert service.statistics()["up"] is True


def test_pauses_grow_to_a_bound_and_differ() -> None:
    assert max(backoff(20) for _ in range(200)) <= BACKOFF_MAX
    assert max(backoff(0) for _ in range(200)) <= 0.05
    assert len({backoff(5) for _ in range(50)}) == 50
