"""The main job, for real but small: run.py with workers and a Kafka, to its end and interrupted."""

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

from rookery.ops import servers

pytestmark = pytest.mark.kafka

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "examples.flights.run", "--limit", "3000"]


@pytest.fixture(scope="module")
def env() -> Iterator[dict[str, str]]:
    with servers.ensure(kafka=True) as running:
        yield {**os.environ, **running.environ()}


def test_a_small_run_loses_nothing_and_doubles_nothing(env: dict[str, str]) -> None:
    done = subprocess.run(COMMAND, cwd=ROOT, env=env, capture_output=True, text=True, timeout=150)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(r"OK 9000 turns in [\d.]+ s, \d+/s, 0 lost, 0 doubled", lines[-1])
    assert done.stderr == ""
    assert any("of 3,000 sent" in line for line in lines)


def test_ctrl_c_ends_everything_in_silence(env: dict[str, str]) -> None:
    run = subprocess.Popen(COMMAND, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        workers = wait_for_workers(run.pid)
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=30)
    finally:
        run.kill()
        run.wait()
    assert run.returncode == 130
    assert errors == "interrupted, nothing is left running\n"
    assert not any(worker.is_running() for worker in workers)


def wait_for_workers(pid: int) -> list[psutil.Process]:
    """The worker processes of a run, as soon as there are two."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        workers = psutil.Process(pid).children()
        if len(workers) == 2:
            return workers
        time.sleep(0.05)
    pytest.fail("no two workers within a minute")
