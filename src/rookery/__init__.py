"""Rookery: fleets of durable agents on Apache Kafka, in Python, with Faust.

This page is the public API. What needs a server or Faust is imported at its first use, so `import rookery` is quick and
an agent's module can be imported anywhere. The test kit is `rookery.testing`.
"""

from typing import TYPE_CHECKING, Any

from rookery._version import __version__
from rookery.agents import Agent, AgentHandle, AgentManager, StateView, handler
from rookery.agents.errors import AskCycle, OutsideTurn, SpawnRefused, StepFailed, StepMismatch
from rookery.agents.steps import idempotency_key
from rookery.agents.supervision import (
    HandlerTimeout,
    PauseAgent,
    Policy,
    RejectMessage,
    RetryTurn,
    SkipMessage,
    Supervision,
)
from rookery.schemas.envelope import Envelope, Priority
from rookery.schemas.errors import (
    AgentError,
    AgentStopped,
    AskTimeout,
    BatchTooLarge,
    BrokerUnreachable,
    ConfigurationError,
    InvalidAddress,
    InvalidAgent,
    MessageTooLarge,
    NotAuthenticated,
    NotAuthorized,
    NotBound,
    NotOwned,
    NotSpawned,
    Overloaded,
    PayloadError,
    RookeryError,
    SendFailed,
    UnknownAgentType,
    UnknownHandler,
    WrongTopic,
)
from rookery.schemas.fence import check_fence
from rookery.schemas.lock_errors import LockLost, LockTimeout, NoFence, RedisUnavailable, StaleFence

if TYPE_CHECKING:
    from rookery.ops.locks import Leader, Lock, RateLimit, Semaphore
    from rookery.ops.locks.functions import acquire_lock, release_lock, renew_lock
    from rookery.ops.settings import Settings
    from rookery.streams.client import Client
    from rookery.streams.kafka.app import App
    from rookery.streams.nats.errors import NatsRefused, NatsUnavailable, NotOverNats

LOW, NORMAL, HIGH = Priority.LOW, Priority.NORMAL, Priority.HIGH

__all__ = [
    "HIGH",
    "LOW",
    "NORMAL",
    "Agent",
    "AgentError",
    "AgentHandle",
    "AgentManager",
    "AgentStopped",
    "App",
    "AskCycle",
    "AskTimeout",
    "BatchTooLarge",
    "BrokerUnreachable",
    "Client",
    "ConfigurationError",
    "Envelope",
    "HandlerTimeout",
    "InvalidAddress",
    "InvalidAgent",
    "Leader",
    "Lock",
    "LockLost",
    "LockTimeout",
    "MessageTooLarge",
    "NatsRefused",
    "NatsUnavailable",
    "NoFence",
    "NotAuthenticated",
    "NotAuthorized",
    "NotBound",
    "NotOverNats",
    "NotOwned",
    "NotSpawned",
    "OutsideTurn",
    "Overloaded",
    "PauseAgent",
    "PayloadError",
    "Policy",
    "Priority",
    "RateLimit",
    "RedisUnavailable",
    "RejectMessage",
    "RetryTurn",
    "RookeryError",
    "Semaphore",
    "SendFailed",
    "Settings",
    "SkipMessage",
    "SpawnRefused",
    "StaleFence",
    "StateView",
    "StepFailed",
    "StepMismatch",
    "Supervision",
    "UnknownAgentType",
    "UnknownHandler",
    "WrongTopic",
    "__version__",
    "acquire_lock",
    "check_fence",
    "handler",
    "idempotency_key",
    "release_lock",
    "renew_lock",
]

_AT_FIRST_USE = {
    **dict.fromkeys(("Leader", "Lock", "RateLimit", "Semaphore"), "rookery.ops.locks"),
    **dict.fromkeys(("acquire_lock", "release_lock", "renew_lock"), "rookery.ops.locks.functions"),
    **dict.fromkeys(("NatsRefused", "NatsUnavailable", "NotOverNats"), "rookery.streams.nats.errors"),
    "App": "rookery.streams.kafka.app",
    "Client": "rookery.streams.client",
    "Settings": "rookery.ops.settings",
}


def __getattr__(name: str) -> Any:
    if name not in _AT_FIRST_USE:
        raise AttributeError(f"module 'rookery' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_AT_FIRST_USE[name]), name)
    return value
