"""Semaphore, RateLimit and Leader on a real Redis, and over processes that are killed."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rookery import Leader, LockTimeout, Overloaded, RateLimit, RedisUnavailable, Semaphore
from rookery.ops.locks.service import find
from tests.cluster.permit_worker import LIMIT
from tests.cluster.redis_kit import RedisServer, locks_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STORM_SECONDS = 25.0


# --- Semaphore ------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_permits_bound_the_bodies_and_are_all_used(client: Any) -> None:
    inside, most = 0, 0
    permits = Semaphore("model", 3, redis=client)

    async def body() -> None:
        nonlocal inside, most
        async with permits:
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)
            inside -= 1

    await asyncio.gather(*(body() for _ in range(30)))
    assert most == 3


@pytest.mark.asyncio
async def test_a_permit_frees_the_next_waiter_at_once(client: Any) -> None:
    """Two permits given back together wake two waiters; none waits for its next look."""
    permits = Semaphore("model", 2, redis=client)
    let_go = asyncio.Event()
    entered: list[float] = []

    async def hold() -> None:
        async with permits:
            await let_go.wait()

    async def wait() -> None:
        async with permits:
            entered.append(time.monotonic())
            await asyncio.sleep(1.5)

    holders = [asyncio.create_task(hold()) for _ in range(2)]
    await asyncio.sleep(0.2)
    waiters = [asyncio.create_task(wait()) for _ in range(2)]
    await asyncio.sleep(1.0)
    let_go.set()
    freed = time.monotonic()
    await asyncio.gather(*holders, *waiters)
    assert max(entered) - freed < 0.7


@pytest.mark.long
@pytest.mark.asyncio
async def test_ten_permits_over_three_processes_that_are_killed(
    server: RedisServer, client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The resource counts its open connections itself; those of a killed process are closed by the kernel."""
    inside = most = calls = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal inside, most, calls
        inside += 1
        most = max(most, inside)
        try:
            writer.write(b"go\n")
            calls += bool(await reader.readline())
        except ConnectionError:
            pass
        finally:
            inside -= 1
            writer.close()

    resource = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = str(resource.sockets[0].getsockname()[1])

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "tests.cluster.permit_worker", server.url, port, "10"], cwd=ROOT)

    workers, kills = [start() for _ in range(3)], 0
    try:
        deadline = time.monotonic() + 60
        while calls < 50:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        until = time.monotonic() + STORM_SECONDS
        while time.monotonic() < until:
            await asyncio.sleep(random.uniform(2.0, 3.5))
            index = random.randrange(3)
            workers[index].kill()
            workers[index].wait(10)
            workers[index] = start()
            kills += 1
    finally:
        for worker in workers:
            worker.kill()
            worker.wait(10)
        resource.close()
    with capsys.disabled():
        print(f"\n{calls} calls under {LIMIT} permits, at most {most} at once, {kills} processes killed")
    assert most == LIMIT
    assert kills >= 4


@pytest.mark.asyncio
async def test_a_wait_for_a_permit_is_bounded(client: Any) -> None:
    async with Semaphore("model", 1, redis=client):
        with pytest.raises(LockTimeout):
            async with Semaphore("model", 1, redis=client, wait=0.2):
                pass


# --- RateLimit ------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_rate_holds_over_all_users_after_a_burst(client: Any) -> None:
    limits = [RateLimit("model", rate=50, burst=5, redis=client) for _ in range(3)]
    began = time.monotonic()
    await asyncio.gather(*(limit.take() for limit in limits for _ in range(15)))
    assert 0.79 <= time.monotonic() - began < 4, "45 at 50 per second, of which 5 at once"
    # Counted, since a slow machine makes all of them late, and lets more through when turns come back meanwhile.
    assert find(client, "the test").counts["rate_waits"] <= 40


@pytest.mark.asyncio
async def test_a_turn_that_comes_too_late_is_refused_and_not_taken(client: Any) -> None:
    limit = RateLimit("model", rate=1, burst=2, redis=client)
    await limit.take(2)
    with pytest.raises(Overloaded) as raised:
        await limit.take(wait=0.2)
    assert 0.3 < raised.value.retry_after <= 0.8
    with pytest.raises(Overloaded):
        await limit.take(wait=0.2)
    assert await limit.take(wait=3) <= 1.5, "the refused ones took no turn"
    with pytest.raises(ValueError, match="never possible"):
        await limit.take(3)


@pytest.mark.asyncio
async def test_a_rate_limit_without_redis_ends_in_time() -> None:
    async with locks_of("redis://127.0.0.1:1") as (client, _, _):
        began = time.monotonic()
        with pytest.raises(RedisUnavailable):
            await RateLimit("model", rate=1, redis=client).take(wait=0.5)
        assert time.monotonic() - began < 3


# --- Leader ---------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_one_leads_another_takes_over_and_a_lost_leadership_is_sought_again(server: RedisServer) -> None:
    led: list[tuple[str, int]] = []
    leading: set[str] = set()

    async def campaign(name: str) -> None:
        async with locks_of(server.url) as (client, _, tokens):
            tokens.given = numbers

            async def job(fence: int) -> None:
                led.append((name, fence))
                assert not leading
                leading.add(name)
                try:
                    await asyncio.sleep(60)
                finally:
                    leading.discard(name)

            await Leader("report", ttl=1, redis=client).run(job)

    async def led_times(count: int) -> None:
        deadline = time.monotonic() + 20
        while len(led) < count:
            assert time.monotonic() < deadline, led
            await asyncio.sleep(0.02)

    numbers: list[int] = []
    tasks = {name: asyncio.create_task(campaign(name)) for name in ("a", "b")}
    await led_times(1)
    first = led[0][0]
    await asyncio.sleep(1.5)
    assert len(led) == 1, "two lead"
    tasks[first].cancel()
    await led_times(2)
    assert led[1][0] != first
    with server.admin() as admin:
        admin.flushall()
    await led_times(3)  # it lost its leadership, noticed, and sought it again
    assert [fence for _, fence in led] == sorted({fence for _, fence in led})
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)


@pytest.mark.asyncio
async def test_the_job_of_a_leader_ends_it(client: Any) -> None:
    async def job(fence: int) -> str:
        return f"done with {fence}"

    leader = Leader("report", redis=client)
    assert await leader.run(job) == "done with 1"
    assert not leader.leading

    async def failing(fence: int) -> None:
        raise KeyError(fence)

    with pytest.raises(KeyError):
        await leader.run(failing)
