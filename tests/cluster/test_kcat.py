"""kcat, which knows nothing of us, talks to agents: JSON with headers, and an envelope as raw bytes."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from rookery.schemas.envelope import JSON, Priority, decode, encode_body, seal
from tests.cluster.test_agents_on_kafka import Worker, make_topic

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.skipif(shutil.which("kcat") is None, reason="kcat is not installed (apt-get install kcat)"),
]


@pytest.fixture(scope="module")
def worker(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    started = Worker(broker, tmp_path_factory.mktemp("worker") / "log")
    yield started
    started.stop()


def kcat(worker: Worker, *arguments: str, given: bytes = b"") -> bytes:
    command = ["kcat", "-q", "-b", worker.broker, *arguments]
    done = subprocess.run(command, input=given, capture_output=True, timeout=90)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def produce(worker: Worker, *arguments: str, given: bytes = b"") -> None:
    # Kafka's own partitioner; that of librdkafka finds another partition for the key.
    inbox = f"{worker.app_id}.inbox.normal"
    kcat(worker, "-P", "-t", inbox, "-X", "topic.partitioner=murmur2_random", *arguments, given=given)


def reply(worker: Worker, topic: str) -> bytes:
    """The first record of a topic."""
    return kcat(worker, "-C", "-t", topic, "-o", "beginning", "-c", "1", "-D", "")


@pytest.fixture
def name(worker: Worker) -> str:
    """Of a client whose topic for replies exists."""
    name = f"kcat-{uuid.uuid4().hex[:8]}"
    make_topic(worker, f"{worker.app_id}.replies.{name}")
    return name


def test_json_goes_in_and_json_comes_back(worker: Worker, name: str) -> None:
    headers = [f"content-type={JSON}", "type=Add", f"reply-to={name}"]
    options = [word for header in headers for word in ("-H", header)]
    produce(worker, "-k", "Counter/x", *options, given=b'{"n": 7}')
    assert json.loads(reply(worker, f"{worker.app_id}.replies.{name}")) == {"count": 7}


def test_an_envelope_goes_in_and_an_envelope_comes_back(worker: Worker, name: str, tmp_path: Path) -> None:
    sender, target = f"client:{name}", "Counter/raw"
    message_id, now = uuid.uuid4().hex, time.time_ns()
    body = encode_body(sender, target, b'{"n": 3}', now, Priority.NORMAL, message_id, "Add", JSON, reply_to=sender)
    (tmp_path / "envelope").write_bytes(seal(body))
    produce(worker, "-k", target, str(tmp_path / "envelope"))
    answer = decode(reply(worker, f"{worker.app_id}.replies.{name}"))
    assert (json.loads(answer.payload), answer.correlation_id) == ({"count": 3}, message_id)
