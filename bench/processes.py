"""Processes under measurement: each prints one line `RESULT {json}` when it has stopped its clock."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import IO, Any

from bench.harness import Figures, Void
from bench.workload import CLIENT, Message, prefill
from rookery import Client
from rookery.ops.settings import Settings
from rookery.streams.kafka import topics

RUN_SECONDS_MAX = 300.0
"""A run that takes longer than this has hung."""
LINES = 60
"""What is shown of the log of a program that failed."""


@asynccontextmanager
async def application(broker: str, partitions: int, **overrides: Any) -> AsyncIterator[Settings]:
    """The topics of a fresh application; removed at the end."""
    settings = Settings.load(app_id=f"bench-{uuid.uuid4().hex[:8]}", broker=broker, partitions=partitions, **overrides)
    kafka = {"bootstrap_servers": broker}
    await topics.ensure(settings, kafka)
    async with topics.admin(kafka) as admin:
        await topics.create(admin, [topics.replies_spec(settings, CLIENT)])
    try:
        yield settings
    finally:
        await topics.remove(settings.app_id, kafka)


@asynccontextmanager
async def worker(settings: Settings, module: str, **environment: object) -> AsyncIterator[Running]:
    """A plain `faust -A <module> worker` of an application; stopped at the end."""
    given = {
        "ROOKERY_APP_ID": settings.app_id,
        "ROOKERY_BROKER": settings.broker,
        "ROOKERY_PARTITIONS": settings.partitions,
        **environment,
    }
    # At error and warning, Faust sets everything to debug.
    command = [sys.executable, "-m", "faust", "-A", module, "worker", "-l", "info", "--without-web"]
    async with program(command, **given) as running:
        yield running


class Running:
    """A started program."""

    def __init__(self, process: asyncio.subprocess.Process, log: IO[bytes]) -> None:
        self.process = process
        self._log = log

    async def result(self) -> Figures:
        """The figures of its RESULT line. Raises Void if it ends without one or takes too long."""
        try:
            return await asyncio.wait_for(self._line(), RUN_SECONDS_MAX)
        except TimeoutError:
            raise Void(f"no result within {RUN_SECONDS_MAX:.0f} s") from None

    async def _line(self) -> Figures:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            if line.startswith(b"RESULT "):
                found: Figures = json.loads(line[7:])
                return found
        code = await self.process.wait()
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").splitlines()
        # What came first is the cause; a worker that crashes has much to say after it.
        start = next((at for at, line in enumerate(said) if "crashed" in line), len(said) - LINES)
        said = said[max(0, start - LINES // 3) :][:LINES]
        raise Void("\n".join([f"the program under measurement ended with {code} and without a result:", *said]))


@asynccontextmanager
async def program(command: list[str], **environment: object) -> AsyncIterator[Running]:
    """A program that ends with the block."""
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, **{name: str(value) for name, value in environment.items()}},
            stdout=subprocess.PIPE,
            stderr=log,
            limit=1 << 20,
        )
        try:
            yield Running(process, log)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.communicate(), 30)
            except TimeoutError:
                process.kill()
                await process.wait()


async def handle(
    settings: Settings,
    broker_pid: int,
    messages: Iterable[Message],
    count: int,
    *,
    replies: bool,
    verify: Callable[[Client], Awaitable[int]],
    expected: int | None = None,
) -> Figures:
    """A worker of an application handles `count` prefilled messages, once it has recovered its partitions; Void unless
    `verify` finds `expected` turns (default: `count`) afterwards."""
    await prefill(settings.broker, f"{settings.app_id}.inbox.normal", messages, settings.partitions)
    given = {"BENCH_COUNT": count, "BENCH_REPLIES": count if replies else 0, "BENCH_BROKER_PID": broker_pid}
    async with worker(settings, "bench.worker", BENCH_GATE=1, **given) as running:
        figures = await running.result()
        async with Client(settings.app_id, settings=settings) as client:
            total = await verify(client)
    if total != (expected or count) or figures["count"] != count:
        raise Void(f"the agents counted {total} of {expected or count} messages, {figures['count']:.0f} turns now")
    return figures


async def turns(
    broker: str,
    broker_pid: int,
    messages: Callable[[int], Iterable[Message]],
    count: int,
    *,
    partitions: int,
    replies: bool,
    verify: Callable[[Client], Awaitable[int]],
) -> Figures:
    """The same with a fresh application."""
    async with application(broker, partitions) as settings:
        return await handle(settings, broker_pid, messages(partitions), count, replies=replies, verify=verify)


async def counted(client: Client, agents: Iterable[str]) -> int:
    """The sum of what the agents counted, asked for in portions."""
    total = 0
    addresses = list(agents)
    for at in range(0, len(addresses), 200):
        asked = (client.get_agent(address).state(timeout=60) for address in addresses[at : at + 200])
        total += sum(state["count"] for state in await asyncio.gather(*asked))
    return total
