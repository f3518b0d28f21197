"""Messages while something happens to the workers, and the verdict of `tests.chaos` over all that they did."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from rookery.schemas.journal import decode_claim
from tests.chaos import checker, topics
from tests.chaos.workload import address
from tests.containers.kit import ROOT, WAIT

AGENTS, PARTITIONS, RATE = 60, 6, 60
GENERATOR, CHECKER = "generator", "checker"
CLAIM = b"~claim"


class Load:
    """A client that sends to the clerks of an application from the start to the verdict."""

    def __init__(self, app_id: str, broker: str, folder: Path, copies: int = 1) -> None:
        self.names, self._broker, self._history = topics.Names(app_id), broker, folder / "history.jsonl"
        asyncio.run(topics.make_replies(broker, self.names, [GENERATOR, CHECKER], copies))
        self._history.touch()
        order = {
            "name": f"client:{GENERATOR}", "app_id": app_id, "broker": broker, "rate": RATE, "agents": AGENTS,
            "seed": 1, "history": str(self._history), "emphasis": {"long": 0.0},
        }  # fmt: skip
        with (folder / "generator.log").open("wb") as out:
            command = [sys.executable, "-m", "tests.chaos.generator", json.dumps(order)]
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out)

    def sent(self) -> int:
        """Messages whose outcome is known."""
        return sum('"id"' in line for line in self._history.read_text().splitlines())

    def flows(self, more: int = 2 * RATE) -> None:
        """Wait until so many more messages are acknowledged."""
        goal, deadline = self.sent() + more, time.monotonic() + WAIT
        while self.sent() < goal:
            assert self._process.poll() is None, "the generator ended"
            assert time.monotonic() < deadline, f"{self.sent()} of {goal} sent"
            time.sleep(0.2)

    def verdict(self) -> str:
        """End the load, wait until all is handled, hold everything against everything; what is wrong, or nothing."""
        ends_ms = time.time() * 1000
        self._process.terminate()
        assert self._process.wait(2 * WAIT) == 0
        return asyncio.run(self._verdict(ends_ms))

    async def _verdict(self, ends_ms: float) -> str:
        await self._drained()
        journal = await topics.read(self._broker, self.names.journal)
        times = [[record.timestamp for record in found if record.timestamp < ends_ms] for found in journal.values()]
        pause = max(later - earlier for found in times for earlier, later in pairwise(found))
        print(f"longest time without a commit of one of {PARTITIONS} partitions: {pause / 1000:.1f} s")
        agents = [address(number) for number in range(AGENTS)]
        books = await topics.ask_all(self._broker, self.names, CHECKER, agents, 4)
        await self._drained()
        history = [json.loads(line) for line in self._history.read_text().splitlines()]
        evidence = await topics.collect(self._broker, self.names, (GENERATOR, CHECKER), history, books)
        anomalies, log, _ = checker.check(evidence)
        assert log.handled > 2 * RATE, "too little happened to prove anything"
        lost_and_doubled = [f"{one.name} {one.subject}: {one.witness}" for one in anomalies]
        print(f"{log.handled} messages handled, {log.repeats} repeats dropped, {len(anomalies)} anomalies")
        return "\n".join(lost_and_doubled[:10])

    async def _drained(self) -> None:
        deadline, quiet = time.monotonic() + 2 * WAIT, 0
        async with topics.consumer(self._broker) as reader, topics.admin(self._broker) as client:
            while quiet < 3:
                left = await topics.backlog(reader, client, self.names, PARTITIONS)
                quiet = quiet + 1 if left == 0 else 0
                assert time.monotonic() < deadline, f"{left} messages are not handled"
                await asyncio.sleep(0.5)

    def owners(self) -> dict[int, str]:
        """Whose claim on each partition is the last, as its journal says."""
        return asyncio.run(self._owners())

    async def _owners(self) -> dict[int, str]:
        found = await topics.read(self._broker, self.names.journal)
        return {
            partition: decode_claim(record.value).worker
            for partition, records in found.items()
            for record in records
            if record.key == CLAIM
        }

    def close(self) -> None:
        """End the client, whatever it does."""
        self._process.kill()
        self._process.wait()


@contextmanager
def load(app_id: str, broker: str, folder: Path, copies: int = 1) -> Iterator[Load]:
    """A load for the block."""
    made = Load(app_id, broker, folder, copies)
    try:
        yield made
    finally:
        made.close()
