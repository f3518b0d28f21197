"""Genuine `faust worker` processes: they share the work, hand it over, and leave with exit code 0."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from rookery import Client
from rookery.streams.core.routing import Topics
from rookery.streams.kafka import topics

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio]

AGENTS, PARTITIONS = 40, 4
HEADERS = [("content-type", b"application/json"), ("type", b"add")]
UNHAPPY = re.compile(r"Traceback|\[(ERROR|CRITICAL)\]|Warning:")


class Worker:
    """One `faust worker` process and its log."""

    def __init__(self, app_id: str, broker: str, folder: Path) -> None:
        folder.mkdir()
        self.log = folder / "log"
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "faust", "-A", "counting_app", "worker", "-l", "info"],
                cwd=folder,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    "PYTHONPATH": str(Path(__file__).parent),
                    "ROOKERY_BROKER": broker,
                    "COUNTING_APP": app_id,
                },
            )

    async def until(self, text: str, count: int = 1) -> None:
        await eventually(lambda: len(re.findall(text, self.log.read_text())) >= count, f"{text} in {self.log}")

    async def leave(self) -> str:
        """Stop by SIGTERM; return what was unhappy in the log."""
        self.process.send_signal(signal.SIGTERM)
        return await self.end()

    async def end(self) -> str:
        await eventually(lambda: self.process.poll() is not None, f"end of {self.log}")
        text = self.log.read_text()
        assert self.process.returncode == 0, text[-3000:]
        # A new broker has no coordinator until the first group has asked for one; aiokafka logs that as an error.
        text = "\n".join(line for line in text.splitlines() if "GroupCoordinatorNotAvailableError" not in line)
        unhappy = UNHAPPY.search(text)
        return text[max(0, unhappy.start() - 500) : unhappy.start() + 2500] if unhappy else ""


async def eventually(holds: Callable[[], bool], what: str, timeout: float = 40.0) -> None:
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, f"not in {timeout} s: {what}"
        await asyncio.sleep(0.05)


@contextmanager
def crew(app_id: str, broker: str, folder: Path) -> Iterator[Callable[[str], Worker]]:
    """Starts workers by name; none outlives the block."""
    workers: list[Worker] = []

    def start(name: str) -> Worker:
        workers.append(Worker(app_id, broker, folder / name))
        return workers[-1]

    try:
        yield start
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.wait(10)


@pytest_asyncio.fixture
async def app_id(broker: str) -> AsyncIterator[str]:
    name = f"test-{uuid.uuid4().hex[:8]}"
    yield name
    await topics.remove(name, {"bootstrap_servers": broker})


@pytest_asyncio.fixture
async def send(broker: str, app_id: str) -> AsyncIterator["Sender"]:
    async with AIOKafkaProducer(bootstrap_servers=broker) as producer:
        yield Sender(producer, Topics(app_id))


class Sender:
    """A Kafka client that knows nothing of us, and remembers what it sent."""

    def __init__(self, producer: AIOKafkaProducer, names: Topics) -> None:
        self._producer, self._names = producer, names
        self.sent: Counter[str] = Counter()

    async def __call__(self, rounds: int) -> None:
        sending = []
        for n in range(rounds * AGENTS):
            target = f"Count/{n % AGENTS}"
            value = json.dumps({"by": 1}).encode()
            self.sent[target] += 1
            topic = self._names.inboxes[n % 3]
            sending.append(await self._producer.send(topic, value, target.encode(), headers=HEADERS))
        await asyncio.gather(*sending)


async def counted(app_id: str, broker: str, sent: Counter[str]) -> None:
    """Every agent has counted exactly what was sent to it."""
    async with Client(app_id, broker=broker, partitions=PARTITIONS) as client:
        deadline = time.monotonic() + 40
        while True:
            states = await asyncio.gather(*(client.get_agent(agent).state() for agent in sent))
            counts = {agent: state.n for agent, state in zip(sent, states, strict=True)}
            assert all(counts[agent] <= sent[agent] for agent in sent), "counted twice"
            if counts == sent:
                return
            assert time.monotonic() < deadline, {agent: (counts[agent], sent[agent]) for agent in sent}
            await asyncio.sleep(0.2)


async def committed_is_end(app_id: str, broker: str) -> None:
    """The group's committed offsets reach the ends of the inboxes, for tools that show lag."""
    tps = [TopicPartition(topic, n) for topic in Topics(app_id).inboxes for n in range(PARTITIONS)]
    admin = AIOKafkaAdminClient(bootstrap_servers=broker)
    lookup = AIOKafkaConsumer(bootstrap_servers=broker)
    await asyncio.gather(admin.start(), lookup.start())
    try:
        deadline = time.monotonic() + 20
        while True:
            ends = {tp: end for tp, end in (await lookup.end_offsets(tps)).items() if end}
            offsets = {tp: found.offset for tp, found in (await admin.list_consumer_group_offsets(app_id)).items()}
            if all(offsets.get(tp) == end for tp, end in ends.items()):
                return
            assert time.monotonic() < deadline, (ends, offsets)
            await asyncio.sleep(0.2)
    finally:
        await asyncio.gather(admin.close(), lookup.stop())


async def test_workers_join_share_and_leave(broker: str, app_id: str, send: Sender, tmp_path: Path) -> None:
    with crew(app_id, broker, tmp_path) as start:
        one = start("one")
        await one.until("Worker ready")
        await send(10)
        await counted(app_id, broker, send.sent)
        two = start("two")
        await send(50)
        await two.until("Worker ready")
        await send(50)
        await two.until("recovered partition", 2)
        await counted(app_id, broker, send.sent)
        await committed_is_end(app_id, broker)
        await send(20)
        assert not await two.leave()
        await send(20)
        await counted(app_id, broker, send.sent)
        assert not await one.leave()
        await committed_is_end(app_id, broker)


async def test_a_killed_worker_loses_and_doubles_nothing(
    broker: str, app_id: str, send: Sender, tmp_path: Path
) -> None:
    with crew(app_id, broker, tmp_path) as start:
        one, two = start("one"), start("two")
        await asyncio.gather(one.until("recovered partition", 2), two.until("recovered partition", 2))
        await send(20)
        feeding = asyncio.create_task(send(200))
        await asyncio.sleep(0.1)
        one.process.kill()
        await feeding
        await counted(app_id, broker, send.sent)
        assert not await two.leave()


async def test_a_stop_in_the_middle_of_a_rebalance_is_clean(broker: str, app_id: str, tmp_path: Path) -> None:
    with crew(app_id, broker, tmp_path) as start:
        one = start("one")
        await one.until("Worker ready")
        for n, moment in enumerate((r"Joined group", r"Executing _on_partitions_assigned", r"Worker ready")):
            late = start(f"late{n}")
            await late.until(moment)
            assert not await late.leave(), moment
        late = start("last")
        await one.until("Revoking previously assigned", 8)
        assert not await one.leave()
        assert not await late.leave()
