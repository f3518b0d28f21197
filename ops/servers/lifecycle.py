"""The one decision: which servers are borrowed, which are started, and that the started ones end with us."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from rookery.ops.servers import addresses, process
from rookery.ops.servers.local_kafka import start_kafka
from rookery.ops.servers.local_redis import start_redis
from rookery.ops.servers.process import Progress, Record, ServersError

HOME: Final = Path(".rookery")
"""Where everything local lives: relative to the current directory, ignored by git."""
STOP_GRACE: Final = 15.0
"""Seconds a server of ``up`` gets to stop by itself; those of ``ensure`` are killed, their data is removed anyway."""


@dataclass(frozen=True)
class Servers:
    """Addresses of the servers that were asked for: ``host:port`` and ``redis://...``, empty if not asked for."""

    broker: str = ""
    redis_url: str = ""

    def environ(self) -> dict[str, str]:
        """Return the variables by which other processes find the same servers."""
        both = {"ROOKERY_BROKER": self.broker, "REDIS_URL": self.redis_url}
        return {name: value for name, value in both.items() if value}


@contextlib.contextmanager
def ensure(
    *, kafka: bool = True, redis: bool = False, progress: Progress | None = None, home: Path = HOME
) -> Iterator[Servers]:
    """Provide the servers asked for while the block runs.

    Borrowed: an address in ROOKERY_BROKER, else BUS_ADDRESS, else KAFKA_BOOTSTRAP_SERVERS (for Redis:
    ROOKERY_REDIS_URL, else REDIS_URL), else one that ``make up`` wrote and that answers. What is then missing is
    started and ends with the block. In the main thread SIGTERM and SIGHUP end the block too, by SystemExit, unless
    the program handles them itself. Call it from the main thread: only there can the kernel tie a server's life to
    ours.

    Args:
        progress: called with one line of text at a time; the default prints to standard error.
        home: the folder for data and downloads.

    Raises:
        ServersError: a given server does not answer, or a local one can't be started; the message says what to do.
    """
    home = home.absolute()
    say = progress or _to_stderr
    with contextlib.ExitStack() as stack:
        stack.enter_context(_signals_exit())
        broker = borrowed_broker(home) if kafka else ""
        if broker is None:
            folder = stack.enter_context(_own_folder(home, "kafka", say))
            broker = start_kafka(folder, home, detached=False, progress=say)
        redis_url = borrowed_redis(home) if redis else ""
        if redis_url is None:
            folder = stack.enter_context(_own_folder(home, "redis", say))
            redis_url = start_redis(folder, detached=False, progress=say)
        yield Servers(broker, redis_url)


def borrowed_broker(home: Path) -> str | None:
    """Return the address of a broker that is given or up already, None if one has to be started.

    Raises:
        ServersError: one is given but can't be reached.
    """
    return _borrowed(home, "broker", addresses.BROKER_VARIABLES, 9092, addresses.kafka_answers, addresses.bootstrap)


def borrowed_redis(home: Path) -> str | None:
    """Return the URL of a Redis that is given or up already, None if one has to be started.

    Raises:
        ServersError: one is given but can't be reached.
    """
    return _borrowed(home, "redis_url", addresses.REDIS_VARIABLES, 6379, addresses.redis_answers, str)


def up(*, kafka: bool, redis: bool, progress: Progress, home: Path = HOME) -> Servers:
    """Start servers that stay until ``down``, and write their addresses to ``servers.json``. Those that run stay.

    Raises:
        ServersError: one can't be started; the message says what to do.
    """
    home = home.absolute()
    known = addresses.written(home / "servers.json")
    broker, redis_url = known.get("broker", ""), known.get("redis_url", "")
    if kafka and not (broker and addresses.kafka_answers(broker)):
        with _kept_folder(home, "kafka", progress) as folder:
            broker = start_kafka(folder, home, detached=True, progress=progress)
        _write(home, Servers(broker, redis_url))
    if redis and not (redis_url and addresses.redis_answers(redis_url)):
        with _kept_folder(home, "redis", progress) as folder:
            redis_url = start_redis(folder, detached=True, progress=progress)
        _write(home, Servers(broker, redis_url))
    return Servers(broker, redis_url)


def down(*, progress: Progress, home: Path = HOME) -> int:
    """End the servers that ``up`` started, remove their data, and return how many there were.

    Servers of a running ``ensure`` belong to it and are left alone; those of a crashed one are ended too.
    """
    home = home.absolute()
    ended = 0
    with process.locked(home) as servers:
        (home / "servers.json").unlink(missing_ok=True)
        for folder in sorted(path for path in servers.iterdir() if path.is_dir()):
            record = Record.read(folder)
            if record.owner is None and record.server is not None:
                if record.server.process() is not None:
                    progress(f"stopping {folder.name}, pid {record.server.pid}")
                    process.end(record.server, STOP_GRACE)
                    ended += 1
                shutil.rmtree(folder, ignore_errors=True)
        process.sweep(servers, progress)
    return ended


def _borrowed(
    home: Path,
    name: str,
    variables: tuple[str, ...],
    port: int,
    answers: Callable[[str], bool],
    clean: Callable[[str], str],
) -> str | None:
    if found := addresses.given(variables):
        variable, address = found[0], clean(found[1])
        try:
            if address.startswith("unix://") or addresses.reachable(address, port):
                return address
        except ValueError as error:
            raise ServersError(f"{variable} is no address ({error}): correct or unset it") from None
        raise ServersError(f"nothing answers at the address in {variable}: start it, correct it, or unset {variable}")
    known = addresses.written(home / "servers.json").get(name)
    return known if known and answers(known) else None


@contextlib.contextmanager
def _own_folder(home: Path, name: str, progress: Progress) -> Iterator[Path]:
    folder = process.new_folder(home, name, detached=False, progress=progress)
    try:
        yield folder
    finally:
        process.discard(folder)


@contextlib.contextmanager
def _kept_folder(home: Path, name: str, progress: Progress) -> Iterator[Path]:
    folder = process.new_folder(home, name, detached=True, progress=progress)
    try:
        yield folder
    except BaseException:
        process.discard(folder)
        raise


@contextlib.contextmanager
def _signals_exit() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit, where nobody else handles them, so that ``finally`` blocks run."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    ours = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in ours:
            if signal.getsignal(number) is leave:
                signal.signal(number, signal.SIG_DFL)


def _write(home: Path, servers: Servers) -> None:
    partial = home / f"servers.json.{os.getpid()}"
    partial.write_text(json.dumps({"broker": servers.broker, "redis_url": servers.redis_url}) + "\n")
    partial.replace(home / "servers.json")


def _to_stderr(line: str) -> None:
    print(f"servers: {line}", file=sys.stderr, flush=True)
