"""The process: what comes from NATS and what goes there, health and metrics pages, an orderly stop.

    ROOKERY_APP_ID=flights BUS_ADDRESS=kafka://kafka:9092 ROOKERY_NATS_URL=nats://nats:4222 \\
        python -m rookery.streams.nats

It keeps nothing: any number of edges share the work, and one that is killed is simply started again.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiokafka.errors import KafkaError

from rookery.ops.metrics import Metrics
from rookery.ops.settings import Settings
from rookery.schemas.errors import ConfigurationError, RookeryError
from rookery.streams.client import Client
from rookery.streams.kafka import acls, security, topics
from rookery.streams.nats.connect import Link
from rookery.streams.nats.errors import NatsUnavailable
from rookery.streams.nats.inbound import Inbound
from rookery.streams.nats.letters import Letters
from rookery.streams.nats.outbound import Outbound
from rookery.streams.web import guard

log = logging.getLogger(__name__)

SELDOM = 10.0  # seconds between lines of aiokafka that say the same


class Edge:
    """One edge; `run` is its life."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigurationError without a `nats_url`, and when the broker is NATS, too."""
        if not settings.nats_url:
            raise ConfigurationError("nats_url (ROOKERY_NATS_URL): must be set for the NATS edge, nats://host:port")
        self._settings = settings
        self._kafka = security.client_kwargs(settings)
        self._url = settings.nats_url
        self._link: Link | None = None
        self._inbound: Inbound | None = None
        self._outbound: Outbound | None = None
        self._letters: Letters | None = None
        self._ready = False

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; raises what a client raises at its start, NatsUnavailable, ConfigurationError."""
        settings, out = self._settings, self._settings.nats_out
        await acls.check(settings.app_id, self._kafka, "edge", out)
        async with Client(settings.app_id, settings=settings) as client, self._pages():
            await client.open_replies()
            await acls.check_replies(settings.app_id, self._kafka, "edge", out, client.topics.replies(client.name))
            if out:
                await topics.ensure(settings, self._kafka, make=False, only=client.topics.nats)
            self._link = link = Link(settings, f"{settings.app_id}-edge", self._url)
            await link.open()
            try:
                self._letters = Letters(client, client.partitions)
                self._inbound = Inbound(client, link, self._letters, settings)
                await self._inbound.start()
                if out:
                    self._outbound = Outbound(client, link, self._letters, settings)
                self._ready = True
                log.info("edge ready: %s.<address> at NATS %s", settings.nats_prefix, link.server)
                await self._work(link, stop)
            finally:
                self._ready = False
                if self._inbound is not None:
                    await self._inbound.stop(settings.drain_timeout / 2)
                await link.close()
        log.info("edge stopped")

    async def _work(self, link: Link, stop: asyncio.Event) -> None:
        """Return when `stop` is set; raises NatsUnavailable when the connection ends for good."""
        stopping: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
        working: set[asyncio.Future[Any]] = {stopping, link.closed}
        if self._outbound is not None:
            working.add(asyncio.create_task(self._outbound.run(), name="rookery-nats-outbound"))
        try:
            done, _ = await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                await task  # raises why it ended
                raise NatsUnavailable(link.server, f"the connection ended: {link.last_error}")
        finally:
            for task in working - {link.closed}:
                task.cancel()
            await asyncio.gather(*working - {link.closed}, return_exceptions=True)

    def statistics(self) -> dict[str, Any]:
        """What /metrics shows; empty before the start."""
        if self._link is None or self._inbound is None or self._letters is None:
            return {}
        outbound = {} if self._outbound is None else self._outbound.counts
        in_flight = self._inbound.in_flight + (0 if self._outbound is None else self._outbound.in_flight)
        counts = {**self._inbound.counts, **outbound, "dead_letters": self._letters.count}
        counts["dropped"] += self._link.counts["dropped"]
        counts["reconnects"] = self._link.counts["reconnects"]
        return {"nats": {**counts, "connected": int(self._link.is_up), "in_flight": in_flight}}

    @asynccontextmanager
    async def _pages(self) -> AsyncIterator[None]:
        """/metrics, /livez and /readyz, as a worker has them."""
        settings = self._settings
        metrics = Metrics(0)
        metrics.attach(self.statistics)

        async def metrics_page(request: web.Request) -> web.Response:
            body, content_type = metrics.exposition()
            return web.Response(body=body, headers={"Content-Type": content_type})

        async def livez(request: web.Request) -> web.Response:
            return web.Response(text="ok\n")

        async def readyz(request: web.Request) -> web.Response:
            ready = self._ready and self._link is not None and self._link.is_up
            return web.Response(text="ok\n" if ready else "not connected\n", status=200 if ready else 503)

        token = settings.web_token
        options = {} if token is None else guard(token.get_secret_value())["web_application_options"]
        pages = web.Application(**options)
        pages.add_routes([web.get("/metrics", metrics_page), web.get("/livez", livez), web.get("/readyz", readyz)])
        runner = web.AppRunner(pages, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, settings.web_host, settings.web_port).start()
            log.info("pages at http://%s:%d", *runner.addresses[0][:2])
            yield
        finally:
            await runner.cleanup()


class _Seldom(logging.Filter):
    """Lets a line of aiokafka pass once in a while: it tells of a broker that is away many times a second."""

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[object, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is worth a line."""
        if not record.name.startswith("aiokafka"):
            return True
        now = time.monotonic()
        if now - self._told.get(record.msg, -SELDOM) < SELDOM:
            return False
        if len(self._told) > 1_000:
            self._told.clear()
        self._told[record.msg] = now
        return True


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await Edge(settings).run(stop)


def main() -> int:
    """Run an edge by the settings of the environment; the exit code: 2 for bad settings, 1 for what else goes wrong."""
    try:
        settings = Settings.load()
        logging.basicConfig(level=settings.log_level.upper(), format="[%(asctime)s] [%(levelname)s] %(message)s")
        logging.root.handlers[0].addFilter(_Seldom())
        asyncio.run(_serve(settings))
    except (RookeryError, KafkaError, TimeoutError) as error:
        print(f"Error: {str(error) or type(error).__name__}", file=sys.stderr)
        return 2 if isinstance(error, ConfigurationError) else 1
    return 0
