"""Child processes that never outlive what they serve.

Every local server has a folder of its own below ``.rookery/servers`` with a ``process.json`` that names the server and
its owner, each by pid *and* start time, since pids are used again. A server dies with its owner; where the kernel
cannot promise that, the next start finds the record of a dead owner and ends what it left.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import psutil

from rookery.schemas.errors import RookeryError

Progress = Callable[[str], object]
RECORD: Final = "process.json"
START_TIME_SLACK: Final = 2.0
"""Seconds two readings of one start time may differ (it is derived from the wall clock)."""

# Run in a fresh interpreter that becomes the command, because code between fork and exec is not safe once there are
# threads. PR_SET_PDEATHSIG (1) survives the exec; the owner may have died before it was set.
_LAUNCHER: Final = """
import signal
signal.signal(signal.SIGINT, signal.SIG_DFL)
import ctypes, os, sys
owner, number, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
if number and sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, number, 0, 0, 0)
    if os.getppid() != owner:
        sys.exit("the process that asked for this one is gone")
try:
    os.execvp(command[0], command)
except OSError as error:
    sys.exit(f"{command[0]}: {error.strerror}")
"""


# Python would warn of a child that runs on after its Popen object is gone; a process starts a few servers at most.
_STARTED: Final[list[subprocess.Popen[bytes]]] = []


class ServersError(RookeryError):
    """A server is needed and can't be had; the message says what to set or install."""

    reason = "no-servers"


@dataclass(frozen=True)
class Identity:
    """A process for good: a pid alone may already mean another one."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> Identity:
        """Identify a running process. Raises psutil.NoSuchProcess if there is none."""
        return cls(pid, psutil.Process(pid).create_time())

    def process(self) -> psutil.Process | None:
        """Return the process if it is still this one and still runs."""
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            return process if abs(process.create_time() - self.started) < START_TIME_SLACK else None
        except psutil.Error:
            return None


@dataclass(frozen=True)
class Record:
    """What ``process.json`` says: who owns the folder (nobody, if it was left running on purpose), who serves in it."""

    owner: Identity | None
    server: Identity | None

    def write(self, folder: Path) -> None:
        """Write the record so that a reader sees the old or the new one, never half of it."""
        partial = folder / f"{RECORD}.new"
        partial.write_text(json.dumps(asdict(self)))
        partial.replace(folder / RECORD)

    @classmethod
    def read(cls, folder: Path) -> Record:
        """Read the record of a folder; a missing or broken one names nobody."""
        try:
            content = json.loads((folder / RECORD).read_text())
            owner, server = (Identity(**who) if (who := content[name]) else None for name in ("owner", "server"))
        except (OSError, ValueError, TypeError, KeyError):
            return cls(None, None)
        return cls(owner, server)


def launch(command: list[str], *, dies_with_us: signal.Signals | None, **options: object) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own; where the kernel can, it gets ``dies_with_us`` when we die.

    The kernel ties it to the *thread* that starts it, so the tie is made in the main thread only.
    """
    tie = dies_with_us if threading.current_thread() is threading.main_thread() else None
    arguments = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(psutil.Process().pid), str(int(tie or 0)), *command]
    return subprocess.Popen(arguments, start_new_session=True, **options)  # type: ignore[call-overload, no-any-return]


def end(server: Identity, grace: float) -> None:
    """End a server: SIGTERM, up to ``grace`` seconds, then SIGKILL. A grace of 0 kills at once."""
    process = server.process()
    if process is None:
        _forget(server)
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        try:
            if grace > 0:
                process.terminate()
                process.wait(grace)
        except psutil.TimeoutExpired:
            pass
        finally:  # also when an impatient second Ctrl-C cuts the wait short
            if server.process() is not None:
                process.kill()
        with contextlib.suppress(psutil.TimeoutExpired):
            process.wait(10.0)
    _forget(server)


def _forget(server: Identity) -> None:
    """Let go of the Popen object of a child of ours that has ended."""
    _STARTED[:] = [child for child in _STARTED if child.pid != server.pid or child.poll() is None]


@contextlib.contextmanager
def locked(home: Path) -> Iterator[Path]:
    """Hold the folder of all servers against other starts and sweeps; yields that folder."""
    folder = home / "servers"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def new_folder(home: Path, name: str, *, detached: bool, progress: Progress) -> Path:
    """Make the folder of one server and record its owner (us, unless detached), after sweeping what others left."""
    with locked(home) as servers:
        sweep(servers, progress)
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=servers))
        Record(None if detached else Identity.of(psutil.Process().pid), None).write(folder)
    return folder


def sweep(servers: Path, progress: Progress) -> None:
    """End servers whose owner died without ending them, and remove the folders of servers that run no more."""
    for folder in sorted(path for path in servers.iterdir() if path.is_dir()):
        record = Record.read(folder)
        if record.owner is not None and record.owner.process() is not None:
            continue
        runs = record.server is not None and record.server.process() is not None
        if record.owner is None and runs:
            continue
        if record.owner is None and record.server is None and time.time() - folder.stat().st_mtime < 300:
            continue  # `up` is starting it just now
        if record.server is not None and runs:
            progress(f"ending {folder.name}, pid {record.server.pid}, left by a run that crashed")
            end(record.server, grace=0.0)
        shutil.rmtree(folder, ignore_errors=True)


def discard(folder: Path) -> None:
    """Kill the server of a folder, if it runs, and remove both."""
    server = Record.read(folder).server
    if server is not None:
        end(server, grace=0.0)
    shutil.rmtree(folder, ignore_errors=True)


def start(folder: Path, command: list[str], *, detached: bool) -> subprocess.Popen[bytes]:
    """Start a server that logs to ``server.log`` in its folder, and record it there."""
    with (folder / "server.log").open("ab") as log:
        tie = None if detached else signal.SIGKILL
        child = launch(command, dies_with_us=tie, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder)
    Record(Record.read(folder).owner, Identity.of(child.pid)).write(folder)
    _STARTED.append(child)
    return child


def wait_until(answers: Callable[[], bool], child: subprocess.Popen[bytes], folder: Path, seconds: float) -> None:
    """Wait until a server answers.

    Raises:
        ServersError: it ended, or did not answer in time; the message carries the end of its log.
    """
    deadline = time.monotonic() + seconds
    while not answers():
        if child.poll() is not None:
            raise ServersError(f"{folder.name} ended with code {child.returncode}:\n{log_end(folder)}")
        if time.monotonic() > deadline:
            raise ServersError(f"{folder.name} did not answer within {seconds:.0f} s:\n{log_end(folder)}")
        time.sleep(0.05)


def log_end(folder: Path, lines: int = 15) -> str:
    """Return the last lines of a server's log."""
    try:
        return "\n".join((folder / "server.log").read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(no log)"
