"""Which servers are borrowed, and that no process outlives the one it serves; small stand-ins instead of a Kafka."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rookery.ops import servers
from rookery.ops.servers import addresses, lifecycle, local_kafka, process
from rookery.ops.servers.process import Identity, Record, ServersError

SLEEPER = [sys.executable, "-c", "print('up', flush=True); import time; time.sleep(60)"]


def quiet(_: str) -> None:
    pass


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*addresses.BROKER_VARIABLES, *addresses.REDIS_VARIABLES):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def answer_once(listener: socket.socket, answer: bytes) -> None:
    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()


def address_of(listener: socket.socket) -> str:
    return f"127.0.0.1:{listener.getsockname()[1]}"


# --- borrowing ------------------------------------------------------------------------------------------------------


def test_a_given_broker_is_borrowed_by_the_first_of_three_names(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("BUS_ADDRESS", f"kafka://{address_of(listener)}")
    with servers.ensure(kafka=True, progress=quiet, home=tmp_path) as found:
        assert found == servers.Servers(broker=address_of(listener))
        assert found.environ() == {"ROOKERY_BROKER": address_of(listener)}
    assert not list(tmp_path.iterdir())


def test_a_given_server_that_does_not_answer_is_an_error_and_never_replaced(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REDIS_URL", f"redis://:hush@{address_of(listener)}/0")
    listener.close()
    with (
        pytest.raises(ServersError, match="nothing answers at the address in REDIS_URL") as raised,
        servers.ensure(kafka=False, redis=True, progress=quiet, home=tmp_path),
    ):
        pass
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize("address", ["redis://:hush", "redis://user:hush/0", "host:port", ":9092", "h:99999"])
def test_a_malformed_address_is_an_error_that_keeps_it_secret(
    address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REDIS_URL", address)
    with pytest.raises(ServersError, match="REDIS_URL is no address") as raised:
        lifecycle.borrowed_redis(tmp_path)
    assert "hush" not in str(raised.value)


def test_a_server_that_up_wrote_is_borrowed_only_while_it_answers(listener: socket.socket, tmp_path: Path) -> None:
    (tmp_path / "servers.json").write_text(json.dumps({"redis_url": f"redis://{address_of(listener)}/0"}))
    answer_once(listener, b"+PONG\r\n")
    assert lifecycle.borrowed_redis(tmp_path) == f"redis://{address_of(listener)}/0"
    answer_once(listener, b"HTTP/1.1 400 Bad Request\r\n")
    assert lifecycle.borrowed_redis(tmp_path) is None
    assert lifecycle.borrowed_broker(tmp_path) is None


@pytest.mark.parametrize("content", ["", "[]", "{", '{"broker": 3}'])
def test_a_broken_servers_file_holds_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / "servers.json").write_text(content)
    assert addresses.written(tmp_path / "servers.json") == {}


@pytest.mark.parametrize(
    ("answer", "lists_a_broker"),
    [
        (b"\0\0\0\x08" + b"\0\0\0\x01" + b"\0\0\0\x01", True),
        (b"\0\0\0\x08" + b"\0\0\0\x01" + b"\0\0\0\x00", False),
        (b"\0\0\0\x08" + b"\0\0\0\x02" + b"\0\0\0\x01", False),
        (b"HTTP/1.1 400 Bad Request\r\n", False),
        (b"", False),
    ],
)
def test_only_a_kafka_with_a_live_broker_answers(listener: socket.socket, answer: bytes, lists_a_broker: bool) -> None:
    answer_once(listener, answer)
    assert addresses.kafka_answers(address_of(listener)) is lists_a_broker


# --- life and death -------------------------------------------------------------------------------------------------


def started(home: Path, *, owner: Identity | None) -> tuple[Path, subprocess.Popen[bytes]]:
    folder = process.new_folder(home, "sleeper", detached=owner is None, progress=quiet)
    child = process.start(folder, SLEEPER, detached=True)
    Record(owner, Identity.of(child.pid)).write(folder)
    return folder, child


@pytest.fixture
def gone() -> Identity:
    child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    identity = Identity.of(child.pid)
    child.communicate()
    return identity


def test_what_a_crashed_owner_left_is_ended_at_the_next_start(tmp_path: Path, gone: Identity) -> None:
    folder, child = started(tmp_path, owner=gone)
    said: list[str] = []
    fresh = process.new_folder(tmp_path, "next", detached=False, progress=said.append)
    assert child.poll() is not None
    assert not folder.exists()
    assert fresh.exists()
    assert said == [f"ending {folder.name}, pid {child.pid}, left by a run that crashed"]


def test_servers_of_a_living_owner_are_left_alone(tmp_path: Path) -> None:
    folder, child = started(tmp_path, owner=Identity.of(os.getpid()))
    try:
        assert lifecycle.down(progress=quiet, home=tmp_path) == 0
        assert child.poll() is None
        assert folder.exists()
    finally:
        child.kill()
        child.wait()


def test_down_ends_what_up_started_and_forgets_its_address(tmp_path: Path) -> None:
    folder, child = started(tmp_path, owner=None)
    (tmp_path / "servers.json").write_text("{}")
    process.new_folder(tmp_path, "next", detached=False, progress=quiet)
    assert child.poll() is None, "a sweep leaves it alone"
    assert lifecycle.down(progress=quiet, home=tmp_path) == 1
    assert child.poll() is not None
    assert not folder.exists()
    assert not (tmp_path / "servers.json").exists()


def test_a_pid_that_means_another_process_now_is_never_ended(tmp_path: Path, gone: Identity) -> None:
    folder, child = started(tmp_path, owner=gone)
    try:
        Record(gone, Identity(child.pid, psutil.Process(child.pid).create_time() - 3600)).write(folder)
        process.new_folder(tmp_path, "next", detached=False, progress=quiet)
        assert child.poll() is None
        assert not folder.exists()
    finally:
        child.kill()
        child.wait()


def test_a_server_that_ends_at_once_shows_the_end_of_its_log(tmp_path: Path) -> None:
    folder = process.new_folder(tmp_path, "broken", detached=False, progress=quiet)
    child = process.start(folder, ["/no/such/server"], detached=False)
    with pytest.raises(ServersError, match=r"(?s)broken-.* ended with code 1:.*/no/such/server: No such file"):
        process.wait_until(lambda: False, child, folder, 10)


def test_the_end_of_the_block_ends_the_server_whatever_ended_it(tmp_path: Path) -> None:
    block = lifecycle._own_folder(tmp_path, "sleeper", quiet)
    folder = block.__enter__()
    child = process.start(folder, SLEEPER, detached=False)
    assert not block.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert child.poll() is not None
    assert not folder.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_a_server_dies_with_an_owner_that_was_killed() -> None:
    program = f"""
import signal, subprocess
from rookery.ops.servers.process import launch
child = launch({SLEEPER!r}, dies_with_us=signal.SIGKILL, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    with owner.stdout:
        server = Identity.of(int(owner.stdout.readline()))
        owner.kill()
        owner.wait()
    deadline = time.monotonic() + 10
    while server.process() is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.process() is None


def test_sigterm_ends_the_block_like_an_exception(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as raised, servers.ensure(kafka=False, home=tmp_path):
        signal.raise_signal(signal.SIGTERM)
    assert raised.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


# --- finding what Kafka needs ---------------------------------------------------------------------------------------


def test_a_java_that_is_too_old_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, banner in (("old", 'java version "1.8.0_292"'), ("new", 'openjdk version "21.0.2" 2024-01-16')):
        java = tmp_path / name / "bin" / "java"
        java.parent.mkdir(parents=True)
        java.write_text(f"#!/bin/sh\necho '{banner}' >&2\n")
        java.chmod(0o755)
    assert local_kafka.java_version(tmp_path / "old/bin/java") == 8
    assert local_kafka.java_version(tmp_path / "none") == 0
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "old"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'new/bin'}:{os.environ['PATH']}")
    assert local_kafka.find_java() == str(tmp_path / "new/bin/java")


def test_no_network_at_the_first_start_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jgo = pytest.importorskip("jgo")

    def no_network(*_: object, **__: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(jgo, "build", no_network)
    with pytest.raises(ServersError, match=r"Network is unreachable.*HTTPS_PROXY.*set ROOKERY_BROKER=host:port"):
        local_kafka.find_jars(tmp_path, quiet)
