"""The servers for real: started, found, stopped, and gone whatever happens to the process that asked for them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rookery.ops.servers import addresses

SERVERS = [sys.executable, "-m", "rookery.ops.servers"]
WAITS = [sys.executable, "-c", "import os, time; print(os.environ['ROOKERY_BROKER'], flush=True); time.sleep(120)"]


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*addresses.BROKER_VARIABLES, *addresses.REDIS_VARIABLES):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def home(tmp_path: Path, environ: None) -> Iterator[Path]:
    """A current directory of its own, with the jars that are already here."""
    jars = Path(".rookery/kafka").absolute()
    (tmp_path / ".rookery").mkdir()
    if jars.exists():
        (tmp_path / ".rookery/kafka").symlink_to(jars)
    yield tmp_path
    subprocess.run([*SERVERS, "down"], cwd=tmp_path, check=True, timeout=60)
    assert os.listdir(tmp_path / ".rookery/servers") == ["lock"], "the next call cleans up after a killed one"


def servers_in(home: Path) -> list[psutil.Process]:
    """Every process that works in the folder of a server."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd().startswith(str(home / ".rookery/servers")) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def gone(home: Path, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while servers_in(home) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not servers_in(home)


def test_a_command_runs_with_servers_and_hands_back_its_code(home: Path) -> None:
    command = ["sh", "-c", 'echo "$ROOKERY_BROKER $REDIS_URL"; exit 7']
    done = subprocess.run(
        [*SERVERS, "run", "--kafka", "--", *command], cwd=home, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 7, done.stderr
    assert done.stdout.strip().startswith("127.0.0.1:")
    assert not servers_in(home)
    assert os.listdir(home / ".rookery/servers") == ["lock"]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_nothing_is_left_when_the_runner_is_interrupted_terminated_or_killed(
    home: Path, number: signal.Signals, code: int
) -> None:
    with subprocess.Popen([*SERVERS, "run", "--kafka", "--", *WAITS], cwd=home, stdout=subprocess.PIPE) as runner:
        assert runner.stdout is not None
        assert addresses.kafka_answers(runner.stdout.readline().decode().strip())
        (child,) = [
            process for process in psutil.Process(runner.pid).children() if "time.sleep(120)" in process.cmdline()[-1]
        ]
        runner.send_signal(number)
        assert runner.wait(30) == code
    assert gone(home)
    child_end = time.monotonic() + 10
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < child_end:
        time.sleep(0.05)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_ctrl_c_while_kafka_starts_is_clean(home: Path) -> None:
    with subprocess.Popen([*SERVERS, "run", "--kafka", "--", "true"], cwd=home, stderr=subprocess.PIPE) as runner:
        assert runner.stderr is not None
        while b"starting Apache Kafka" not in (line := runner.stderr.readline()):
            assert line
        time.sleep(0.5)
        runner.send_signal(signal.SIGINT)
        assert runner.wait(30) == 130
        assert b"Traceback" not in runner.stderr.read()
    assert gone(home)


@pytest.mark.long
def test_up_stays_is_borrowed_and_down_ends_it(home: Path) -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*SERVERS, *arguments], cwd=home, capture_output=True, text=True, timeout=120)

    assert call("status").returncode == 3
    assert call("up", "--kafka").returncode == 0
    broker = json.loads((home / ".rookery/servers.json").read_text())["broker"]
    assert f"kafka: {broker}, up" in call("status").stdout
    assert call("up", "--kafka").stdout == f"ROOKERY_BROKER={broker}\n", "a second up finds the first"
    assert call("run", "--kafka", "--", "sh", "-c", "echo $ROOKERY_BROKER").stdout == f"{broker}\n"
    assert len(servers_in(home)) == 1, "a borrowed server is left alone"

    servers_in(home)[0].kill()
    assert gone(home)
    assert call("status").returncode == 3, "a dead one is not believed"
    assert call("up", "--kafka").returncode == 0
    assert call("down").returncode == 0
    assert gone(home)
    assert not (home / ".rookery/servers.json").exists()


def test_redis_is_started_and_gone(home: Path) -> None:
    from rookery.ops.servers import ServersError
    from rookery.ops.servers.local_redis import find_redis

    try:
        find_redis()
    except ServersError:
        pytest.skip("no redis-server for this Python")
    done = subprocess.run(
        [*SERVERS, "run", "--redis", "--", "sh", "-c", "echo $REDIS_URL"], cwd=home, capture_output=True, timeout=60
    )
    assert done.stdout.startswith(b"redis://127.0.0.1:")
    assert gone(home)
