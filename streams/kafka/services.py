"""The parts of Faust's service graph that carry the engine."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
import uuid
from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

from faust.app.base import BootStrategy as FaustBootStrategy
from faust.tables.manager import TableManager as FaustTableManager
from faust.tables.recovery import RebalanceAgain, ServiceStopped
from faust.tables.recovery import Recovery as FaustRecovery
from mode import Service

from rookery.ops.servers.addresses import is_loopback
from rookery.ops.settings import Settings
from rookery.schemas import native
from rookery.schemas.errors import ConfigurationError, NotBound
from rookery.schemas.ids import id_source
from rookery.streams.client import Client
from rookery.streams.core.store import in_memory
from rookery.streams.engine.engine import Engine
from rookery.streams.kafka import acls, registration, selftest, topics
from rookery.streams.kafka.datadir import own_folder
from rookery.streams.kafka.log import KafkaLog
from rookery.streams.kafka.watchdog import Watchdog
from rookery.streams.rocks import RocksStores, stores_folder

if TYPE_CHECKING:
    from rookery.streams.kafka.app import App

log = logging.getLogger(__name__)

# Young collections look at short-lived objects only once this many are there, since messages and effects mostly die by
# reference count; what start-up made is frozen, so that no collection looks at it again.
GC_THRESHOLDS = (50_000, 20, 50)

# Sending what the worker's own client has buffered and removing its reply topic, at the end; seconds.
CLIENT_STOP_TIMEOUT = 5.0


def refuse_open_web(settings: Settings, host: str) -> None:
    """Raise ConfigurationError if pages without a token could be reached from outside.

    The settings checked their own host; this one may come from Faust's command line.
    """
    if not (is_loopback(host) or settings.web_token or settings.allow_open_web):
        raise ConfigurationError(
            f"--web-bind {host} can be reached from outside: set ROOKERY_WEB_TOKEN, or ROOKERY_ALLOW_OPEN_WEB=true"
        )


class EngineService(Service):
    """Runs the engine inside a Faust worker: started before the consumer, stopped after it."""

    def __init__(self, app: App, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.app = app
        self._engine: Engine | None = None
        self._log: KafkaLog | None = None
        self._client: Client | None = None
        self._stores: RocksStores | None = None
        self.settings = app.settings
        self._folders = contextlib.ExitStack()
        self._watchdog = Watchdog(app.settings.session_timeout)

    @property
    def engine(self) -> Engine:
        """The running engine; raises NotBound before it is started."""
        if self._engine is None:
            raise NotBound("the engine")
        return self._engine

    @property
    def running(self) -> Engine | None:
        """The running engine, None before it is started."""
        return self._engine

    @property
    def client(self) -> Client | None:
        """The client of this worker's agents, None before it is started."""
        return self._client

    @property
    def statistics(self) -> dict[str, Any]:
        """Of the engine; empty before it is started."""
        if self._engine is None or self._client is None:
            return {}
        return {
            **self._engine.statistics(),
            "loop_late": self._watchdog.take_late_max(),
            "balance": self.app.balancer.statistics(),
            "late_replies": self._client.late_count,
            "locks": self._client.lock_statistics,
            "stores": {} if self._stores is None else self._stores.statistics(),
        }

    @property
    def trouble(self) -> str:
        """Why work should go elsewhere: the loop is or just was stuck; empty when all is well."""
        late = self._watchdog.recently_late()
        return f"the event loop was stuck for {late:.1f} s" if late else ""

    def stop_within(self, seconds: float) -> None:
        """A planned stop has begun; the process ends by then, whatever hangs."""
        self._watchdog.stop_within(seconds)

    def hurry(self, seconds: float) -> None:
        """End a planned stop soon, without waiting for handlers."""
        self._watchdog.stop_within(seconds)
        if self._engine is not None:
            self._engine.hurry()

    async def on_start(self) -> None:
        """Check the ground, make topics, connect.

        Raises IncompatibleVersion, WrongTopic, OtherApplication, NotFenced, ConfigurationError, and what tells why a
        broker refuses us: BrokerUnreachable, NotAuthenticated, NotAuthorized.
        """
        self._watchdog.start()
        selftest.check()
        app, settings = self.app, self.app.settings
        if app.conf.web_enabled:
            refuse_open_web(settings, str(app.conf.web_bind))
        await acls.check(settings.app_id, app.client_kwargs, "worker", settings.nats_out)
        made = await topics.ensure(settings, app.client_kwargs)
        if made:
            log.info("made topics: %s", ", ".join(made))
        log.info("the hot path is %s", "compiled" if native.in_use() else "pure Python: docs/performance.md says why")
        self._log = KafkaLog(app.topic_names, app.client_kwargs)
        await self._log.start()
        await self._log.check_fence()
        await registration.register(settings, app.registry, app.client_kwargs)
        self._log.attach(cast("Any", app.consumer))
        if settings.store == "rocksdb":
            home = {"app": settings.app_id, "journal": (await self._log.journal_id()).hex()}
            age_max = topics.TOMBSTONES_KEPT_MS / 1000 / 2
            folder = self._folders.enter_context(own_folder(stores_folder(settings.data_dir, settings.app_id)))
            self._stores = RocksStores(folder, home, age_max, time.time)
        self._engine = Engine(
            settings,
            app.registry,
            self._log,
            worker=app.worker_name,
            now_ns=time.time_ns,
            new_id=id_source(f"{uuid.uuid4().hex[:16]}-"),
            observe=app.metrics.observer,
            open_store=in_memory if self._stores is None else self._stores.open,
        )
        await self._engine.start()
        self._client = Client(settings.app_id, engine=self._engine, settings=settings)
        await self._client.__aenter__()
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)

    async def on_stop(self) -> None:
        """Stop at once: the consumer has drained before."""
        if self._client is not None:
            # Its producer would wait for a broker that has gone.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLIENT_STOP_TIMEOUT):
                    await self._client.__aexit__(None, None, None)
        if self._engine is not None:
            await self._engine.stop()
        if self._log is not None:
            await self._log.stop()
        self._folders.close()

    @Service.task
    async def _watch(self) -> None:
        """End the worker when the engine can't go on: the log is the truth, another worker takes over."""
        while self._engine is None and not self.should_stop:
            await self.sleep(0.1)
        if self._engine is not None:
            await asyncio.wait([self._engine.failed])
            error = self._engine.failed.exception()
            if error is not None and not self.should_stop:
                await self.crash(error)


class BootStrategy(FaustBootStrategy):
    """Faust's order of services, with the engine before the consumer."""

    def server(self) -> Iterable[Any]:
        """Services in the order in which they start; they stop in reverse."""
        app = cast("App", self.app)
        return chain(
            self.sensors(),
            # Before Faust's producer, since it says clearly why a broker refuses us.
            [app.engine_service, app.balancer],
            self.kafka_producer(),
            self.web_server(),
            self.kafka_consumer(),
            self.agents(),
            self.kafka_conductor(),
            self.tables(),
        )


class Recovery(FaustRecovery):
    """Lets the engine recover journal partitions, which it does in the same way after a lost lease.

    What is left of Faust's: which partitions are ours now, and resuming the flow when a rebalance is over.
    """

    @Service.task
    async def _restart_recovery(self) -> None:
        app = cast("App", self.app)
        while not self.should_stop:
            if await self.wait_for_stopped(self.signal_recovery_start):  # type: ignore[arg-type]
                return
            self.signal_recovery_start.clear()
            generation = self._generation_id
            inbox = app.topic_names.inboxes[0]
            mine = {tp.partition for tp in app.consumer.assignment() if tp.topic == inbox}
            journal = app.topic_names.journal
            copies = {tp.partition for tp in app.assignor.assigned_standbys() if tp.topic == journal}
            await app.engine.assigned(mine, generation, copies)
            if not self.signal_recovery_start.is_set():
                # Faust ends the wait in there by exceptions when the worker stops or the next rebalance is over.
                with contextlib.suppress(RebalanceAgain, ServiceStopped):
                    await self._resume_streams(generation_id=generation)

    @Service.task
    async def _slurp_changelogs(self) -> None:
        """Nothing to read: see the class."""

    @Service.task
    async def _publish_stats(self) -> None:
        """Nothing to publish: see the class."""

    def flush_buffers(self) -> None:
        """Nothing is buffered: see the class."""


class TableManager(FaustTableManager):
    """Faust's table manager with our recovery."""

    @property
    def recovery(self) -> Recovery:
        """The recovery service."""
        if self._recovery is None:
            self._recovery = Recovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return cast("Recovery", self._recovery)
