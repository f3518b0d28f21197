"""Brokers of the run's own, which it may kill, freeze and start again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from rookery.ops.servers import addresses, local_kafka, process
from rookery.ops.servers.lifecycle import HOME
from rookery.ops.servers.process import Identity, Record

START_SECONDS = 90.0


class Broker:
    """One Kafka process and its folder."""

    def __init__(self, address: str, folder: Path, command: list[str]) -> None:
        self.address = address
        self._folder = folder
        self._command = command
        self._process = self._found()

    def _found(self) -> psutil.Process:
        server = Record.read(self._folder).server
        found = server.process() if server else None
        if found is None:
            raise process.ServersError(f"Kafka in {self._folder} has ended:\n{process.log_end(self._folder)}")
        return found

    @property
    def answers(self) -> bool:
        """Whether it takes requests."""
        return addresses.kafka_answers(self.address)

    def end(self, kill: bool) -> None:
        """SIGKILL, or SIGTERM and up to 30 s."""
        self._process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            self._process.wait(30)
        except psutil.TimeoutExpired:
            self._process.kill()
            self._process.wait(30)

    def start(self) -> None:
        """Start it again on its data and port; returns once it answers."""
        self.wait(process.start(self._folder, self._command, detached=False))

    def wait(self, child: subprocess.Popen[bytes]) -> None:
        """Wait until it answers."""
        process.wait_until(lambda: self.answers, child, self._folder, START_SECONDS)
        self._process = self._found()

    def freeze(self) -> None:
        """SIGSTOP."""
        self._process.suspend()

    def thaw(self) -> None:
        """SIGCONT."""
        self._process.resume()


@contextmanager
def own_brokers(progress: Callable[[str], object], count: int = 1, home: Path = HOME) -> Iterator[list[Broker]]:
    """Brokers for the block, one or a cluster; their data goes with them. Call it from the main thread."""
    home = home.absolute()
    java, jars = local_kafka.find_java(), local_kafka.find_jars(home / "kafka", progress)
    run = [java, *local_kafka._HEAP, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", os.pathsep.join(jars)]
    folders = [process.new_folder(home, "kafka", detached=False, progress=progress) for _ in range(count)]
    try:
        addresses = _configure(folders)
        for folder in folders:
            _format(run, folder)
        commands = [[*run, "kafka.Kafka", str(folder / "server.properties")] for folder in folders]
        children = [
            process.start(folder, command, detached=False) for folder, command in zip(folders, commands, strict=True)
        ]
        brokers = [Broker(*each) for each in zip(addresses, folders, commands, strict=True)]
        for broker, child in zip(brokers, children, strict=True):
            broker.wait(child)
        yield brokers
    finally:
        for folder in folders:
            server = Record.read(folder).server
            if server is not None:
                _thaw(server)
                process.end(server, grace=0.0)
            shutil.rmtree(folder, ignore_errors=True)


def _configure(folders: Sequence[Path]) -> list[str]:
    """Write the configuration of each node and return their addresses."""
    ports = _free_ports(2 * len(folders))
    voters = ",".join(f"{n}@127.0.0.1:{port}" for n, port in enumerate(ports[len(folders) :], start=1))
    copies, least = (3, 2) if len(folders) >= 3 else (1, 1)
    for n, (folder, port, controller) in enumerate(zip(folders, ports, ports[len(folders) :], strict=False), start=1):
        text = local_kafka._PROPERTIES.format(port=port, controller=controller, data=folder / "data")
        text = text.replace("node.id=1\n", f"node.id={n}\n").replace(
            "replication.factor=1", f"replication.factor={copies}"
        )
        text = text.replace("min.isr=1", f"min.isr={least}").replace(
            f"controller.quorum.bootstrap.servers=127.0.0.1:{controller}", f"controller.quorum.voters={voters}"
        )
        # The log cleaner looks for work every 15 s by default, and a run may be as short as that.
        (folder / "server.properties").write_text(f"{text}log.cleaner.backoff.ms=1000\n")
    return [f"127.0.0.1:{port}" for port in ports[: len(folders)]]


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:  # all open at once, so that they differ
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in listeners]


def _format(run: list[str], folder: Path) -> None:
    arguments = ["format", "--cluster-id", "Um9va2VyeVJvb2tlcnlSbw", "--config", str(folder / "server.properties")]
    with (folder / "server.log").open("ab") as log:
        subprocess.run([*run, "kafka.tools.StorageTool", *arguments], stdout=log, stderr=log, timeout=90, check=True)


def _thaw(server: Identity) -> None:
    found = server.process()
    if found is not None:
        found.resume()
