"""A connection to NATS that comes back by itself, and the bounded set of tasks that work on it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Coroutine
from typing import Any

from rookery.ops import tls
from rookery.ops.servers.addresses import endpoints
from rookery.ops.settings import Settings
from rookery.schemas.errors import ConfigurationError
from rookery.streams.nats.credentials import Credentials
from rookery.streams.nats.errors import NatsUnavailable

nats: Any
try:
    import nats
    import nats.errors
    import nats.js.api
    import nats.js.errors
except ImportError:  # an extra
    nats = None

log = logging.getLogger(__name__)

CONNECT_PATIENCE = 10.0  # seconds until the first connection has failed; later ones are tried for ever
RECONNECT_WAIT = 0.5  # seconds between tries
PING_INTERVAL = 10  # seconds; two without an answer, and the connection is made anew
PENDING_BYTES_MAX = 8 << 20  # what waits to be sent while there is no connection
REFUSED_MAX = 1_000  # subjects that the server refused and nobody asked about yet
PROBLEMS_MAX = 4  # different ones that a failed start names

_REFUSED = re.compile(r'permissions violation for publish to "([^"]+)"', re.IGNORECASE)


class Link:
    """See the head of this module; `counts` gets `reconnects` and `dropped`."""

    def __init__(self, settings: Settings, name: str, url: str) -> None:
        """`name` is shown by the server. Raises ConfigurationError when nats-py is not installed."""
        if nats is None:
            raise ConfigurationError("NATS needs the package nats-py: pip install 'rookery[nats]'")
        scheme, _, rest = url.partition("://")
        login, at, _ = rest.partition(",")[0].rpartition("@")
        self._servers = [f"{scheme}://{part if '@' in part else login + at + part}" for part in rest.split(",")]
        self.server = ",".join(f"{host}:{port}" for host, port in endpoints(url, 4222))
        self._settings = settings
        self._name = name
        self._up = asyncio.Event()
        self._last_error = "it does not answer"
        self._problems: list[str] = []  # of the start
        self._refused: set[str] = set()
        self.counts = {"reconnects": 0, "dropped": 0}
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.nc: Any = nats.NATS()
        self.js: Any = self.nc.jetstream(timeout=5)

    async def open(self) -> None:
        """Connect; raises NatsUnavailable, and ConfigurationError for a file of settings that can't be used."""
        settings = self._settings
        options: dict[str, Any] = {}
        if self._servers[0].startswith("tls:"):
            password = settings.nats_key_password
            options["tls"] = tls.context(
                settings.nats_ca_file,
                settings.nats_certificate_file,
                settings.nats_key_file,
                password.get_secret_value() if password else "",
            )
        if settings.nats_credentials_file:
            credentials = Credentials(settings.nats_credentials_file)
            options |= {"signature_cb": credentials.sign, "user_jwt_cb": credentials.jwt}
        try:
            async with asyncio.timeout(CONNECT_PATIENCE):
                await self.nc.connect(
                    self._servers,
                    name=self._name,
                    error_cb=self._failed,
                    disconnected_cb=self._lost,
                    reconnected_cb=self._back,
                    closed_cb=self._ended,
                    connect_timeout=5,
                    reconnect_time_wait=RECONNECT_WAIT,
                    max_reconnect_attempts=-1,
                    ping_interval=PING_INTERVAL,
                    pending_size=PENDING_BYTES_MAX,
                    **options,
                )
        except TimeoutError:
            await self.close()
            raise NatsUnavailable(self.server, "; ".join(self._problems) or self._last_error) from None
        self._up.set()

    async def close(self) -> None:
        """Send what is buffered and disconnect."""
        if self.nc.is_connected:
            try:
                await self.nc.flush(timeout=2)
            except nats.errors.Error as error:
                log.warning("the last messages to NATS may be lost: %s", error)
        with contextlib.suppress(OSError):  # there may be no connection to close
            await self.nc.close()

    @property
    def is_up(self) -> bool:
        """Whether there is a connection now."""
        return self._up.is_set()

    async def up(self) -> None:
        """Wait until there is a connection."""
        await self._up.wait()

    async def stream_of(self, subject: str) -> str | None:
        """A stream that takes the subject, None without one, also if the server has no JetStream. Raises its errors."""
        errors = nats.js.errors
        try:
            return str(await self.js.find_stream_name_by_subject(subject))
        except (errors.NotFoundError, errors.ServiceUnavailableError, nats.errors.NoRespondersError):
            return None

    def was_refused(self, subject: str) -> bool:
        """Whether the server did not let us publish to a subject since this was asked last; known after a flush."""
        refused = subject in self._refused
        self._refused.discard(subject)
        return refused

    async def _failed(self, error: Exception) -> None:
        if isinstance(error, nats.errors.SlowConsumerError):
            self.counts["dropped"] += 1
            if self.counts["dropped"] % 1_000 == 1:
                log.warning("messages come faster than Kafka takes them: %d dropped", self.counts["dropped"])
            return
        text = str(error) or type(error).__name__
        if found := _REFUSED.search(text):
            if len(self._refused) >= REFUSED_MAX:
                self._refused.clear()
            self._refused.add(found[1])
        if text != self._last_error:  # a server that is away fails in the same way twice a second
            log.warning("NATS at %s: %s", self.server, text)
        self._last_error = text
        if text not in self._problems and len(self._problems) < PROBLEMS_MAX:  # a refusal is often followed by a reset
            self._problems.append(text)

    async def _lost(self) -> None:
        if self._up.is_set():
            log.warning("lost the connection to NATS at %s", self.server)
        self._up.clear()

    async def _back(self) -> None:
        self.counts["reconnects"] += 1
        log.info("connected to NATS at %s again", self.server)
        self._up.set()

    async def _ended(self) -> None:
        self._up.clear()
        if self.nc.last_error is not None:  # what ends a connection for good is told to no other callback
            self._last_error = str(self.nc.last_error)
        if not self.closed.done():
            self.closed.set_result(None)

    @property
    def last_error(self) -> str:
        """What went wrong last."""
        return self._last_error


class Tasks:
    """At most `limit` tasks at once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()

    def __len__(self) -> int:
        return len(self._running)

    @property
    def room(self) -> int:
        """How many more may be started."""
        return self._limit - len(self._running)

    async def wait_for_room(self) -> None:
        """Return when one more may be started."""
        while self.room <= 0:
            self._ended.clear()
            await self._ended.wait()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Start one; the caller has seen that there is room. What it raises is logged."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._ended.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("unexpected", exc_info=error)

    async def finish(self, timeout: float) -> None:
        """Wait for all for so many seconds, then cancel the rest."""
        if not self._running:
            return
        _, late = await asyncio.wait(self._running, timeout=timeout)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
