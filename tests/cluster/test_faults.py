"""The flights on a real Kafka while workers are killed and frozen: every total of every agent has to be right."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.long, pytest.mark.kafka]

ROOT = Path(__file__).parents[2]
LIMIT = 120_000  # departures; about half a minute on two cores, so that there is a middle to strike in
SESSION_SECONDS = 6


class Run:
    """One `examples.flights.run` with two workers, and what it printed so far."""

    def __init__(self, broker: str, output: Path) -> None:
        environment = {**os.environ, "ROOKERY_BROKER": broker, "ROOKERY_SESSION_TIMEOUT": str(SESSION_SECONDS)}
        command = [sys.executable, "-m", "examples.flights.run", "--limit", str(LIMIT), "--workers", "2"]
        self._output = output
        with output.open("wb") as out:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out)

    @property
    def text(self) -> str:
        return self._output.read_text()

    def wait_for_turns(self, count: int) -> None:
        """Return once that many turns are done, while the run goes on."""
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and self.process.poll() is None:
            done = [int(turns.replace(",", "")) for turns in re.findall(r"([\d,]+) turns,", self.text)]
            if done and done[-1] >= count:
                return
            time.sleep(0.2)
        pytest.fail(f"{count} turns were not reached in the middle of the run:\n{self.text}")

    def workers(self) -> list[psutil.Process]:
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if "worker" in child.cmdline()]

    def verdict(self) -> str:
        """The last line of the run, which must end well."""
        assert self.process.wait(timeout=180) == 0, self.text
        return self.text.strip().splitlines()[-1]


@pytest.fixture
def run(broker: str, tmp_path: Path) -> Iterator[Run]:
    started = Run(broker, tmp_path / "run.log")
    yield started
    if started.process.poll() is None:
        started.process.send_signal(signal.SIGINT)
        started.process.wait(timeout=30)


def test_a_killed_worker_loses_and_doubles_nothing(run: Run) -> None:
    run.wait_for_turns(20_000)
    run.workers()[0].kill()
    assert re.fullmatch(rf"OK {3 * LIMIT} turns in .* 0 lost, 0 doubled", run.verdict())
    assert "died and were started again: 1" in run.text


def test_a_frozen_worker_that_comes_back_is_refused_and_nothing_is_lost_or_doubled(run: Run) -> None:
    run.wait_for_turns(20_000)
    frozen = run.workers()[0]
    frozen.suspend()
    time.sleep(SESSION_SECONDS + 3)
    frozen.resume()
    assert re.fullmatch(rf"OK {3 * LIMIT} turns in .* 0 lost, 0 doubled", run.verdict())
    logs = [
        path.read_text()
        for path in (ROOT / ".rookery" / "logs").glob("*-worker-*.log")
        if path.stat().st_mtime > time.time() - 120
    ]
    assert any(f"[{frozen.pid}]" in log and "fenced by a newer lease" in log for log in logs), (
        "it was not refused: no proof"
    )
