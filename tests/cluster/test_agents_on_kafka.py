"""Agents in a real worker on a real Kafka: our client, and clients that know nothing of us."""

import asyncio
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from rookery import AgentManager, Client
from rookery.schemas.deadletter import decode_dead_letter
from rookery.schemas.errors import AgentError, AgentStopped, AskTimeout
from tests.cluster.small_app import Add, TestAgent, Total
from tests.programs import Program, run

pytestmark = [pytest.mark.long, pytest.mark.kafka]

ROOT = Path(__file__).parents[2]


class Worker:
    """`faust -A tests.cluster.small_app worker` under an application id of its own."""

    def __init__(self, broker: str, log: Path, *, level: str = "info", **environment: str) -> None:
        self.app_id = f"small-{uuid.uuid4().hex[:8]}"
        self.broker = broker
        self._log = log
        self._level = level
        self._environment = environment
        self.process = self._start()

    def _start(self) -> Program:
        given = {"ROOKERY_BROKER": self.broker, "ROOKERY_APP_ID": self.app_id}
        environment = {**os.environ, **given, **self._environment}
        self._log.touch()
        words = ("faust", "-A", "tests.cluster.small_app", "worker", "-l", self._level)
        process = Program(*words, cwd=ROOT, env=environment, log=self._log)
        deadline = time.monotonic() + 60
        while not self.page("/readyz"):
            assert time.monotonic() < deadline, self._log.read_text()
            assert process.poll() is None, self._log.read_text()
            time.sleep(0.1)
        return process

    def page(self, path: str) -> str:
        """A page of the worker; empty while it does not answer 200."""
        ports = re.findall(r"web +\| http://127\.0\.0\.1:(\d+)", self._log.read_text())
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{ports[-1]}{path}", timeout=5) as answer:
                return str(answer.read().decode())
        except (OSError, IndexError):
            return ""

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    def restart(self) -> int:
        """Stop as planned and start again; returns the exit code of the stop."""
        code = self.stop()
        self.process = self._start()
        return code


@pytest.fixture(scope="module")
def worker(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    started = Worker(broker, tmp_path_factory.mktemp("small") / "worker.log")
    yield started
    assert started.stop() == 0


@pytest_asyncio.fixture
async def client(worker: Worker) -> AsyncIterator[Client]:
    async with Client(worker.app_id, broker=worker.broker) as connected:
        yield connected


async def eventually(holds: Callable[[], Any]) -> None:
    """Wait for quiet: until an async condition holds."""
    for _ in range(100):
        if await holds():
            return
        await asyncio.sleep(0.1)
    pytest.fail("it did not come true within 10 s")


@pytest.mark.asyncio
async def test_message_passing(client: Client) -> None:
    """The article's test; here with a line that waits for quiet."""
    manager = AgentManager()
    sender_id = await manager.spawn_agent(TestAgent)
    receiver_id = await manager.spawn_agent(TestAgent)
    sender = manager.get_agent(sender_id)
    await sender.send(receiver_id, {"type": "PING"})
    receiver = manager.get_agent(receiver_id)

    async def heard() -> bool:
        return bool((await receiver.state()).last_message)

    await eventually(heard)
    assert (await receiver.state()).last_message == "PING"
    await manager.stop_agent(receiver_id)
    with pytest.raises(AgentStopped):
        await receiver.ask({"type": "PING"})


@pytest.mark.asyncio
async def test_faust_remembers_none_of_the_messages(client: Client) -> None:
    """Its bookkeeping of acks would grow for as long as the worker lives."""
    for number in range(20):
        await client.get_agent(f"Counter/{number}").ask(Add(1))
    assert await client.get_agent("Inside/a").ask({"type": "REMEMBERED"}) == [0, 0]


@pytest.mark.asyncio
async def test_state_and_order_survive_a_planned_restart(worker: Worker, client: Client) -> None:
    counter, audit = client.get_agent("Counter/restart"), client.get_agent("Audit/log")
    before = (await audit.state()).total
    for n in range(1, 21):
        await counter.tell(Add(n))
    assert await counter.ask(Add(100), reply_type=Total) == Total(310)
    assert worker.restart() == 0
    assert await counter.ask(Add(1000), reply_type=Total) == Total(1310)

    async def audited() -> bool:
        return bool((await audit.state()).total == before + 1310)

    await eventually(audited)
    assert (await audit.state()).order[-22:] == [*range(1, 21), 100, 1000]


@pytest.mark.asyncio
async def test_a_handler_that_raises_leaves_a_dead_letter_and_nothing_else(worker: Worker, client: Client) -> None:
    counter = client.get_agent("Counter/broken")
    await counter.ask(Add(5))
    with pytest.raises(AgentError, match="only upwards"):
        await counter.ask(Add(-1))
    assert (await counter.state()).count == 5

    def is_ours(value: bytes) -> bool:
        return decode_dead_letter(value).target == "Counter/broken"

    found = read(worker, f"{worker.app_id}.deadletter", 1, is_ours)
    (letter,) = [decode_dead_letter(value) for _, value in found if is_ours(value)]
    assert letter.reason == "handler-failed"
    assert b'{"n":-1}' in letter.value
    assert "ValueError: only upwards" in letter.traceback


@pytest.mark.asyncio
async def test_an_ask_that_times_out_leaves_the_outcome_open(client: Client) -> None:
    with pytest.raises(AskTimeout, match="outcome is unknown"):
        await client.get_agent("Counter/slow").ask(Add(1), timeout=0.0001)
    assert await client.get_agent("Counter/slow").ask(Add(1), reply_type=Total) in (Total(1), Total(2))


@pytest.mark.asyncio
async def test_the_metrics_of_the_mission_are_on_the_page(worker: Worker, client: Client) -> None:
    await client.get_agent("Counter/measured").ask(Add(1))
    page = worker.page("/metrics")
    assert 'agent_messages_received_total{agent_id="Counter/measured"} 1.0' in page
    assert 'agent_processing_time_bucket{agent_id="Counter/measured",le="0.1"} 1.0' in page


def test_a_plain_client_talks_json(worker: Worker) -> None:
    """confluent-kafka and the address as the key, no code of ours."""
    name = f"plain-{uuid.uuid4().hex[:8]}"
    topic = f"{worker.app_id}.replies.{name}"
    make_topic(worker, topic)
    headers: list[tuple[str, str | bytes | None]] = [
        ("content-type", b"application/json"),
        ("type", b"Add"),
        ("reply-to", name.encode()),
    ]
    produce(worker, "Counter/json", json.dumps({"n": 7}).encode(), headers)
    assert [json.loads(value) for _, value in read(worker, topic, 1)] == [{"count": 7}]


def test_a_client_made_from_the_proto_alone_is_understood(worker: Worker, tmp_path: Path) -> None:
    messages = generated(tmp_path)
    name = f"proto-{uuid.uuid4().hex[:8]}"
    topic = f"{worker.app_id}.replies.{name}"
    make_topic(worker, topic)
    body = messages.Envelope(
        sender=f"client:{name}",
        target="Counter/proto",
        payload=b'{"n": 3}',
        timestamp=time.time_ns(),
        id=uuid.uuid4().hex,
        type="Add",
        content_type="application/json",
        reply_to=f"client:{name}",
    ).SerializeToString()
    for _ in range(2):  # the repeat of a client that did not hear the ack
        produce(worker, "Counter/proto", body + b"\x7d" + zlib.crc32(body).to_bytes(4, "little"), [])
    replies = [messages.Envelope.FromString(value) for _, value in read(worker, topic, 1)]
    assert [json.loads(reply.payload) for reply in replies] == [{"count": 3}]


def make_topic(worker: Worker, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": worker.broker})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result()


def produce(worker: Worker, key: str, value: bytes, headers: list[tuple[str, str | bytes | None]]) -> None:
    """Write one record as any librdkafka client with Kafka's default partitioner does."""
    producer = Producer({"bootstrap.servers": worker.broker, "partitioner": "murmur2_random"})
    producer.produce(f"{worker.app_id}.inbox.normal", value, key, headers=headers)
    assert producer.flush(10) == 0


def read(
    worker: Worker, topic: str, count: int, counts: Callable[[bytes], bool] = lambda value: True
) -> list[tuple[bytes | None, bytes]]:
    """The first records of a topic, until so many of them count, and whatever else has come by then."""
    group = {"group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest", "enable.auto.commit": False}
    consumer = Consumer({"bootstrap.servers": worker.broker, **group})
    consumer.subscribe([topic])
    found: list[tuple[bytes | None, bytes]] = []
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        record = consumer.poll(0.5)
        if record is not None and record.error() is None:
            found.append((record.key(), record.value() or b""))
        elif sum(counts(value) for _, value in found) >= count:
            break
    consumer.close()
    return found


def generated(folder: Path) -> Any:
    """Classes of schemas/envelope.proto, generated afresh under another name, as a stranger would."""
    source = (ROOT / "schemas" / "envelope.proto").read_text().replace("package rookery.v1", "package stranger.v1")
    (folder / "stranger.proto").write_text(source)
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"--python_out={folder}", "stranger.proto"]
    subprocess.run(command, check=True, cwd=folder)
    spec = importlib.util.spec_from_file_location("stranger_pb2", folder / "stranger_pb2.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_command_line_talks_to_agents(worker: Worker) -> None:
    environment = {**os.environ, "ROOKERY_BROKER": worker.broker, "ROOKERY_APP_ID": worker.app_id}

    def faust(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run("faust", "-A", "tests.cluster.small_app", *arguments, cwd=ROOT, env=environment)

    assert faust("ask", "Counter/cli", '{"n": 4}', "--type", "Add").stdout.strip() == '{"count": 4}'
    refused = faust("ask", "Counter/cli", '{"n": -4}', "--type", "Add")
    assert refused.returncode == 1
    assert "only upwards" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert faust("topics", "check").returncode == 0
    assert "Counter" in faust("agents").stdout
