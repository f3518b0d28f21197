"""100 tasks in 3 processes read, think and write under locks while holders are frozen and Redis forgets.

The bank checks tokens. Afterwards: every accepted write counts, tokens of a lock grew in the order in which it was
taken, and tokens that came too late were refused; a storm in which none was is no proof.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.fencing.bank import Bank
from rookery import Client, Settings
from rookery.streams.kafka import topics
from tests.cluster.redis_kit import Clock, RedisServer, SentinelKit, locking_worker, redis_under_faketime, servers
from tests.cluster.storm_worker import ACCOUNTS, TTL

pytestmark = [pytest.mark.long, pytest.mark.kafka, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
SECONDS = 30.0
TASKS = (34, 33, 33)
HOUR = 3600


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    yield from servers(tmp_path)


@pytest.fixture
def app_id(broker: str) -> Iterator[str]:
    name = f"storm-{uuid.uuid4().hex[:8]}"
    kafka = {"bootstrap_servers": broker}
    asyncio.run(_of(topics.ensure(Settings.load(app_id=name, partitions=2), kafka)))
    yield name
    asyncio.run(_of(topics.remove(name, kafka)))


async def _of(work: Any) -> None:
    await work


class Storm:
    """Three processes and what they said."""

    def __init__(self, app_id: str, broker: str, redis_url: str, path: Path, bank: str = "Bank") -> None:
        environment = {**os.environ, "ROOKERY_BROKER": broker, "ROOKERY_REDIS_URL": redis_url}
        self.faults: Counter[str] = Counter()
        self._workers = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.cluster.storm_worker", app_id, str(path), str(SECONDS), str(tasks), bank],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for tasks in TASKS
        ]
        for worker in self._workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for worker in self._workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()

    def freeze_one(self) -> None:
        worker = random.choice(self._workers)
        worker.send_signal(signal.SIGSTOP)
        time.sleep(1.6 * TTL)
        worker.send_signal(signal.SIGCONT)

    def rage(self, faults: dict[str, Callable[[], None]]) -> None:
        """Cause the faults in turn until the workers are about to end."""
        until = time.monotonic() + SECONDS - 4
        while time.monotonic() < until:
            for name, cause in faults.items():
                cause()
                self.faults[name] += 1
                time.sleep(1.0)

    def results(self) -> list[dict[str, Any]]:
        return [json.loads(worker.communicate(timeout=120)[0]) for worker in self._workers]

    def end(self) -> None:
        for worker in self._workers:
            worker.kill()
            worker.communicate()


def judge(storm: Storm, path: Path, capsys: pytest.CaptureFixture[str]) -> int:
    """Print what happened and return the accepted writes that were lost; the tokens must be in order anyway."""
    results = storm.results()
    bank = Bank(path)
    total = bank.total()
    bank.close()
    counts: Counter[str] = sum((Counter(result["counts"]) for result in results), Counter())
    return verdict(storm, results, counts, counts["accepted"], total, capsys)


def verdict(
    storm: Storm,
    results: list[dict[str, Any]],
    counts: Counter[str],
    accepted: int,
    total: int,
    capsys: pytest.CaptureFixture[str],
) -> int:
    taken = [tuple(entry) for result in results for entry in result["taken"]]
    late = late_tokens(taken)
    line = (
        f"{accepted} accepted writes, {accepted - total} lost; {len(taken)} locks, "
        f"{len(late)} tokens out of order; {counts['stale']} stale ones refused, {counts['LockLost']} bodies "
        f"cancelled, {counts['LockTimeout']} waits ended; faults: {dict(storm.faults)}"
    )
    with capsys.disabled():
        print(f"\n{line}")
    assert not late, line
    assert accepted > 300, line
    lost = accepted - total
    assert counts["stale"] + lost > 0, f"no token came too late, nothing is proven: {line}"
    return lost


def late_tokens(taken: list[tuple[Any, ...]]) -> list[str]:
    """Pairs of one lock, the second asked for after the first was had, whose tokens do not grow; and doubles."""
    wrong = []
    for account in map(str, range(ACCOUNTS)):
        entries = [entry[1:] for entry in taken if entry[0] == account]
        doubles = len(entries) - len({token for token, _, _ in entries})
        wrong += [f"account {account}: {doubles} tokens given twice"] if doubles else []
        wrong += [
            f"account {account}: {later} after {earlier}"
            for earlier, _, had in entries
            for later, asked, _ in entries
            if had < asked and earlier >= later
        ]
    return wrong


def test_one_redis_that_forgets_restarts_and_jumps_in_time(
    broker: str,
    app_id: str,
    tmp_path: Path,
    start_redis: Callable[..., RedisServer],
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock, ahead = Clock(tmp_path), itertools.cycle((HOUR, 0))
    redis = start_redis(**(clock.options if redis_under_faketime() else {}))
    path = tmp_path / "bank.db"
    open_accounts(path)
    storm = Storm(app_id, broker, redis.url, path)

    def jump() -> None:
        with redis.admin() as client:
            before = client.time()[0]
            clock.set(next(ahead))
            time.sleep(0.5)
            after = client.time()[0]
        assert abs(after - before) > 3000, "the clock did not jump"

    faults = {"freeze": storm.freeze_one, "flush": redis.flush, "restart": redis.restart}
    if redis_under_faketime():
        faults["clock"] = jump
    try:
        storm.rage(faults)
        assert judge(storm, path, capsys) == 0
    finally:
        storm.end()


def test_sentinel_fails_over_to_a_replica_that_is_behind(
    broker: str,
    app_id: str,
    tmp_path: Path,
    start_redis: Callable[..., RedisServer],
    capsys: pytest.CaptureFixture[str],
) -> None:
    kit = SentinelKit(start_redis, tmp_path)
    path = tmp_path / "bank.db"
    open_accounts(path)
    storm = Storm(app_id, broker, kit.url, path)
    try:
        storm.rage(
            {
                "freeze": storm.freeze_one,
                "failover": kit.fail_over,
                "freeze again": storm.freeze_one,
                "freeze once more": storm.freeze_one,
            }
        )
        assert judge(storm, path, capsys) == 0
    finally:
        storm.end()


def test_agents_that_guard_their_state(
    broker: str,
    app_id: str,
    tmp_path: Path,
    start_redis: Callable[..., RedisServer],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each vault counts the writes that it accepted; one that was overwritten unseen would be missing in its gold."""
    redis = start_redis()

    async def vaults() -> list[Any]:
        async with Client(app_id, broker=broker) as client:
            return [await client.get_agent(f"Vault/{number}").state(timeout=60) for number in range(ACCOUNTS)]

    with locking_worker(app_id, broker, redis.url, tmp_path / "worker.log"):
        asyncio.run(vaults())
        storm = Storm(app_id, broker, redis.url, tmp_path / "unused.db", bank="agents")
        try:
            storm.rage({"freeze": storm.freeze_one, "flush": redis.flush, "freeze again": storm.freeze_one})
            results = storm.results()
        finally:
            storm.end()
        states = asyncio.run(vaults())
    counts: Counter[str] = sum((Counter(result["counts"]) for result in results), Counter())
    writes, gold = sum(state.writes for state in states), sum(state.gold for state in states)
    assert writes >= counts["accepted"]
    assert verdict(storm, results, counts, writes, gold, capsys) == 0


def test_a_bank_that_trusts_the_lock_loses_money(
    broker: str,
    app_id: str,
    tmp_path: Path,
    start_redis: Callable[..., RedisServer],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same storm without the compare: if nothing were lost here, the tests above would prove nothing."""
    path = tmp_path / "bank.db"
    open_accounts(path)
    storm = Storm(app_id, broker, start_redis().url, path, bank="TrustingBank")
    try:
        storm.rage({"freeze": storm.freeze_one})
        assert judge(storm, path, capsys) > 0
    finally:
        storm.end()


def open_accounts(path: Path) -> None:
    bank = Bank(path)
    for number in range(ACCOUNTS):
        bank.open(str(number), 0)
    bank.close()
