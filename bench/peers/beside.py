"""The same turns elsewhere: other stream processors beside ours, interleaved, over one prefilled topic.

A peer counts the records of each key in a store with a changelog and sends a reply for each; it decodes no envelope,
checks nothing, and keeps no message apart. Each runs with its exactly-once mode, too, where it has one that works.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import NewTopic

from bench.harness import Figures, Harness, Measure, Skipped, Void, say
from bench.peers.settings import FAUST_STOCK, FAUST_TUNED, QUIX_VERSION
from bench.processes import program
from bench.turns import PARTITIONS, durable, prefilled, raw
from rookery.streams.kafka import topics

HOME = Path(".rookery/peers").absolute()
KSTREAMS = Path(__file__).parent / "kstreams"
RECORDS = 900_000
"""In the topic; a slow peer takes fewer of them, as many as last about five seconds."""

TITLES = {
    "raw_confluent": "Raw loop with confluent-kafka",
    "faust_stock": "Faust, stock",
    "faust_tuned": "Faust, tuned",
    "quix_at_least_once": "Quix Streams, at least once",
    "quix_exactly_once": "Quix Streams, exactly once",
    "kstreams_at_least_once": "Kafka Streams, at least once",
    "kstreams_exactly_once_v2": "Kafka Streams, exactly once",
}

Command = Callable[[str, str, str, int, str], tuple[list[str], dict[str, str]]]
"""Source, replies, id, count, folder: the command, and its environment."""


async def _peer(h: Harness, source: str, count: int, command: Command) -> Figures:
    """One run of a peer; Void unless the last reply of every key adds up to `count`."""
    app_id = f"peer-{uuid.uuid4().hex[:8]}"
    replies = f"{app_id}-replies"
    kafka = {"bootstrap_servers": h.broker}
    async with topics.admin(kafka) as admin:
        await admin.create_topics([NewTopic(replies, PARTITIONS, 1)])
        await asyncio.sleep(1)  # until it has leaders
        try:
            with tempfile.TemporaryDirectory() as folder:
                words, environment = command(source, replies, app_id, count, folder)
                async with program(words, **environment) as running:
                    figures = await running.result()
            total = await _total(h.broker, replies)
            if total < count:
                raise Void(f"replies add up to {total} of {count} messages: {' '.join(words[:4])}")
        finally:
            theirs = [name for name in await admin.list_topics() if app_id in name]
            await admin.delete_topics(theirs)
    return figures


async def _total(broker: str, topic: str) -> int:
    """The sum over all keys of the last count that was replied."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=broker, auto_offset_reset="earliest", enable_auto_commit=False,
        isolation_level="read_committed",
    )  # fmt: skip
    await consumer.start()
    last: dict[bytes, int] = {}
    try:
        places = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        while fetched := await consumer.getmany(timeout_ms=2_000, max_records=10_000):
            for records in fetched.values():
                last.update((record.key, int(record.value.split()[0])) for record in records)
    finally:
        await consumer.stop()
    return sum(last.values())


def faust(h: Harness, tuned: bool) -> Command:
    """Plain Faust, as it comes or tuned."""

    def command(source: str, replies: str, app_id: str, count: int, _: str) -> tuple[list[str], dict[str, str]]:
        words = [sys.executable, "-m", "faust", "-A", "bench.peers.faust_worker", "worker", "-l", "info"]
        return [*words, "--without-web"], {
            "PEER_BROKER": h.broker,
            "PEER_SOURCE": source,
            "PEER_REPLIES": replies,
            "PEER_APP_ID": app_id,
            "PEER_COUNT": str(count),
            "PEER_TUNED": "1" if tuned else "0",
        }

    return command


def quix(h: Harness, guarantee: str) -> Command:
    """Quix Streams, from an environment of its own."""
    python = HOME / "quix" / "bin" / "python"
    worker = Path(__file__).parent / "quix_worker.py"

    def command(source: str, replies: str, app_id: str, count: int, folder: str) -> tuple[list[str], dict[str, str]]:
        return [str(python), str(worker), h.broker, source, replies, app_id, str(count), guarantee, folder], {}

    return command


def kstreams(h: Harness, guarantee: str) -> Command:
    """Kafka Streams, built by Maven."""
    classes = f"{KSTREAMS / 'target' / 'classes'}:{KSTREAMS / 'target' / 'lib'}/*"

    def command(source: str, replies: str, app_id: str, count: int, folder: str) -> tuple[list[str], dict[str, str]]:
        words = ["java", "-Xmx1g", "-cp", classes, "bench.Turns", h.broker, source, replies, app_id, str(count)]
        return [*words, guarantee, folder], {}

    return command


def build_quix() -> None:
    """Install it once. Raises Skipped."""
    if not (HOME / "quix" / "bin" / "python").exists():
        _build([sys.executable, "-m", "venv", str(HOME / "quix")])
    _build([str(HOME / "quix" / "bin" / "pip"), "install", "-q", f"quixstreams=={QUIX_VERSION}"])


def build_kstreams() -> None:
    """Build it once. Raises Skipped."""
    for tool in ("java", "javac", "mvn"):
        if not shutil.which(tool):
            raise Skipped(f"{tool} is missing")
    if not (KSTREAMS / "target" / "lib").exists():
        verbs = ["package", "dependency:copy-dependencies", "-DoutputDirectory=target/lib"]
        _build(["mvn", "-B", "-q", "-f", str(KSTREAMS / "pom.xml"), *verbs])


def _build(command: list[str]) -> None:
    HOME.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=600)
    except (OSError, subprocess.SubprocessError) as error:
        raise Skipped(f"`{' '.join(command[:4])} ...` failed: {error}") from None


async def peers(h: Harness) -> None:
    """Raw confluent-kafka, stock and tuned Faust, Quix Streams and Kafka Streams beside ours."""
    say(f"  Faust stock: {FAUST_STOCK}\n  Faust tuned: {FAUST_TUNED}")
    full = h.count(RECORDS)
    async with prefilled(h, full) as names:
        source = names[0]
        ways: dict[str, Measure] = {
            "durable": partial(durable, h, full),
            "raw_confluent": partial(raw, h, "bench.peers.raw_confluent", names, full),
            "faust_stock": partial(_peer, h, source, h.count(10_000), faust(h, False)),
            "faust_tuned": partial(_peer, h, source, h.count(20_000), faust(h, True)),
        }
        for build, found in (
            (build_quix, {f"quix_{mode}": (mode, quix) for mode in ("at-least-once", "exactly-once")}),
            (build_kstreams, {f"kstreams_{mode}": (mode, kstreams) for mode in ("at_least_once", "exactly_once_v2")}),
        ):
            try:
                await asyncio.to_thread(build)
            except Skipped as why:
                say(f"  without {' and '.join(found)}: {why}")
                continue
            for name, (mode, command) in found.items():
                count = full if command is kstreams else h.count(200_000)
                ways[name.replace("-", "_")] = partial(_peer, h, source, count, command(h, mode))
        runs = await h.interleaved(ways)
    ours = runs.pop("durable")
    h.ratios("durable_turn_vs_tuned_faust", ours, runs["faust_tuned"], "per_s")
    if eos := runs.get("kstreams_exactly_once_v2"):
        h.ratios("durable_turn_vs_kstreams_eos", ours, eos, "per_s")
    for name, found_runs in runs.items():
        cpu = statistics.median(run["cpu_us"] for run in found_runs)
        h.record(f"{name}_per_s", [run["per_s"] for run in found_runs], cpu_us=round(cpu, 2))
