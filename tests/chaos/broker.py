"""A Kafka of the run's own, which it may kill, freeze and start again."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from rookery.ops.servers import addresses, local_kafka, process
from rookery.ops.servers.lifecycle import HOME
from rookery.ops.servers.process import Identity, Record

START_SECONDS = 90.0
PROPERTIES = local_kafka._PROPERTIES


class Broker:
    """One Kafka process and its folder."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address = address
        self._folder = folder
        self._process = self._found()
        self._command = self._process.cmdline()

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
        child = process.start(self._folder, self._command, detached=False)
        process.wait_until(lambda: self.answers, child, self._folder, START_SECONDS)
        self._process = self._found()

    def freeze(self) -> None:
        """SIGSTOP."""
        self._process.suspend()

    def thaw(self) -> None:
        """SIGCONT."""
        self._process.resume()


@contextmanager
def own_broker(progress: Callable[[str], object], home: Path = HOME) -> Iterator[Broker]:
    """A broker for the block; its data goes with it. Call it from the main thread."""
    home = home.absolute()
    folder = process.new_folder(home, "kafka", detached=False, progress=progress)
    try:
        # The log cleaner looks for work every 15 s by default, and a run may be as short as that.
        local_kafka._PROPERTIES = f"{PROPERTIES}log.cleaner.backoff.ms=1000\n"  # type: ignore[misc]
        address = local_kafka.start_kafka(folder, home, detached=False, progress=progress)
        yield Broker(address, folder)
    finally:
        server = Record.read(folder).server
        if server is not None:
            _thaw(server)
            process.end(server, grace=0.0)
        shutil.rmtree(folder, ignore_errors=True)


def _thaw(server: Identity) -> None:
    found = server.process()
    if found is not None:
        found.resume()
