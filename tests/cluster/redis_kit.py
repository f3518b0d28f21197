"""Real Redis servers that a test may stop, freeze, restart and promote, and a proxy that loses replies."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from functools import cache
from pathlib import Path
from types import coroutine
from typing import Any

import pytest
import redis

from rookery.ops.locks import LockService
from rookery.ops.locks.connect import connect
from rookery.ops.servers.local_redis import bundled_redis, find_redis
from rookery.ops.servers.process import launch
from tests.programs import Program

FAKETIME = next((str(path) for path in Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), "")


@cache
def redis_under_faketime() -> str | None:
    """A redis-server that runs with libfaketime: one that is linked with jemalloc may hang before it starts."""
    for binary in (bundled_redis(), shutil.which("redis-server")):
        if FAKETIME and binary:
            with contextlib.suppress(subprocess.TimeoutExpired):
                tried = subprocess.run(
                    [binary, "--version"], env={"LD_PRELOAD": FAKETIME}, capture_output=True, timeout=5, check=False
                )
                if tried.returncode == 0:
                    return binary
    return None


needs_a_clock = pytest.mark.skipif(
    not redis_under_faketime(), reason="no libfaketime (apt-get install libfaketime), or no redis-server runs with it"
)


class Clock:
    """The wall clock of servers that are started with `options`; their monotonic clocks go on as ever."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.set(0)
        environment = {
            "LD_PRELOAD": FAKETIME,
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.options: dict[str, Any] = {"environment": environment, "binary": redis_under_faketime()}

    def set(self, offset: int) -> None:
        """Seconds ahead of the real clock."""
        partial = self._file.with_suffix(".new")
        partial.write_text(f"{offset:+d}")
        partial.replace(self._file)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


class RedisServer:
    """One redis-server in a folder of its own; `options` as on its command line."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        port: int = 0,
        environment: dict[str, str] | None = None,
        binary: str | None = None,
    ) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        self._options = options
        self._environment = environment
        self._binary = binary or find_redis()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, *options: str) -> None:
        """Start it; `options` for this once."""
        command = [self._binary, *self._options, *options, "--bind", "127.0.0.1", "--port", str(self.port)]
        if "--sentinel" not in self._options:
            command += ["--save", "", "--appendonly", "no"]
        command += ["--dir", str(self.folder)]
        with (self.folder / "server.log").open("ab") as log:
            self._process = launch(
                command,
                dies_with_us=signal.SIGKILL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(self._environment or {})},
            )
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(redis.ConnectionError), self.admin() as client:
                client.ping()
                return
            assert time.monotonic() < deadline, (self.folder / "server.log").read_text()
            time.sleep(0.02)

    def admin(self) -> redis.Redis:
        return redis.Redis(port=self.port, socket_timeout=10)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def flush(self) -> None:
        """Forget everything, at once and for all."""
        with self.admin() as client:
            client.flushall()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def restart(self) -> None:
        """Stop and start it: it has forgotten everything."""
        self.stop()
        self.start()


class Proxy:
    """Hands bytes on to a Redis; `lose` replies are swallowed, each with its connection."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.lose = 0
        self.lost = 0
        self.port = 0

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_redis, to_redis = await asyncio.open_connection("127.0.0.1", self._target)
        pumps = [
            asyncio.create_task(self._pump(reader, to_redis, replies=False)),
            asyncio.create_task(self._pump(from_redis, writer, replies=True)),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        for end in (to_redis, writer):
            end.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, replies: bool) -> None:
        while data := await source.read(65_536):
            if replies and self.lose:
                self.lose -= 1
                self.lost += 1
                return
            sink.write(data)
            await sink.drain()


class Tokens:
    """A source of tokens for tests of one process; several may share what was given."""

    def __init__(self) -> None:
        self.given: list[int] = []

    async def __call__(self, name: str, holder: str) -> int:
        await asyncio.sleep(0)
        self.given.append(len(self.given) + 1)
        return self.given[-1]


@contextlib.asynccontextmanager
async def locks_of(url: str, timeout: float = 1.0) -> AsyncIterator[tuple[Any, LockService, Tokens]]:
    """A client, its lock service and a source of tokens, all closed at the end."""
    from rookery.ops.locks import service

    client = connect(url, timeout)
    found = service.find(client, "the test")
    found.fence = tokens = Tokens()
    try:
        yield client, found, tokens
    finally:
        await found.close()
        await client.aclose()


@coroutine
def cancelled_at(work: Coroutine[Any, Any, Any], number: int, reached: list[int]) -> Generator[Any, Any, Any]:
    """Run `work` and cancel the task that runs it when it waits for the `number`th time (from 0)."""
    error: BaseException | None = None
    for count in itertools.count():
        try:
            waits_for = work.send(None) if error is None else work.throw(error)
        except StopIteration as end:
            return end.value
        error = None
        if count == number:
            reached.append(number)
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        try:
            yield waits_for
        except BaseException as thrown:
            error = thrown


async def eventually(holds: Callable[[], Awaitable[bool]], seconds: float = 10.0) -> None:
    """Return once it holds; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not await holds():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.01)


def servers(folder: Path) -> Generator[Callable[..., RedisServer], None, None]:
    """For a fixture: a function that starts servers, all of which are gone at the end."""
    started: list[RedisServer] = []

    def start(*options: str, **more: Any) -> RedisServer:
        server = RedisServer(folder / f"redis-{len(started)}", *options, **more)
        started.append(server)
        return server

    try:
        yield start
    finally:
        for server in started:
            server.stop()


class SentinelKit:
    """A primary, a replica and a Sentinel that promotes the replica when the primary is gone for a second.

    But only while `fail_over` runs: a machine that stands still for a second looks the same to the Sentinel.
    """

    _IMPATIENT, _PATIENT = 1_000, 600_000  # milliseconds

    def __init__(self, start: Callable[..., RedisServer], folder: Path) -> None:
        self.nodes = [start(), start()]
        with self.nodes[1].admin() as replica:
            replica.replicaof("127.0.0.1", self.nodes[0].port)
        self._wait(lambda: self._linked(self.nodes[1]), "the replica never linked")
        config = folder / "sentinel.conf"
        config.write_text(
            f"sentinel monitor main 127.0.0.1 {self.nodes[0].port} 1\n"
            f"sentinel down-after-milliseconds main {self._PATIENT}\nsentinel failover-timeout main 10000\n"
        )
        self.sentinel = start(str(config), "--sentinel")
        self._wait(lambda: self.primary is self.nodes[0] and self._replicas() == 1, "the Sentinel sees no replica")

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.sentinel.port}/main"

    @property
    def primary(self) -> RedisServer:
        """Whom the Sentinel names."""
        with self.sentinel.admin() as client:
            port = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")[1]
        return next(node for node in self.nodes if node.port == int(port))

    def fail_over(self) -> None:
        """Kill the primary while the replica is behind, wait for the new one, and bring the old one back as replica.

        Left to itself the old one comes back as a primary, and the Sentinel makes a replica of it after 8 s; a Sentinel
        whose machine once stood still for 2 s does nothing at all for half a minute.
        """
        old = self.primary
        new = next(node for node in self.nodes if node is not old)
        new.signal(signal.SIGSTOP)  # what is acknowledged from here on is lost
        time.sleep(0.3)
        old.stop()
        new.signal(signal.SIGCONT)
        self._down_after(self._IMPATIENT)
        self._wait(lambda: self.primary is new and self._role(new) == "master", "there was no failover", 60)
        self._down_after(self._PATIENT)  # while there is none to promote: else a slow machine has the old one back
        old.start("--replicaof", "127.0.0.1", str(new.port))
        self._wait(lambda: self._role(old) == "slave" and self._linked(old), "the old one never followed", 60)
        assert self.primary is new

    def _down_after(self, milliseconds: int) -> None:
        with self.sentinel.admin() as client:
            client.execute_command("SENTINEL", "SET", "main", "down-after-milliseconds", milliseconds)

    def _replicas(self) -> int:
        with self.sentinel.admin() as client:
            return int(client.info("sentinel")["master0"]["slaves"])

    @staticmethod
    def _role(node: RedisServer) -> str:
        with node.admin() as client:
            return str(client.info("replication")["role"])

    @staticmethod
    def _linked(node: RedisServer) -> bool:
        with node.admin() as client:
            return bool(client.info("replication").get("master_link_status") == "up")

    @staticmethod
    def _wait(holds: Callable[[], bool], complaint: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, complaint
            time.sleep(0.05)


@contextlib.contextmanager
def locking_worker(app_id: str, broker: str, redis_url: str, log: Path) -> Iterator[None]:
    """A worker of locking_app; it must end well."""
    variables = {"ROOKERY_BROKER": broker, "ROOKERY_APP_ID": app_id, "ROOKERY_REDIS_URL": redis_url}
    words = ("faust", "-A", "tests.cluster.locking_app", "worker", "-l", "info")
    process = Program(*words, cwd=Path(__file__).parents[2], env={**os.environ, **variables}, log=log)
    try:
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0, log.read_text()[-3000:]
    finally:
        process.kill()
        process.wait()
