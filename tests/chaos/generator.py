"""The load: one process, open loop, with a history of its own. `python -m tests.chaos.generator <order as JSON>`.

It sends at its rate whatever becomes of the fleet, some messages twice, some records that nobody can read. SIGUSR1
makes a second producer send the last `AGAIN` acknowledged messages again, under their ids; SIGTERM ends it when all is
acknowledged. The history has one line for each message, written once its outcome is known.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import time
from collections import defaultdict, deque
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from tests.chaos import workload
from tests.chaos.workload import Command

TICK = 0.02
AGAIN = 300
REPEATED, POISONED = 0.01, 0.004
# An outage is no reason to give a message up: its outcome would be unknown, and its stream torn; seconds.
PATIENCE = 180


class Generator:
    """One client."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.name = order["name"]
        self.app_id, self.broker, self.rate = order["app_id"], order["broker"], order["rate"]
        self._agents = order["agents"]
        self._rng = random.Random(order["seed"])
        self._commands = workload.commands(order["seed"], order["agents"], order["emphasis"])
        self._poisoned = order["emphasis"].get("poison", POISONED)
        self._numbers: dict[tuple[str, int], int] = defaultdict(int)
        self._history = Path(order["history"]).open("w")  # noqa: SIM115 - open as long as the process
        self._recent: deque[tuple[str, bytes, bytes]] = deque(maxlen=AGAIN)
        self._tasks: set[asyncio.Task[None]] = set()
        self.stopping = False

    async def run(self) -> None:
        """Send until told to stop."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, setattr, self, "stopping", True)
        loop.add_signal_handler(signal.SIGINT, setattr, self, "stopping", True)
        loop.add_signal_handler(signal.SIGUSR1, lambda: self._go(self._twin()))
        self._producer = self._new_producer()
        await self._producer.start()
        started, sent, late = loop.time(), 0, 0.0
        while not self.stopping:
            due = int((loop.time() - started) * self.rate)
            while sent < due and not self.stopping:
                await self._one()
                sent += 1
            late = max(late, loop.time() - started - due / self.rate)
            await asyncio.sleep(TICK)
        while self._tasks:
            await asyncio.wait(list(self._tasks), timeout=PATIENCE)
        await self._producer.stop()
        self._write(sent=sent, late=round(late, 2))
        self._history.close()

    def _new_producer(self) -> AIOKafkaProducer:
        return AIOKafkaProducer(
            bootstrap_servers=self.broker, acks="all", enable_idempotence=True, request_timeout_ms=PATIENCE * 1000,
            retry_backoff_ms=100, max_batch_size=262_144,
        )  # fmt: skip

    def _topic(self, lane: int) -> str:
        return f"{self.app_id}.inbox.{('low', 'normal', 'high')[lane]}"

    def _go(self, doing: Awaitable[None]) -> None:
        task = asyncio.ensure_future(doing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _one(self) -> None:
        """Send one message, and see to its outcome in the background."""
        if self._rng.random() < self._poisoned:
            await self._poison()
        command = next(self._commands)
        n = 0
        if not command.fails:
            n = self._numbers[command.target, command.lane] = self._numbers[command.target, command.lane] + 1
        message_id, value = workload.encode(self.name, command, n, time.time_ns(), self.name)
        topic, key = self._topic(command.lane), command.target.encode()
        future = await self._producer.send(topic, value, key)
        self._go(self._outcome(future, message_id, command, n, (topic, key, value)))
        if self._rng.random() < REPEATED:
            await self._producer.send(topic, value, key)

    async def _outcome(
        self, future: Awaitable[Any], message_id: str, command: Command, n: int, record: tuple[str, bytes, bytes]
    ) -> None:
        acked = True
        try:
            await future
            self._recent.append(record)
        except KafkaError as error:
            acked = False
            print(f"{message_id}: {error!r}", file=sys.stderr, flush=True)
        self._write(id=message_id, target=command.target, lane=command.lane, n=n, acked=acked)

    async def _poison(self) -> None:
        target = workload.address(self._rng.randrange(self._agents))
        value = workload.poison(self._rng, target, time.time_ns())
        await self._producer.send(self._topic(self._rng.randrange(3)), value, target.encode())
        self._write(poison=1)

    async def _twin(self) -> None:
        """A client that did not hear the acks, or a second one with the same messages."""
        records = list(self._recent)
        twin = self._new_producer()
        await twin.start()
        try:
            for topic, key, value in records:
                await twin.send(topic, value, key)
        finally:
            await twin.stop()
        self._write(again=len(records))
        self._history.flush()

    def _write(self, **line: Any) -> None:
        self._history.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    asyncio.run(Generator(json.loads(sys.argv[1])).run())
