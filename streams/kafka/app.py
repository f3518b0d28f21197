"""The Faust application around the engine. `faust -A <module> worker` runs it.

    app = App("flights", agents=[Plane, Carrier, Airport])

Kept from Faust: worker, command line, boot order, settings, web, timers, the journal as a table (which makes Faust
co-partition it with the inboxes), the consumer's thread, the commit timer. Replaced: the path of a
message (`consumer`), table recovery (`services`), and every default that is dangerous for durable agents (`presets`).
"""

from __future__ import annotations

import os
import socket
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import faust
from faust.exceptions import SecurityWarning

from rookery.agents import Agent
from rookery.agents.types import Registry
from rookery.ops.hot import Load
from rookery.ops.metrics import Metrics
from rookery.ops.settings import Settings
from rookery.schemas.address import partition_of
from rookery.schemas.envelope import Priority
from rookery.schemas.errors import ConfigurationError
from rookery.streams.core.routing import Topics
from rookery.streams.engine.engine import Engine
from rookery.streams.kafka import cli, cli_dlq, cli_fleet, security  # noqa: F401 - the commands register themselves
from rookery.streams.kafka.assignor import WeightedAssignor
from rookery.streams.kafka.balancer import Balancer
from rookery.streams.kafka.consumer import Transport
from rookery.streams.kafka.loop import choose_loop
from rookery.streams.kafka.services import BootStrategy, EngineService, TableManager
from rookery.streams.kafka.worker import Worker
from rookery.streams.web import SETTINGS as WEB_SETTINGS
from rookery.streams.web import add_pages, guard

# Leaving the group over a slow loop is our own decision, not aiokafka's; seconds.
POLL_INTERVAL_MAX = 86_400.0
# Offsets are committed for lag tools only; recovery reads the journal. Seconds.
COMMIT_INTERVAL = 1.0
# A produce or fetch request that is not answered by then has failed; seconds.
REQUEST_TIMEOUT = 30.0


def presets(settings: Settings) -> dict[str, Any]:
    """Faust's settings for durable agents, each chosen on purpose."""
    return {
        "broker": ";".join(f"kafka://{server.strip()}" for server in settings.broker.split(",")),
        "broker_session_timeout": settings.session_timeout,
        "broker_heartbeat_interval": settings.heartbeat_interval,
        # Nothing in the revoke path waits for handlers, so a member that takes longer is dead.
        "broker_rebalance_timeout": settings.session_timeout,
        "broker_request_timeout": max(REQUEST_TIMEOUT, settings.session_timeout),
        "broker_max_poll_interval": POLL_INTERVAL_MAX,
        "broker_max_poll_records": settings.fetch_records_max,
        "broker_commit_interval": COMMIT_INTERVAL,
        "broker_check_crcs": True,
        "consumer_auto_offset_reset": "earliest",
        "consumer_max_fetch_size": max(settings.topic_bytes_max, settings.fetch_bytes_max // 12),
        "producer_acks": -1,
        "producer_request_timeout": REQUEST_TIMEOUT,
        "producer_threaded": False,
        "processing_guarantee": "at_least_once",
        "topic_partitions": settings.partitions,
        # Topics are ours to make (`topics`): this is only what Faust asks for.
        "topic_replication_factor": settings.replication_factor or 1,
        "topic_allow_declare": False,
        "topic_disable_leader": True,
        "reply_create_topic": False,
        "table_standby_replicas": settings.standbys,
        "store": "memory://",
        "datadir": Path(settings.data_dir),
        "key_serializer": "raw",
        "value_serializer": "raw",
        "stream_wait_empty": True,
        "stream_publish_on_commit": False,
        "worker_redirect_stdouts": False,
        "web_bind": settings.web_host,
        "web_host": settings.web_host,
        "web_port": settings.web_port or free_port(settings.web_host),
        **WEB_SETTINGS,
        **(guard(settings.web_token.get_secret_value()) if settings.web_token is not None else {}),
        "autodiscover": False,
        "TableManager": TableManager,
        "PartitionAssignor": WeightedAssignor,
        "consumer_group_instance_id": settings.agent_id if settings.static_membership else None,
        "Worker": Worker,
    }


def free_port(host: str) -> int:
    """A port that nobody listens on now."""
    with socket.create_server((host, 0)) as server:
        port: int = server.getsockname()[1]
        return port


class SettingsRefused(ConfigurationError, click.UsageError):
    """Of an application: Faust's command line prints what is wrong and exits with 2, where others raise it further."""


class App(faust.App):
    """A Rookery application; see the head of this module."""

    BootStrategy = BootStrategy

    def __init__(self, app_id: str | None = None, *, agents: Iterable[type[Agent]] = (), **settings: Any) -> None:
        """`app_id` names the application, else ROOKERY_APP_ID does; `settings` override the environment.

        Raises ConfigurationError naming all bad settings.
        """
        if app_id is not None:
            settings["app_id"] = app_id
        try:
            self.settings = Settings.load(**settings)
            self.client_kwargs = security.client_kwargs(self.settings)
        except ConfigurationError as error:
            raise SettingsRefused(error.problems) from None
        # Faust's command line, which has loaded us, makes its loop next; whoever else builds an application has one.
        if "faust.cli.faust" in sys.modules:
            choose_loop(self.settings)
        self.registry = Registry()
        for cls in agents:
            self.registry.add(cls)
        self.topic_names = Topics(self.settings.app_id)
        self.worker_name = self.settings.agent_id or f"{socket.gethostname()}-{os.getpid()}"
        warnings.simplefilter("error", SecurityWarning)
        credentials = security.faust_credentials(self.client_kwargs)
        super().__init__(self.settings.app_id, broker_credentials=credentials, **presets(self.settings))
        # Co-partitions the journal with the inboxes, and keeps our assignor in use.
        self.Table("journal", partitions=self.settings.partitions)
        self.engine_service = EngineService(self)
        self.balancer = Balancer(self)
        self.metrics = Metrics(self.settings.metrics_agents_max)
        self.metrics.attach(lambda: self.engine_service.statistics)
        partitions = self.settings.partitions
        self.load = Load(lambda address: partition_of(address, partitions))
        add_pages(
            self, self.metrics, lambda: self.engine_service.running, lambda: self.engine_service.trouble, self.load
        )
        for priority in Priority:
            self._add_processor(priority)

    @property
    def engine(self) -> Engine:
        """The running engine; raises NotBound before it is started."""
        return self.engine_service.engine

    def _add_processor(self, priority: Priority) -> None:
        """One Faust agent for each inbox; each of its events is what one fetch brought of one partition."""
        lane = int(priority)
        # The engine tracks what is done; Faust would keep the offset of each event for ever.
        inbox = self.topic(self.topic_names.inboxes[lane], key_type=bytes, value_type=bytes, acks=False)

        async def process(batches: faust.StreamT[Any]) -> None:
            async for event in batches.events():
                self.engine.fetched(event.message.partition, lane, event.value)

        self.agent(inbox, name=f"inbox-{priority.name.lower()}")(process)

    def _new_transport(self) -> Any:
        return Transport(self.conf.broker_consumer, self)

    def _create_directories(self) -> None:
        # Faust does not make parents.
        for folder in (self.conf.datadir, self.conf.appdir, self.conf.tabledir):
            folder.mkdir(parents=True, exist_ok=True)
