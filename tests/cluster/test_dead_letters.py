"""Dead letters on a real Kafka: every kind there is, what the command line says of them, and sending them again."""

import asyncio
import base64
import json
import os
import random
import re
import signal
import sys
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from rookery import Client
from rookery.ops.settings import Settings
from rookery.schemas.address import partition_of
from rookery.schemas.envelope import JSON, encode_body, seal
from rookery.streams.kafka import topics
from rookery.streams.kafka.deadletters import SENDING, DeadLetterBox, Letter, Selection
from rookery.streams.kafka.replay import How, Replayer, Tally
from tests.programs import Program, run

pytestmark = [pytest.mark.long, pytest.mark.kafka]

COMMAND = ("faust", "-A", "tests.cluster.letters_app")
ROOT = Path(__file__).parents[2]
PARTITIONS = 2
MINE = {"mine": "1"}
PLAIN = {"content-type": JSON}
DEADLINE = 90.0  # seconds until what must come true has


class Fleet:
    """One worker of `letters_app` under an application id of its own, a plain producer, and the command line."""

    def __init__(self, broker: str, folder: Path, **settings: str) -> None:
        self.app_id, self.broker = f"letters-{uuid.uuid4().hex[:8]}", broker
        self.log = folder / "worker.log"
        self.environment = {
            **os.environ,
            "ROOKERY_BROKER": broker,
            "ROOKERY_APP_ID": self.app_id,
            "ROOKERY_PARTITIONS": str(PARTITIONS),
            "ROOKERY_SPAWN_WAIT": "1",
            **settings,
        }
        self.log.touch()
        self.process = Program(*COMMAND, "worker", "-l", "info", cwd=ROOT, env=self.environment, log=self.log)
        self._producer = Producer({"bootstrap.servers": broker, "linger.ms": 20, "message.max.bytes": 2_000_000})

    def wait(self) -> None:
        deadline = time.monotonic() + DEADLINE
        while not self._ready():
            assert time.monotonic() < deadline, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.1)

    def _ready(self) -> bool:
        ports = re.findall(r"web +\| http://127\.0\.0\.1:(\d+)", self.log.read_text())
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{ports[-1]}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (OSError, IndexError):
            return False

    def stop(self) -> None:
        assert self.process.poll() is None, "the worker died: " + self.log.read_text()[-3000:]
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=60) == 0
        asyncio.run(topics.remove(self.app_id, {"bootstrap_servers": self.broker}))

    def put(self, value: bytes, key: bytes = b"k", partition: int = 0, headers: dict[str, str] | None = None) -> None:
        """Write bytes to a partition of the normal inbox, whatever they are."""
        inbox, pairs = f"{self.app_id}.inbox.normal", [(k, v.encode()) for k, v in (headers or {}).items()]
        while True:
            try:
                self._producer.produce(inbox, value, key, partition, headers=pairs)  # type: ignore[arg-type]
            except BufferError:
                self._producer.poll(0.1)
            else:
                return

    def flush(self) -> None:
        assert self._producer.flush(60) == 0

    def cli(self, *arguments: str, code: int = 0) -> str:
        """Run `dlq`; the output, stderr behind it."""
        done = run(*COMMAND, "dlq", *arguments, cwd=ROOT, env=self.environment)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback (most recent call last)" not in done.stderr, done.stderr
        return done.stdout + done.stderr

    def forget_replays(self) -> None:
        """Delete the marks; the controller deletes at once, a busy broker still shows the topic for seconds."""
        marks, admin = f"{self.app_id}.replayed", AdminClient({"bootstrap.servers": self.broker})
        admin.delete_topics([marks])[marks].result()
        self.until(lambda: marks not in admin.list_topics(timeout=10).topics)

    def letters(self, **wanted: Any) -> list[Letter]:
        """What `Client.dead_letters` gives."""

        async def collect() -> list[Letter]:
            async with Client(self.app_id, broker=self.broker) as client:
                return [letter async for letter in client.dead_letters(**wanted)]

        return asyncio.run(collect())

    def replay(self, wanted: Selection | None = None, **how: Any) -> Tally:
        """What `dlq replay` does; starting that program costs seconds."""

        async def run() -> Tally:
            settings, kafka = (
                Settings.load(app_id=self.app_id, partitions=PARTITIONS),
                {"bootstrap_servers": self.broker},
            )
            async with DeadLetterBox(self.app_id, kafka) as box:
                return await Replayer(box, settings, kafka, How(**how)).run(wanted or Selection(), lambda tally: None)

        return asyncio.run(run())

    def state(self, address: str) -> Any:
        async def ask() -> Any:
            async with Client(self.app_id, broker=self.broker) as client:
                return await client.get_agent(address).state()

        return asyncio.run(ask())

    def until_handled(self) -> None:
        """Wait until every record of the inboxes is handled."""

        async def drained() -> None:
            async with Client(self.app_id, broker=self.broker) as client:
                deadline = time.monotonic() + DEADLINE
                while sum((await client.backlog()).values()):
                    assert time.monotonic() < deadline, "the inboxes do not drain"
                    await asyncio.sleep(0.2)

        asyncio.run(drained())

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait until it holds."""
        deadline = time.monotonic() + DEADLINE
        while not holds():
            assert time.monotonic() < deadline, "it did not come true: " + self.log.read_text()[-3000:]
            time.sleep(0.3)

    def until_letters(self, count: int) -> list[Letter]:
        """Wait for that many letters; there must never be more."""
        self.until_handled()
        self.until(lambda: len(self.letters()) >= count)
        found = self.letters()
        assert len(found) == count
        return found


@pytest.fixture
def fleet(request: pytest.FixtureRequest, broker: str, tmp_path: Path) -> Iterator[Fleet]:
    """A fleet; settings of its worker by indirect parametrization."""
    started = Fleet(broker, tmp_path, **getattr(request, "param", {}))
    try:
        started.wait()
        yield started
    finally:
        if sys.exc_info()[0] is not None or started.process.poll() is not None:
            started.process.kill()
        started.stop()


def address(partition: int, kind: str = "Ledger", start: int = 0) -> str:
    """An address that lives on a partition."""
    return next(a for n in range(start, start + 999) if partition_of(a := f"{kind}/{n}", PARTITIONS) == partition)


def spawned() -> str:
    """The id of a spawned agent on partition 0."""
    return next(a for a in iter(lambda: uuid.uuid4().hex, "") if partition_of(a, PARTITIONS) == 0)


def body(target: str, message: dict[str, Any], kind: str = "Do", **more: Any) -> bytes:
    payload = json.dumps(message).encode()
    return encode_body("client:test", target, payload, time.time_ns(), 1, uuid.uuid4().hex, kind, JSON, **more)


def one_of_each(missing: str) -> dict[str, list[bytes]]:
    """Records for partition 0 by the reason that each must die of; the last of each list does."""
    good = body(address(0), {"n": 1})
    stopped = spawned()
    return {
        "crc-mismatch": [seal(good)[:10] + b"?" + seal(good)[11:]],
        "missing-crc": [b"hello"],
        "undecodable": [seal(b"\xff\xff")],
        "invalid-address": [seal(body("no address", {"n": 1}))],
        "unknown-agent-type": [seal(body(address(0, "Nobody"), {"n": 1}))],
        "unknown-handler": [seal(body(address(0), {"n": 1}, "Nope"))],
        "bad-payload": [seal(body(address(0), {"n": "one"}))],
        "misrouted": [seal(body(address(1, start=500), {"n": 77}))],
        "expired": [seal(body(address(0), {"n": 88}, deadline=time.time_ns() - 1))],
        "not-spawned": [seal(body(spawned(), {"n": 1}))],
        "agent-stopped": [
            seal(body(stopped, {"type": "Ledger"}, "rookery.spawn")),
            seal(body(stopped, {}, "rookery.stop")),
            seal(body(stopped, {"n": 1})),
        ],
        "handler-failed": [seal(body(address(0), {"n": 5, "flag": missing}))],
        "message-too-large": [seal(body(address(0), {"messages": 1, "size": 950_000}, "Flood"))],
        "batch-too-large": [seal(body(address(0), {"messages": 20, "size": 100_000}, "Flood"))],
    }


def test_every_kind_of_dead_letter_and_a_good_message_behind_them(fleet: Fleet, tmp_path: Path) -> None:
    kinds = one_of_each(str(tmp_path / "missing"))
    for records in kinds.values():
        for record in records:
            fleet.put(record)
    fleet.put(b"{", b"Ledger/x", headers=PLAIN)
    fleet.put(seal(body(address(0), {"n": 42})))
    fleet.flush()
    fleet.until_letters(len(kinds) + 1)
    fleet.until(lambda: bool(fleet.state(address(0)).entries == [42]))

    letters = [json.loads(line) for line in fleet.cli("list", "--json").splitlines()]
    assert Counter(letter["reason"] for letter in letters) == Counter([*kinds, "undecodable"])
    by_reason = {letter["reason"]: letter for letter in letters}
    assert by_reason["handler-failed"]["attempts"] == 2
    assert by_reason["agent-stopped"]["agent_type"] == "Ledger"
    exported = tmp_path / "letters.jsonl"
    fleet.cli("export", str(exported))
    whole = [json.loads(line) for line in exported.read_text().splitlines()]
    assert len(whole) == len(letters)
    for letter in whole:
        if letter["headers"]:
            assert letter["headers"] == [["content-type", base64.b64encode(JSON.encode()).decode()]]
            assert base64.b64decode(letter["value"]) == b"{"
        else:
            assert base64.b64decode(letter["value"]) == kinds[letter["reason"]][-1], letter["reason"]
        assert (letter["topic"], letter["partition"]) == (f"{fleet.app_id}.inbox.normal", 0)
        assert letter["rookery_version"]

    def reasons(**wanted: Any) -> set[str]:
        return {letter.content.reason for letter in fleet.letters(**wanted)}

    assert reasons(reasons=["expired", "misrouted"], types=["Do"]) == {"expired", "misrouted"}
    assert reasons(agent="Nobody/*") == {"unknown-agent-type"}
    assert reasons(types=["Flood"], agent_types=["Ledger"]) == {"message-too-large", "batch-too-large"}
    assert reasons(until=datetime.now(UTC) - timedelta(hours=1)) == set()
    assert reasons(since=datetime.now(UTC) - timedelta(hours=1)) == {*kinds}

    # One letter, by the id of its message and by its place.
    shown = fleet.cli("show", by_reason["handler-failed"]["id"])
    assert by_reason["handler-failed"]["letter"] in shown
    assert "in do" in shown, "the traceback"
    assert '"n": 5' in shown, "the payload"
    assert "there is no dead letter 0/999" in fleet.cli("show", "0/999", code=1)

    # What can't work as it is, is refused and said; misrouted and expired find their agents now.
    chosen = [part for kind in ("crc-mismatch", "expired", "misrouted") for part in ("--reason", kind)]
    said = fleet.cli("replay", *chosen)
    assert "sent 1, skipped 0" in said
    assert "refused 1: crc-mismatch: the same bytes fail again" in said
    assert "refused 1: its deadline has passed" in said
    assert fleet.replay(Selection(reasons=frozenset({"expired"})), extend=60.0).sent == 1
    assert fleet.replay(Selection(reasons=frozenset({"missing-crc"})), raw=True).sent == 1
    fleet.until_letters(len(kinds) + 2)
    fleet.until(lambda: bool(fleet.state(address(1, start=500)).entries == [77]))
    fleet.until(lambda: bool(fleet.state(address(0)).entries == [42, 88]))
    assert len(fleet.letters(reasons=["missing-crc"])) == 2
    assert reasons(replayed=True) == {"misrouted", "expired", "missing-crc"}


def test_replay_gives_each_missing_effect_once_and_in_order(fleet: Fleet, tmp_path: Path) -> None:
    flag = tmp_path / "mended"
    agents = [address(0), address(1), address(0, start=500)]
    for n in range(1, 41):
        for agent in agents:
            message = {"n": n, "flag": str(flag)}
            partition = partition_of(agent, PARTITIONS)
            if n % 3:
                fleet.put(seal(body(agent, message)), agent.encode(), partition)
            else:
                fleet.put(json.dumps({"type": "Do", **message}).encode(), agent.encode(), partition, PLAIN)
    fleet.flush()
    assert Counter(letter.content.reason for letter in fleet.until_letters(120)) == {"handler-failed": 120}

    assert "which?" in fleet.cli("replay", code=1)
    assert fleet.replay(dry_run=True).sent == 120
    assert fleet.state(agents[0]).entries == []
    flag.touch()

    def check(count: int) -> None:
        fleet.until_handled()
        for agent in agents[:count]:
            assert fleet.state(agent).entries == [*range(1, 41)], agent
        assert fleet.state("Sink/all").counts == {str(n): count for n in range(1, 41)}

    began = time.monotonic()
    assert fleet.replay(Selection(agent=agents[0]), rate=20).sent == 40
    assert time.monotonic() - began > 1.5, "40 at 20 a second"
    check(1)
    answer = {"sent": 80, "skipped": 40, "refused": {}, "dry_run": False}
    assert json.loads(fleet.cli("replay", "--reason", "handler-failed", "--json")) == answer
    check(3)
    assert fleet.replay() == Tally(0, 120)
    check(3)

    # The marks are gone, so all of it is sent once more: the inboxes know the ids.
    fleet.forget_replays()
    assert fleet.replay() == Tally(120, 0)
    check(3)
    assert fleet.letters(replayed=False) == []
    last = fleet.letters(agent=agents[1])[-1]
    assert fleet.replay(Selection(places=frozenset({(last.partition, last.offset)})), again=True).sent == 1
    fleet.until(lambda: bool(fleet.state(agents[1]).entries == [*range(1, 41), 40]))

    # Purging: nothing without --yes, never what was not selected.
    assert "40 dead letters would be deleted" in fleet.cli("purge", "--agent", agents[1])
    # Of the two that share a partition, one has the letter at its front.
    behind = next(agent for agent in (agents[2], agents[0]) if fleet.letters(agent=agent)[0].offset > 0)
    said = fleet.cli("purge", "--agent", behind, "--yes")
    assert "0 dead letters are deleted" in said
    assert "40 more are selected but stay" in said
    assert len(fleet.letters()) == 120
    assert "120 dead letters are deleted" in fleet.cli("purge", "--all", "--yes")
    assert fleet.letters() == []


@pytest.mark.parametrize("fleet", [{"ROOKERY_DEDUP_WINDOW": "0"}], indirect=True)
def test_a_replay_that_dies_between_sending_and_marking_doubles_nothing(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the inboxes have forgotten its ids: here they remember none at all."""
    flag = tmp_path / "mended"
    for n in range(1, 21):
        fleet.put(seal(body(address(0), {"n": n, "flag": str(flag)})))
    fleet.flush()
    fleet.until_letters(20)
    flag.touch()
    mark = Replayer._mark

    async def die(self: Replayer, producer: Any, partition: int, marks: list[tuple[bytes, bytes]]) -> None:
        assert marks[0][0] == SENDING, "killed"
        await mark(self, producer, partition, marks)

    monkeypatch.setattr(Replayer, "_mark", die)
    with pytest.raises(AssertionError, match="killed"):
        fleet.replay(rate=20)  # chunks of five
    monkeypatch.undo()
    assert fleet.letters(replayed=True) == []
    assert fleet.replay() == Tally(15, 5)
    fleet.until_handled()
    fleet.until(lambda: len(fleet.state(address(0)).entries) >= 20)
    assert fleet.state(address(0)).entries == [*range(1, 21)]
    assert fleet.letters(replayed=False) == []


def test_twenty_thousand_mutations_are_handled_or_dead_one_for_one(fleet: Fleet) -> None:
    count, seed = 20_000, 4
    chance = random.Random(seed)
    agents = [address(0, start=start) for start in range(0, 100, 10)]
    for n in range(count):
        record = mutated(seal(body(chance.choice(agents), {"n": n})), chance)
        headers = {**MINE, **(PLAIN if chance.random() < 0.1 else {})}
        fleet.put(record, headers=headers, key=chance.choice(agents).encode())
    fleet.put(seal(body("Ledger/last", {"n": 1})), partition=partition_of("Ledger/last", PARTITIONS))
    fleet.flush()
    fleet.until_handled()
    assert fleet.state("Ledger/last").entries == [1]
    done = sum(fleet.state("Sink/all").counts.values()) - 1
    # A mutation may ask for a reply that goes to an agent, which does not know what to do with it: not one of ours.
    mine = [
        letter.content for letter in fleet.letters() if any(header.key in MINE for header in letter.content.headers)
    ]
    reasons = Counter(letter.reason for letter in mine)
    assert len({letter.offset for letter in mine}) == len(mine), "one letter for each"
    assert done + len(mine) == count, reasons
    assert done > count // 10, "most of what is whole is handled"
    assert len(reasons) >= 5, reasons


def mutated(record: bytes, chance: random.Random) -> bytes:
    """The record as it is, or damaged: random bytes, bits flipped, cut, or changed and sealed anew."""
    data = bytearray(record)
    match chance.randrange(6):
        case 0:
            return chance.randbytes(chance.randrange(200))
        case 1:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        case 2:
            del data[chance.randrange(len(data)) :]
        case 3:
            del data[-5:]
            for _ in range(chance.randrange(1, 4)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            return seal(bytes(data))
        case 4:
            return seal(chance.randbytes(chance.randrange(100)))
    return bytes(data)
