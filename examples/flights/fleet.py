"""The workers of a run: ordinary `faust worker` processes, started again when they die, and never left behind."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from rookery.ops.servers.process import launch

RESTARTS_MAX = 5
"""More deaths than this in one run are no accident."""
STOP_GRACE = 5.0
"""Seconds from SIGTERM to SIGKILL; the log arbitrates, so a kill costs nobody anything."""

_ROOT = Path(__file__).parents[2]
_POLL_SECONDS = 0.1


class WorkersKeepDying(Exception):
    """More workers ended than accidents explain; the message names the log."""


class Fleet:
    """The workers; `supervise` keeps them alive, `stop` ends them."""

    def __init__(self, app_id: str, count: int, broker: str, logs: Path) -> None:
        """Nothing is started yet. Logs go to `logs`, one file a worker, named after the application."""
        self._env = {**os.environ, "ROOKERY_APP_ID": app_id, "ROOKERY_BROKER": broker}
        logs.mkdir(parents=True, exist_ok=True)
        self.logs = [logs / f"{app_id}-worker-{number}.log" for number in range(1, count + 1)]
        self._workers: list[subprocess.Popen[bytes]] = []
        self.restarts = 0

    @property
    def alive(self) -> int:
        """Workers that run."""
        return sum(worker.poll() is None for worker in self._workers)

    def start(self) -> None:
        """Start all workers. Call it from the main thread: the kernel then ends them if this process is killed."""
        for log in self.logs:
            self._workers.append(self._launch(log))

    async def supervise(self) -> None:
        """Start workers again that have died, until cancelled; raises WorkersKeepDying."""
        while True:
            for index, worker in enumerate(self._workers):
                if worker.poll() is None:
                    continue
                if self.restarts == RESTARTS_MAX:
                    raise WorkersKeepDying(
                        f"a worker ended with code {worker.returncode} after {RESTARTS_MAX} restarts: "
                        f"see {self.logs[index]}"
                    )
                self.restarts += 1
                self._workers[index] = self._launch(self.logs[index])
            await asyncio.sleep(_POLL_SECONDS)

    async def stop(self) -> None:
        """Ask all workers to end, and kill those that have not after a while."""
        self._signal(signal.SIGTERM)
        try:
            for _ in range(int(STOP_GRACE / _POLL_SECONDS)):
                if not self.alive:
                    break
                await asyncio.sleep(_POLL_SECONDS)
        finally:
            self.kill()

    def kill(self) -> None:
        """End all workers at once."""
        self._signal(signal.SIGKILL)
        for worker in self._workers:
            worker.wait()

    def _launch(self, log: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "faust", "-A", "examples.flights.app", "worker", "-l", "info"]
        with log.open("ab") as file:
            return launch(
                command,
                dies_with_us=signal.SIGKILL,
                env=self._env,
                cwd=_ROOT,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )

    def _signal(self, number: signal.Signals) -> None:
        for worker in self._workers:
            if worker.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(worker.pid, number)  # each leads a session of its own
