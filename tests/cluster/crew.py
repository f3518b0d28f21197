"""Genuine `faust worker` processes for a test, clients that feed them, and what has to hold afterwards."""

import asyncio
import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from rookery import Client
from rookery.ops.servers import lifecycle
from rookery.ops.servers.local_kafka import start_kafka
from rookery.ops.servers.process import Record
from rookery.schemas.deadletter import decode_dead_letter
from rookery.schemas.errors import AskTimeout
from rookery.streams.core.routing import Topics
from tests.programs import Program

AGENTS, PARTITIONS = 40, 4
HEADERS = [("content-type", b"application/json"), ("type", b"add")]
UNHAPPY = re.compile(r"Traceback|\[(ERROR|CRITICAL)\]|Warning:")


def environment(app_id: str, broker: str, extra: Mapping[str, str] = {}) -> dict[str, str]:
    """Of a process that runs an application of this folder."""
    folder = str(Path(__file__).parent)
    # All weigh the same, unless a test says otherwise: shares must not depend on what else the machine does.
    ours = {"PYTHONPATH": folder, "ROOKERY_BROKER": broker, "COUNTING_APP": app_id, "ROOKERY_WEIGHT": "1"}
    return {**os.environ, **ours, **extra}


class Worker:
    """One `faust worker` process and its log."""

    def __init__(
        self,
        app_id: str,
        broker: str,
        folder: Path,
        module: str = "counting_app",
        extra: Mapping[str, str] = {},
    ) -> None:
        folder.mkdir()
        self.log = folder / "log"
        self.log.touch()
        words = ("faust", "-A", module, "worker", "-l", "info")
        self.process = Program(*words, cwd=folder, env=environment(app_id, broker, extra), log=self.log)

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


async def eventually(holds: Callable[[], bool], what: str, timeout: float = 90.0) -> None:
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, f"not in {timeout} s: {what}"
        await asyncio.sleep(0.05)


@contextmanager
def own_broker(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A Kafka that a test may kill or freeze: its address and its process."""
    with lifecycle._own_folder(folder, "kafka", lambda line: None) as home:
        address = start_kafka(home, lifecycle.HOME, detached=False, progress=lambda line: None)
        server = Record.read(home).server
        process = server.process() if server is not None else None
        assert process is not None
        try:
            yield address, process
        finally:
            with suppress(psutil.NoSuchProcess):
                process.resume()


@contextmanager
def crew(app_id: str, broker: str, folder: Path) -> Iterator[Callable[..., Worker]]:
    """Starts workers by name; none outlives the block."""
    workers: list[Worker] = []

    def start(name: str, module: str = "counting_app", **extra: str) -> Worker:
        workers.append(Worker(app_id, broker, folder / name, module, extra))
        return workers[-1]

    try:
        yield start
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.wait(10)


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

    async def to(self, agent: str, count: int, seconds: float = 0.0, block: float = 0.0) -> None:
        """Send to one agent through the normal inbox; each turn takes so long, or blocks where it may."""
        value = json.dumps({"by": 1, "seconds": seconds, "block": block}).encode()
        sending = [
            await self._producer.send(self._names.inboxes[1], value, agent.encode(), headers=HEADERS)
            for _ in range(count)
        ]
        self.sent[agent] += count
        await asyncio.gather(*sending)


async def lost_stretches(app_id: str, broker: str) -> list[tuple[str, int, int, int]]:
    """(topic, partition, first and last offset) of what the dead letters call deleted, in order."""
    found = []
    async with AIOKafkaConsumer(bootstrap_servers=broker, group_id=None) as consumer:
        tps = [TopicPartition(Topics(app_id).deadletter, number) for number in range(PARTITIONS)]
        consumer.assign(tps)
        await consumer.seek_to_beginning(*tps)
        for tp, end in (await consumer.end_offsets(tps)).items():
            while await consumer.position(tp) < end:
                found += (await consumer.getmany(tp, timeout_ms=200)).get(tp, [])
    letters = [decode_dead_letter(record.value) for record in found]
    assert {letter.reason for letter in letters} <= {"log-truncated"}
    return [(letter.topic, letter.partition, letter.offset, letter.last_offset) for letter in letters]


async def counted(app_id: str, broker: str, sent: Counter[str]) -> None:
    """Every agent has counted exactly what was sent to it."""
    async with Client(app_id, broker=broker, partitions=PARTITIONS) as client:
        deadline = time.monotonic() + 90
        while True:
            try:
                states = await asyncio.gather(*(client.get_agent(agent).state() for agent in sent))
            except AskTimeout:  # its worker is still starting, or a slow turn is before it
                assert time.monotonic() < deadline, "no answer"
                continue
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
