"""The workers of a run, real `faust worker` processes, and what they say of themselves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rookery.ops.servers.process import launch

ROOT = Path(__file__).parents[2]
# A worker that was told to stop has so long to drain; seconds.
STOP_SECONDS = 60.0


class Worker:
    """One place for a worker: processes come and go in it, log and lines stay."""

    def __init__(self, name: str, folder: Path, env: dict[str, str]) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._arm_file = folder / f"{name}.arm"
        self._lines = folder / f"{name}.jsonl"
        self._last: dict[int, dict[str, Any]] = {}
        self._read_to = 0
        self._env = {**os.environ, **env, "CHAOS_FOLDER": str(folder), "CHAOS_WORKER": name}
        self.process: subprocess.Popen[bytes] | None = None
        self.frozen = False

    @property
    def pid(self) -> int:
        """Of the process that runs or ran last."""
        return self.process.pid if self.process else 0

    @property
    def alive(self) -> bool:
        """Whether its process has not ended."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start a process. Call it from the main thread: the kernel then ends it if this process is killed."""
        command = [sys.executable, "-m", "faust", "-A", "tests.chaos.app", "worker", "-l", "info"]
        with self.log.open("ab") as out:
            self.process = launch(
                command, dies_with_us=signal.SIGKILL, env=self._env, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out,
                stderr=out,
            )  # fmt: skip

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self.alive:
            self.frozen = number == signal.SIGSTOP
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def arm(self, do: str, point: str = "", after: float = 1) -> None:
        """Arm a failpoint; see `failpoints`."""
        partial = self._arm_file.with_suffix(".new")
        partial.write_text(json.dumps({"do": do, "point": point, "after": after}))
        partial.replace(self._arm_file)

    def disarm(self) -> bool:
        """Take back what was armed; False if it was taken up already."""
        try:
            self._arm_file.unlink()
        except FileNotFoundError:
            return False
        return True

    @property
    def last(self) -> dict[int, dict[str, Any]]:
        """The last line that each of its processes wrote, by pid; `lag` is the largest of all its lines."""
        with contextlib.suppress(FileNotFoundError), self._lines.open("rb") as file:
            file.seek(self._read_to)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # not written to its end yet
                self._read_to += len(line)
                with contextlib.suppress(ValueError):  # a killed process may leave half a line
                    found = json.loads(line)
                    lag = self._last.get(found["pid"], {}).get("lag", 0.0)
                    self._last[found["pid"]] = {**found, "lag": max(found["lag"], lag)}
        return self._last

    def now(self, pid: int | None = None) -> dict[str, Any]:
        """The last line of a process, by default of the present one; empty before the first."""
        return self.last.get(pid or self.pid, {})


class Fleet:
    """All workers."""

    def __init__(self, folder: Path, env: Callable[[str], dict[str, str]], names: Iterable[str]) -> None:
        """`env` gives a worker's environment."""
        self._folder, self._env = folder, env
        self.workers = [Worker(name, folder, env(name)) for name in names]
        self.bad_ends: list[str] = []

    def add_place(self, name: str) -> Worker:
        """One more place."""
        worker = Worker(name, self._folder, self._env(name))
        self.workers.append(worker)
        return worker

    def total(self, count: str) -> int:
        """A count of statistics, over all processes that ever ran."""
        return sum(line.get(count, 0) for worker in self.workers for line in worker.last.values())

    def owned(self) -> int:
        """Partitions that are running somewhere."""
        return sum(worker.now().get("owned", 0) for worker in self.workers if worker.alive)

    def parked(self) -> int:
        """Messages that the journal has taken over from the inboxes, and that still wait for their turn."""
        return sum(worker.now().get("parked", 0) for worker in self.workers if worker.alive)

    def fired(self) -> list[dict[str, Any]]:
        """The failpoints that have fired."""
        with contextlib.suppress(FileNotFoundError):
            return [json.loads(line) for line in (self._folder / "fired.jsonl").read_text().splitlines()]
        return []

    def count(self, file: str) -> int:
        """Lines of a file in the run's folder."""
        with contextlib.suppress(FileNotFoundError):
            return len((self._folder / file).read_text().splitlines())
        return 0

    async def stop(self, worker: Worker) -> int:
        """SIGTERM, and the exit code; one that takes too long is killed. A young one gets to handle signals first."""
        await until(lambda: bool(worker.now()) or not worker.alive, STOP_SECONDS)
        worker.signal(signal.SIGTERM)
        if not await until(lambda: not worker.alive, STOP_SECONDS):
            worker.signal(signal.SIGKILL)
            await until(lambda: not worker.alive, 10)
        code = worker.process.returncode if worker.process else 0
        if code:
            self.bad_ends.append(f"{worker.name} ended with {code} on SIGTERM")
        return code

    def kill(self) -> None:
        """End everything at once."""
        for worker in self.workers:
            worker.signal(signal.SIGKILL)
            if worker.process is not None:
                worker.process.wait()


async def until(holds: Callable[[], bool], seconds: float) -> bool:
    """Wait for something in another process; False if it did not come in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.1)
    return True
