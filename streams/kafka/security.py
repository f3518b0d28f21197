"""The one place that knows how we show who we are to Kafka: every client's arguments come from here.

It also keeps secrets out of logs (aiokafka prints whole requests at debug, the one with the password too), and turns
what aiokafka reports as "unable to bootstrap" into an error that says which setting to mend.
"""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import faust
from aiokafka.conn import create_conn
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest
from faust.types.auth import CredentialsT

from rookery.ops import tls
from rookery.ops.servers.addresses import endpoints
from rookery.ops.settings import Settings
from rookery.ops.settings_rules import NATS
from rookery.schemas.errors import BrokerUnreachable, ConfigurationError, NotAuthenticated, NotAuthorized, RookeryError

# A server is asked why it refused us for no longer than this; seconds.
EXPLAIN_TIMEOUT = 5.0
SERVERS_ASKED_MAX = 3

# What a broker says that knows us and refuses us something, and what it then is about.
REFUSALS: Mapping[type[KafkaError], str] = {
    ClusterAuthorizationFailedError: "the cluster",
    GroupAuthorizationFailedError: "the consumer group",
    TopicAuthorizationFailedError: "topic",
    TransactionalIdAuthorizationFailed: "the transactional id",
}


class Secret(str):
    """A text that is not shown by accident: its repr hides it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


class _WithoutCredentials(logging.Filter):
    """Drops aiokafka's debug lines about requests that carry credentials."""

    def filter(self, record: logging.LogRecord) -> bool:
        args = record.args if isinstance(record.args, tuple) else (record.args,)
        return not any(type(arg).__name__.startswith("SaslAuthenticate") for arg in args)


_FILTER = _WithoutCredentials()


def client_kwargs(settings: Settings) -> dict[str, Any]:
    """What every aiokafka client of ours is made with: servers and security.

    Raises ConfigurationError for a broker that is NATS.
    """
    if settings.broker.startswith(NATS):
        raise ConfigurationError(
            f"broker is {settings.broker}, which is NATS: workers, the NATS edge and what reads topics speak Kafka, so "
            "set ROOKERY_BROKER or BUS_ADDRESS to kafka://host:port. The edge (`python -m rookery.streams.nats`) finds "
            "NATS by ROOKERY_NATS_URL; only programs that tell and ask through it have nats:// as their broker"
        )
    # Here, since nobody gets a connection around it; adding it twice changes nothing.
    logging.getLogger("aiokafka.conn").addFilter(_FILTER)
    kwargs: dict[str, Any] = {"bootstrap_servers": settings.broker}
    if settings.broker_tls:
        kwargs["ssl_context"] = tls.context(
            settings.broker_ca_file,
            settings.broker_certificate_file,
            settings.broker_key_file,
            settings.broker_key_password.get_secret_value() if settings.broker_key_password else "",
        )
    if settings.broker_sasl is not None and settings.broker_password is not None:
        kwargs |= {
            "sasl_mechanism": settings.broker_sasl.upper(),
            "sasl_plain_username": settings.broker_user,
            "sasl_plain_password": Secret(settings.broker_password.get_secret_value()),
        }
    if len(kwargs) > 1:
        sasl = "SASL_" if settings.broker_sasl else ""
        kwargs["security_protocol"] = sasl + ("SSL" if settings.broker_tls else "PLAINTEXT")
    return kwargs


def faust_credentials(kwargs: Mapping[str, Any]) -> CredentialsT | None:
    """The same for Faust's own consumer and producer."""
    context = kwargs.get("ssl_context")
    if "sasl_mechanism" in kwargs:
        return faust.SASLCredentials(
            mechanism=kwargs["sasl_mechanism"],
            username=kwargs["sasl_plain_username"],
            password=kwargs["sasl_plain_password"],
            ssl_context=context,
        )
    return None if context is None else faust.SSLCredentials(context)


@asynccontextmanager
async def explained(kwargs: Mapping[str, Any]) -> AsyncIterator[None]:
    """Raise BrokerUnreachable, NotAuthenticated or NotAuthorized instead of aiokafka's errors for the same."""
    try:
        yield
    except KafkaConnectionError as error:
        raise await explain(kwargs) from error
    except tuple(REFUSALS) as error:
        raise refused(error) from error


def refused(error: KafkaError, name: str = "") -> NotAuthorized:
    """The typed form of one of REFUSALS; `name` is that of the resource, if the caller knows better."""
    return NotAuthorized(f"{REFUSALS[type(error)]} {name or (error.args[0] if error.args else '')}".strip())


async def explain(kwargs: Mapping[str, Any]) -> RookeryError:
    """Why no server took us, by trying again one by one; never says a password."""
    broker = kwargs["bootstrap_servers"]
    security = {key: value for key, value in kwargs.items() if key.startswith(("security", "ssl", "sasl"))}
    found: RookeryError = BrokerUnreachable(broker, "there is no server in the address")
    for host, port in endpoints(broker, 9092)[:SERVERS_ASKED_MAX]:
        try:
            async with asyncio.timeout(EXPLAIN_TIMEOUT):
                _, plain = await asyncio.open_connection(host, port)
            plain.close()
        except OSError as error:
            found = BrokerUnreachable(f"{host}:{port}", getattr(error, "strerror", None) or "no connection comes about")
            continue
        try:
            connection = await create_conn(host, port, request_timeout_ms=int(EXPLAIN_TIMEOUT * 1000), **security)
            try:
                await connection.send(MetadataRequest([]))
                found = BrokerUnreachable(f"{host}:{port}", "it answers only now, try again")
            finally:
                connection.close()
        except (KafkaError, OSError, TimeoutError, ValueError) as error:
            found = _meaning(f"{host}:{port}", error, kwargs)
            if isinstance(found, NotAuthenticated):
                break
    return found


def _meaning(server: str, error: Exception, kwargs: Mapping[str, Any]) -> RookeryError:
    tls_on, sasl_on = "ssl_context" in kwargs, "sasl_mechanism" in kwargs
    if isinstance(error, SaslAuthenticationFailed):
        user = kwargs["sasl_plain_username"]
        return NotAuthenticated(
            server, f"it does not take the password of user {user}", "check ROOKERY_BROKER_USER and ..._PASSWORD"
        )
    if isinstance(error, UnsupportedSaslMechanismError):
        return NotAuthenticated(server, str(error), "set ROOKERY_BROKER_SASL to a mechanism that it has")
    if isinstance(error, ssl.SSLCertVerificationError):
        why = f"its certificate is not trusted ({error.verify_message})"
        return NotAuthenticated(server, why, "set ROOKERY_BROKER_CA_FILE to its CA, ROOKERY_BROKER to a name it has")
    if isinstance(error, ssl.SSLError):
        why = f"TLS failed ({str(error.reason or error).lower().replace('_', ' ')})"
        return NotAuthenticated(
            server, why, "check that this port speaks TLS, and whether it asks for ROOKERY_BROKER_CERTIFICATE_FILE"
        )
    if isinstance(error, KafkaError | ConnectionResetError | TimeoutError):
        why = (
            "it took the connection and did not answer"
            if isinstance(error, TimeoutError)
            else "it closed the connection"
        )
        remedy = (
            "if it is not just starting or stopping, check whether this port speaks TLS (ROOKERY_BROKER_TLS), asks for "
            "a user (ROOKERY_BROKER_SASL) or for a certificate (ROOKERY_BROKER_CERTIFICATE_FILE); now TLS is "
        )
        return NotAuthenticated(server, why, remedy + f"{_on(tls_on)} and SASL {_on(sasl_on)}")
    return BrokerUnreachable(server, getattr(error, "strerror", None) or type(error).__name__)


def _on(value: bool) -> str:
    return "on" if value else "off"
