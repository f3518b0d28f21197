"""The world of the NATS tests: a nats-server, a Kafka that can be frozen, a worker, and an edge between them."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from nats.js.api import StreamConfig

from tests.cluster.crew import crew, own_broker
from tests.cluster.nats_kit import EdgeProcess, NatsServer

APP = "nats-tests"


@dataclass
class World:
    broker: str
    kafka: psutil.Process
    server: NatsServer
    outside: Any  # a plain NATS client
    folder: Path
    edge: EdgeProcess = field(init=False)

    def __post_init__(self) -> None:
        self.edge = self.main_edge("edge")

    def main_edge(self, name: str) -> EdgeProcess:
        """The edge that all tests use, which does everything."""
        return EdgeProcess(APP, self.broker, self.server.url, self.folder / name, {"ROOKERY_NATS_STREAM": "WORK"})

    async def ask(self, address: str, body: Any, **headers: str) -> Any:
        """What a plain client gets as the answer."""
        return await self.outside.request(
            f"agents.{address}", json.dumps(body).encode(), timeout=20, headers=headers or None
        )

    async def number(self, address: str) -> int:
        answer = await self.ask(address, {}, type="rookery.state")
        return int(json.loads(answer.data)["n"])

    async def counted(self, address: str, number: int) -> None:
        """The agent gets there, and stays there."""
        deadline = time.monotonic() + 30
        while (found := await self.number(address)) != number:
            assert found < number, f"{found} for {number}: doubled"
            assert time.monotonic() < deadline, f"{found} of {number}"
            await asyncio.sleep(0.05)

    def page(self, name: str, edge: EdgeProcess | None = None) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{(edge or self.edge).port}/{name}", timeout=5) as page:
            return str(page.read().decode())

    def metric(self, name: str, edge: EdgeProcess | None = None) -> float:
        lines = dict(line.rsplit(" ", 1) for line in self.page("metrics", edge).splitlines() if line[0] != "#")
        return float(lines[name])

    @asynccontextmanager
    async def another_edge(self, name: str, **extra: str) -> AsyncIterator[EdgeProcess]:
        edge = EdgeProcess(
            APP, self.broker, self.server.url, self.folder / name, {"ROOKERY_NATS_OUT": "false", **extra}
        )
        try:
            await edge.ready()
            yield edge
        finally:
            edge.kill()


@asynccontextmanager
async def nats_world(folder: Path) -> AsyncIterator[World]:
    """One for the block, in which everything has ended well at its end."""
    server = NatsServer(folder / "server")
    outside = await server.client()
    await outside.jetstream().add_stream(StreamConfig(name="WORK", subjects=["stream.agents.>"]))
    await outside.jetstream().add_stream(StreamConfig(name="LEDGER", subjects=["ledger.>"]))
    await outside.jetstream().add_stream(StreamConfig(name="TINY", subjects=["tiny.>"], max_msg_size=10))
    with own_broker(folder) as (broker, kafka), crew(APP, broker, folder) as start:
        worker = start("worker", "nats_app")
        await worker.until("Worker ready")
        world = World(broker, kafka, server, outside, folder)
        try:
            await world.edge.ready()
            yield world
            await outside.close()
            await world.edge.leave()
            assert not await worker.leave()
        finally:
            world.edge.kill()
            server.stop()
