"""Real NATS servers and edges for tests."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nats

from rookery.ops.servers.process import launch
from tests.cluster.crew import eventually
from tests.cluster.redis_kit import free_port
from tests.programs import Program

NATS_SERVER = shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin")
NATS_CLI = shutil.which("nats")
PASSWORD = "a-password-of-tests"


CONFIG = """
listen: "127.0.0.1:{port}"
{authorization}
{more}
"""
# One user with a password, who may use JetStream.
USERS = f"""
jetstream: {{}}
authorization {{ users = [
  {{ user: tests, password: "{PASSWORD}", permissions: {{ publish: {{ deny: "forbidden.>" }} }} }}
] }}
"""


class NatsServer:
    """One nats-server, by default with JetStream, a user and a password; its port and its store outlive a restart."""

    def __init__(self, folder: Path, more: str = "", authorization: str = USERS) -> None:
        self._folder = folder
        folder.mkdir()
        self.port = free_port()
        config = CONFIG.format(port=self.port, authorization=authorization, more=more)
        (folder / "conf").write_text(config)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"nats://tests:{PASSWORD}@127.0.0.1:{self.port}"

    def start(self) -> None:
        assert NATS_SERVER is not None
        with (self._folder / "server.log").open("ab") as log:
            self._process = launch(
                [NATS_SERVER, "-c", str(self._folder / "conf"), "-sd", str(self._folder / "store")],
                dies_with_us=signal.SIGKILL,
                stdout=log,
                stderr=log,
                env=dict(os.environ),
            )
        deadline = time.monotonic() + 20
        while b"Server is ready" not in (self._folder / "server.log").read_bytes():
            assert time.monotonic() < deadline, (self._folder / "server.log").read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None
            (self._folder / "server.log").unlink()

    async def client(self) -> Any:
        """A plain client, which knows nothing of us."""
        return await nats.connect(self.url, reconnect_time_wait=0.1, max_reconnect_attempts=-1)


class EdgeProcess:
    """One genuine edge process and its log."""

    def __init__(self, app_id: str, broker: str, url: str, folder: Path, extra: Mapping[str, str] = {}) -> None:
        folder.mkdir()
        self.log = folder / "log"
        self.port = free_port()
        variables = {
            "ROOKERY_APP_ID": app_id,
            "BUS_ADDRESS": f"kafka://{broker}",
            "ROOKERY_NATS_URL": url,
            "ROOKERY_WEB_PORT": str(self.port),
            "ROOKERY_PARTITIONS": "4",
            "ROOKERY_NATS_OUT": "true",
        }
        environment = {name: value for name, value in os.environ.items() if name != "ROOKERY_BROKER"}
        self.log.touch()
        self.process = Program(
            "rookery.streams.nats", cwd=folder, env={**environment, **variables, **extra}, log=self.log
        )

    async def ready(self) -> None:
        await eventually(lambda: "edge ready" in self.log.read_text() or self.process.poll() is not None, "edge", 30)
        assert self.process.poll() is None, self.log.read_text()

    async def leave(self) -> None:
        """Stop by SIGTERM; it must end well."""
        self.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(self.process.wait, 30)
        text = self.log.read_text()
        assert self.process.returncode == 0, text
        assert "edge stopped" in text
        assert "Traceback" not in text, text
        assert PASSWORD not in text, "the log tells the password"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)
