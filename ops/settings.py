"""All settings of Rookery on one page, each with its unit and its bounds; every bad one is reported at once.

Sources, strongest first: keyword arguments of `Settings.load`, variables ``ROOKERY_<NAME>``, the defaults below.
Durations are seconds, sizes are bytes. A secret may also come from a file, as container platforms hand them out:
``ROOKERY_<NAME>_FILE`` names it; a line break at its end is left out.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsConfigDict

from rookery.ops import secrets
from rookery.ops.servers import addresses
from rookery.ops.settings_rules import Rules
from rookery.schemas.errors import ConfigurationError

PREFIX: Final = "ROOKERY_"
MINUTE: Final = 60.0
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR
BROKER_BATCH_BYTES: Final = 1_048_588
"""The largest batch a Kafka topic takes by default (``max.message.bytes``)."""
SECRETS: Final = (
    "broker_password",
    "broker_key_password",
    "redis_url",
    "redis_password",
    "redis_key_password",
    "nats_url",
    "nats_key_password",
    "web_token",
)
"""Settings that may also be read from a file."""
_SUBJECT: Final = r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$"


class Settings(Rules):
    """Immutable settings of one process. Make them with `Settings.load`, which explains what is wrong."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True, env_ignore_empty=True
    )

    # --- where -------------------------------------------------------------------------------------------------
    app_id: str = Field(
        pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,99}$",
        description="name of the application: prefix of its topics, consumer group and leases",
    )
    agent_id: str | None = Field(
        None,
        pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,99}$",
        description="name of this worker, its own and the same after a restart; default: its host and process",
    )
    broker: str = Field(
        "127.0.0.1:9092",
        min_length=1,
        description="Kafka servers as host:port, separated by commas, also with kafka:// before them; for a client "
        "that has no way to Kafka nats://host:port",
    )
    redis_url: str | None = Field(
        None,
        repr=False,  # it may carry a password
        pattern=r"^(rediss?(\+sentinel|\+cluster)?|unix)://.+$",
        description="redis://host:port/database, redis+sentinel://host:port,host:port/service, "
        "redis+cluster://host:port,host:port; rediss for TLS; only locks and limits need it",
    )
    redis_timeout: float = Field(1.0, ge=0.05, le=60, description="seconds a command to Redis may take")
    data_dir: str = Field(
        ".rookery/data", min_length=1, description="folder for local stores; each worker in it has its own"
    )
    web_host: str = Field("127.0.0.1", min_length=1, description="address of health and metrics pages")
    web_port: int = Field(0, ge=0, le=65_535, description="their port; 0 takes a free one")
    web_token: SecretStr | None = Field(
        None, description="whoever asks for /metrics must show it, as `Authorization: Bearer <token>`"
    )
    allow_open_web: bool = Field(
        False, validate_default=True, description="allow a web_host other than loopback without a web_token"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="what the log shows")
    event_loop: Literal["uvloop", "asyncio"] = Field(
        "uvloop", description="of a worker; asyncio's anyway where uvloop can't be installed, and with TLS"
    )

    # --- who we are, to Kafka ----------------------------------------------------------------------------------
    broker_tls: bool = Field(False, description="speak TLS with the broker; its certificate and host name are checked")
    broker_ca_file: str | None = Field(None, description="PEM file of the CA to trust; default: those of the system")
    broker_certificate_file: str | None = Field(None, description="PEM file of our certificate, for mutual TLS")
    broker_key_file: str | None = Field(None, description="PEM file of its key, unless it is in the same file")
    broker_key_password: SecretStr | None = Field(None, validate_default=True, description="of a locked key")
    allow_plaintext_sasl: bool = Field(False, description="allow a password to go over a connection without TLS")
    broker_sasl: Literal["plain", "scram-sha-256", "scram-sha-512"] | None = Field(
        None, description="how to log in; needs broker_user and broker_password"
    )
    broker_user: str | None = Field(None, min_length=1, validate_default=True, description="name to log in with")
    broker_password: SecretStr | None = Field(None, validate_default=True, description="of broker_user")

    # --- who we are, to Redis: TLS by the scheme rediss:// of its URL ------------------------------------------
    redis_user: str | None = Field(None, min_length=1, description="ACL user, unless the URL names one")
    redis_password: SecretStr | None = Field(None, description="unless the URL has one")
    allow_plaintext_redis: bool = Field(False, validate_default=True, description="allow a password to go without TLS")
    redis_ca_file: str | None = Field(None, description="PEM file of the CA to trust; default: those of the system")
    redis_certificate_file: str | None = Field(None, description="PEM file of our certificate, for mutual TLS")
    redis_key_file: str | None = Field(None, description="PEM file of its key, unless it is in the same file")
    redis_key_password: SecretStr | None = Field(None, validate_default=True, description="of a locked key")

    # --- NATS: the edge beside the workers ---------------------------------------------------------------------
    nats_url: str | None = Field(
        None,
        repr=False,  # it may carry a password or token
        pattern=r"^(nats|tls)://.+$",
        description="nats://user:password@host:port, servers separated by commas; tls for TLS; of the edge, and of a "
        "client whose broker is nats://",
    )
    nats_ca_file: str | None = Field(None, description="PEM file of the CA to trust; default: those of the system")
    nats_certificate_file: str | None = Field(None, description="PEM file of our certificate, for mutual TLS")
    nats_key_file: str | None = Field(None, description="PEM file of its key, unless it is in the same file")
    nats_key_password: SecretStr | None = Field(None, validate_default=True, description="of a locked key")
    nats_credentials_file: str | None = Field(None, description="file of a user's JWT and key, as nsc makes it")
    nats_prefix: str = Field(
        "agents", pattern=_SUBJECT, description="agents are reached at the subjects <nats_prefix>.<address>"
    )
    nats_stream: str | None = Field(
        None, pattern=r"^[^\s.*>/\\]{1,255}$", description="JetStream stream whose messages go to agents"
    )
    nats_stream_prefix: str = Field(
        "stream.agents", pattern=_SUBJECT, description="its subjects are <nats_stream_prefix>.<address>"
    )
    nats_durable: str = Field(
        "rookery", pattern=r"^[^\s.*>/\\]{1,255}$", description="name of the edges' consumer on the stream"
    )
    nats_in_flight: int = Field(
        1_000, ge=1, le=100_000, description="asks, messages and stream messages in the edge's hands, each"
    )
    nats_out: bool = Field(
        False, description="agents may write to nats/<subject>; the same for workers, clients and edges"
    )

    # --- topics ------------------------------------------------------------------------------------------------
    partitions: int = Field(12, ge=1, le=500, description="of every inbox and of the journal")
    replication_factor: int | None = Field(
        None, ge=1, le=9, description="copies of a partition; default: 3, or one for each broker if there are fewer"
    )
    min_insync_replicas: int | None = Field(
        None, ge=1, le=9, description="copies an ack stands for; default: all but one, which is 2 of 3"
    )
    inbox_retention: float = Field(7 * DAY, ge=HOUR, le=3650 * DAY, description="seconds")
    deadletter_retention: float = Field(30 * DAY, ge=HOUR, le=3650 * DAY, description="seconds")

    # --- the consumer group ------------------------------------------------------------------------------------
    session_timeout: float = Field(10.0, ge=1, le=300, description="seconds until a dead worker is missed")
    heartbeat_interval: float = Field(1.0, ge=0.1, le=60, description="seconds; 3 fit a session_timeout")
    fetch_records_max: int = Field(5_000, ge=1, le=100_000, description="records one fetch hands over")
    fetch_bytes_max: int = Field(
        52_428_800, ge=65_536, le=1 << 30, description="bytes of one answer of a broker, over all partitions"
    )

    static_membership: bool = Field(
        False,
        validate_default=True,
        description="keep the partitions of a worker that is back within session_timeout; needs agent_id",
    )
    place: str = Field("", pattern=r"^[^/]*(/[^/]+)*$", description="zone/rack/host: copies are put elsewhere")
    partitions_max: int | None = Field(None, ge=0, le=500, description="the most partitions that this worker takes")

    # --- weights: partitions are shared out in proportion ------------------------------------------------------
    weight: float | None = Field(None, ge=0, le=1_000_000, description="fixed instead of measured; 0 takes none")
    weight_cpu: float = Field(0.5, ge=0, le=1, description="share of the free processor in the weight")
    weight_mem: float = Field(0.3, ge=0, le=1, description="share of the free memory")
    weight_net: float = Field(0.2, ge=0, le=1, description="share of the free network; the three add up to 1")
    network_mbit: float | None = Field(
        None, ge=1, le=10_000_000, description="bandwidth of this node, Mbit/s; default: what its cards say"
    )
    weight_band: float = Field(0.25, ge=0, le=10, description="relative change of a weight that moves partitions")
    weight_cool_down: float = Field(30.0, ge=0, le=HOUR, description="seconds between such changes")
    handover_delay: float = Field(
        10.0, ge=0, le=HOUR, description="seconds a partition with long turns in flight may move later"
    )

    # --- turns -------------------------------------------------------------------------------------------------
    concurrency_max: int = Field(1_000, ge=1, le=100_000, description="turns at once in this process")
    mailbox_max: int = Field(
        10_000, ge=1, le=1_000_000, description="messages waiting for one agent that waits itself; more are refused"
    )
    adopt_after: float = Field(
        2.0, ge=0.01, le=HOUR, description="seconds a message is in hand before the journal takes it over"
    )
    window_max: int = Field(
        50_000, ge=100, le=10_000_000, description="unfinished messages of one inbox partition before it is paused"
    )
    window_bytes_max: int = Field(
        32 * 1024 * 1024, ge=1_000_000, le=1 << 34, description="their bytes, likewise; one fetch may exceed it"
    )
    activations_max: int = Field(
        20_000, ge=1, le=10_000_000, description="agents in memory; more leave as soon as they idle"
    )
    passivate_after: float = Field(60.0, ge=0.1, le=30 * DAY, description="seconds an agent idles first")
    dedup_window: int = Field(
        10_000,
        ge=0,
        le=1_000_000,
        description="records of one inbox partition in which a client's repeated id is known",
    )

    # --- the journal -------------------------------------------------------------------------------------------
    topic_bytes_max: int = Field(
        BROKER_BATCH_BYTES,
        ge=100_000,
        le=100_000_000,
        description="max.message.bytes of our topics and the producer's largest batch",
    )
    batch_turns_max: int = Field(5_000, ge=1, le=100_000, description="turns in one commit batch")
    batch_bytes_max: int = Field(900_000, ge=10_000, le=64_000_000, description="bytes of records in one commit batch")
    message_bytes_max: int = Field(900_000, ge=1_000, le=64_000_000, description="bytes of one message")
    outbox_ring: int = Field(64, ge=2, le=10_000, description="commit batches whose messages are unsent")
    lease_renewal: float = Field(DAY, ge=MINUTE, le=6 * DAY, description="seconds; brokers forget after 7 d")
    position_refresh: float = Field(6 * HOUR, ge=1, le=DAY, description="seconds, of an idle partition")
    store: Literal["memory", "rocksdb"] = Field(
        "memory", description="where agents are kept that are not in use; on disk a restart reads only what is new"
    )

    # --- the ground --------------------------------------------------------------------------------------------
    ground_interval: float = Field(30.0, ge=1, le=HOUR, description="seconds between looks at the inboxes' logs")

    standbys: int = Field(0, ge=0, le=9, description="workers that keep a warm copy of a partition others own")

    # --- waiting -----------------------------------------------------------------------------------------------
    spawn_wait: float = Field(10.0, ge=0, le=HOUR, description="seconds a message waits for its spawn")
    ask_timeout: float = Field(30.0, ge=0.01, le=30 * DAY, description="seconds an ask waits by default")
    drain_timeout: float = Field(30.0, ge=0, le=HOUR, description="seconds a planned stop may take")

    # --- metrics -----------------------------------------------------------------------------------------------
    metrics_agents_max: int = Field(100, ge=0, le=10_000, description="agents with a label of their own")

    @classmethod
    def load(cls, **overrides: Any) -> Settings:
        """Read the settings; keyword arguments beat the environment.

        Raises:
            ConfigurationError: its `problems` name every bad setting, its variable and what is allowed.
        """
        # The names under which other programs already know these come after our own.
        variables = {}
        for name, choices in _VARIABLES.items():
            if name not in overrides and (found := addresses.given(choices)):
                variables[name], overrides[name] = found
        problems = secrets.read(SECRETS, PREFIX, overrides, variables)
        try:
            settings = cls(**overrides)
        except ValidationError as error:
            problems += [_problem(cls, details, variables) for details in error.errors()]
            raise ConfigurationError(problems) from None
        if problems:
            raise ConfigurationError(problems)
        return settings


_VARIABLES: Final = {
    "agent_id": ("ROOKERY_AGENT_ID", "AGENT_ID"),
    "broker": addresses.BROKER_VARIABLES,
    "redis_url": addresses.REDIS_VARIABLES,
}


def _problem(settings: type[Settings], details: ErrorDetails, variables: dict[str, str]) -> str:
    """Say what is wrong with one setting; never its value, which may be a secret."""
    name = str(details["loc"][0])
    field = settings.model_fields.get(name)
    if field is None:
        return f"{name}: there is no such setting"
    where = f"{name} ({variables.get(name, PREFIX + name.upper())}, {field.description})"
    if details["type"] == "missing":
        return f"{where}: must be set"
    bounds = {key: getattr(part, key) for part in field.metadata for key in ("ge", "le") if hasattr(part, key)}
    kind = "a whole number" if field.annotation in (int, int | None) else "a number"
    if bounds and details["type"] != "value_error":
        return f"{where}: must be {kind} from {bounds['ge']:.10g} to {bounds['le']:.10g}"
    return f"{where}: {details['msg'].removeprefix('Value error, ')}"
