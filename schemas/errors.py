"""Every error that Rookery raises on purpose, in one tree.

Each class keeps the facts as fields, renders a message that says what to do next, and carries a short stable code in
`reason`, which travels in dead letters, metrics and error replies. Catch `RookeryError` to catch them all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar


class RookeryError(Exception):
    """Base of all errors of Rookery; `reason` is a stable code, `retriable` says whether trying again can help."""

    reason: ClassVar[str] = "error"
    retriable: ClassVar[bool] = False


# --- set-up ---------------------------------------------------------------------------------------------------------


class ConfigurationError(RookeryError):
    """Settings, topics or declarations that can't work; `problems` has one sentence for each."""

    reason = "configuration"

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        lines = self.problems if len(self.problems) == 1 else ("", *(f"  - {line}" for line in self.problems))
        super().__init__("configuration: " + "\n".join(lines))


class WrongTopic(RookeryError):
    """A topic exists with partitions or a policy that would break a promise; `command` mends it."""

    reason = "wrong-topic"

    def __init__(self, topic: str, why: str, command: str = "") -> None:
        self.topic, self.why, self.command = topic, why, command
        super().__init__(f"topic {topic}: {why}" + (f"; mend it with: {command}" if command else ""))


class OtherApplication(RookeryError):
    """The application id belongs to a program with another topology; `command` mends it."""

    reason = "other-application"

    def __init__(self, app_id: str, why: str, command: str) -> None:
        self.app_id, self.why, self.command = app_id, why, command
        super().__init__(
            f"{app_id} is another application: {why}; give this one an id of its own (ROOKERY_APP_ID), or, if the "
            f"change is meant, stop all workers and mend it with: {command}"
        )


class NotFenced(RookeryError):
    """The broker took an append of an older lease after one of a newer: workers could overwrite each other."""

    reason = "not-fenced"

    def __init__(self, broker: str) -> None:
        self.broker = broker
        super().__init__(
            f"the broker {broker} took a record of an old producer epoch after one of a newer epoch, so it can't keep "
            "two workers from writing the same state: use Apache Kafka 4 (tested: 4.1), or one that fences idempotent "
            "producers like it"
        )


class IncompatibleVersion(RookeryError):
    """A library, broker or record has a version that this Rookery can't work with."""

    reason = "incompatible-version"

    def __init__(self, what: str, found: object, supported: object) -> None:
        self.what, self.found, self.supported = what, found, supported
        super().__init__(f"{what} is {found}, but this version of Rookery needs {supported}")


class BrokerUnreachable(RookeryError, ConnectionError):
    """No Kafka server can be reached under the configured address."""

    reason = "broker-unreachable"
    retriable = True

    def __init__(self, broker: str, why: str) -> None:
        self.broker, self.why = broker, why
        super().__init__(f"no Kafka answers at {broker}: {why}; check that it runs, or set ROOKERY_BROKER=host:port")


class NotAuthenticated(RookeryError):
    """A Kafka server and we do not trust each other: TLS, certificate, user or password; `remedy` says what to set."""

    reason = "not-authenticated"

    def __init__(self, broker: str, why: str, remedy: str) -> None:
        self.broker, self.why, self.remedy = broker, why, remedy
        super().__init__(f"Kafka at {broker} can't be used: {why}; {remedy}")


class NotAuthorized(RookeryError):
    """The broker knows us and refuses us something; `resource` says what."""

    reason = "not-authorized"

    def __init__(self, resource: str) -> None:
        self.resource = resource
        super().__init__(
            f"the broker refuses access to {resource}: `faust -A <app> topics acls` prints what has to be allowed"
        )


class NotBound(RookeryError):
    """An operation needs a running application, client or test kit, and there is none."""

    reason = "not-bound"

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f"{what} needs a running Rookery: use it inside a worker, inside `async with Client(...)`, "
            "or in a test with the kit of rookery.testing"
        )


class InvalidAgent(RookeryError, TypeError):
    """An agent class is declared in a way that can't work; raised when the class is made."""

    reason = "invalid-agent"

    def __init__(self, agent_type: str, why: str) -> None:
        self.agent_type, self.why = agent_type, why
        super().__init__(f"agent class {agent_type}: {why}")


# --- what travels ---------------------------------------------------------------------------------------------------


class InvalidAddress(RookeryError, ValueError):
    """A string that is neither `Type/key` nor the id of a spawned agent."""

    reason = "invalid-address"

    def __init__(self, address: object, why: str) -> None:
        self.address, self.why = address, why
        super().__init__(
            f"{_short(address)} is no address: {why}; write `Type/key` or the id that spawn_agent returned"
        )


class EnvelopeError(RookeryError, ValueError):
    """A record of an inbox that can't be read as an envelope; it becomes a dead letter with its original bytes."""

    reason = "bad-envelope"


class MissingCrc(EnvelopeError):
    """A protobuf record that doesn't end with the field crc32."""

    reason = "missing-crc"

    def __init__(self, size: int) -> None:
        self.size = size
        super().__init__(
            f"record of {size} bytes doesn't end with the field crc32 (0x7d and four bytes); end it with the CRC-32 of "
            "all bytes before it, or send JSON with the header `content-type: application/json`"
        )


class CrcMismatch(EnvelopeError):
    """A record whose bytes are not the ones that were sealed."""

    reason = "crc-mismatch"

    def __init__(self, stated: int, computed: int) -> None:
        self.stated, self.computed = stated, computed
        super().__init__(f"record states crc32 {stated:#010x}, its bytes have {computed:#010x}: changed on the way")


class Undecodable(EnvelopeError):
    """A record that is intact but is not what it claims to be."""

    reason = "undecodable"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"record can't be decoded: {why}")


class FrameTooLarge(EnvelopeError):
    """What stands around the payload (names, ids, headers) is more than any message needs; sizes are bytes."""

    reason = "frame-too-large"

    def __init__(self, what: str, size: int, limit: int) -> None:
        self.what, self.size, self.limit = what, size, limit
        super().__init__(f"{what}: {size}, the limit is {limit}; put data into the payload, not around it")


class PayloadError(RookeryError, ValueError):
    """A message or state that can't be encoded, or a payload that doesn't fit what a handler declares."""

    reason = "bad-payload"

    def __init__(self, why: str, type_name: str = "") -> None:
        self.why, self.type_name = why, type_name
        super().__init__(f"payload of type {type_name}: {why}" if type_name else f"payload: {why}")


class MessageTooLarge(RookeryError, ValueError):
    """One message is larger than its topic takes; sizes are bytes."""

    reason = "message-too-large"

    def __init__(self, size: int, limit: int, target: str = "") -> None:
        self.size, self.limit, self.target = size, limit, target
        to = f" to {target}" if target else ""
        super().__init__(f"message{to} has {size} bytes, the limit is {limit}: send a reference to the data instead")


class BatchTooLarge(RookeryError, ValueError):
    """The effects of one turn don't fit one journal batch; sizes are bytes. Nothing of the turn was written."""

    reason = "batch-too-large"

    def __init__(self, size: int, limit: int, agent: str = "") -> None:
        self.size, self.limit, self.agent = size, limit, agent
        of = f" of {agent}" if agent else ""
        super().__init__(
            f"a turn{of} writes {size} bytes, one commit batch holds {limit}: send fewer messages in a turn, keep what "
            "grows in cells, or raise ROOKERY_BATCH_BYTES_MAX with the topic's max.message.bytes"
        )


# --- agents and their callers ---------------------------------------------------------------------------------------


class UnknownAgentType(RookeryError, LookupError):
    """No agent class of this name is registered here."""

    reason = "unknown-agent-type"

    def __init__(self, agent_type: str, known: Iterable[str] = ()) -> None:
        self.agent_type, self.known = agent_type, tuple(sorted(known))
        super().__init__(
            f"no agent type {agent_type!r} here; {_known('types', self.known)}: import its module in the app"
        )


class UnknownHandler(RookeryError, LookupError):
    """An agent has no handler for a message type."""

    reason = "unknown-handler"

    def __init__(self, agent_type: str, message_type: str, known: Iterable[str] = ()) -> None:
        self.agent_type, self.message_type, self.known = agent_type, message_type, tuple(sorted(known))
        super().__init__(
            f"{agent_type} has no handler for {message_type!r}; {_known('handlers', self.known)}: "
            "add a method with @handler and that message class"
        )


class NotSpawned(RookeryError, LookupError):
    """A message waited for the spawn of its target, and the spawn didn't come; `waited` is seconds."""

    reason = "not-spawned"

    def __init__(self, agent: str, waited: float) -> None:
        self.agent, self.waited = agent, waited
        super().__init__(
            f"agent {agent} was not spawned within {waited:g} s: send only to ids that spawn_agent returned"
        )


class Misrouted(RookeryError):
    """A message lies on a partition that is not its target's; handling it there would make a second agent."""

    reason = "misrouted"

    def __init__(self, agent: str, partition: int) -> None:
        self.agent, self.partition = agent, partition
        super().__init__(
            f"message for {agent} lies on partition {partition}, where this agent does not live: produce with the "
            "address as the record key and Kafka's default partitioner"
        )


class AgentStopped(RookeryError):
    """The agent was stopped for good; it takes no more messages."""

    reason = "agent-stopped"

    def __init__(self, agent: str) -> None:
        self.agent = agent
        super().__init__(f"agent {agent} was stopped: spawn a new one")


class AgentError(RookeryError):
    """The handler that was asked failed; `error` is its error text, `error_type` the class name."""

    reason = "handler-failed"

    def __init__(self, agent: str, error: str, error_type: str = "") -> None:
        self.agent, self.error, self.error_type = agent, error, error_type
        what = f"{error_type}: {error}" if error_type else error
        super().__init__(f"agent {agent} failed: {what}; the message is in the dead-letter topic")


class AskTimeout(RookeryError, TimeoutError):
    """No reply came within `timeout` seconds; whether the agent handled the message is unknown."""

    reason = "ask-timeout"
    retriable = True

    def __init__(self, agent: str, timeout: float) -> None:
        self.agent, self.timeout = agent, timeout
        super().__init__(
            f"no reply from {agent} within {timeout:g} s: the outcome is unknown, the message may still be handled; "
            "ask for the state, or ask again with the same message id"
        )


class SendFailed(RookeryError, ConnectionError):
    """No broker has confirmed what was sent to `target`: it may be stored or not."""

    reason = "send-failed"
    retriable = True

    def __init__(self, target: str, why: str) -> None:
        self.target, self.why = target, why
        super().__init__(f"what was sent to {target} may not have arrived: {why}; look after Kafka, and send it again")


class Expired(RookeryError, TimeoutError):
    """A message reached its agent after its deadline (nanoseconds since the epoch) and was not handled."""

    reason = "expired"

    def __init__(self, agent: str, deadline: int) -> None:
        self.agent, self.deadline = agent, deadline
        super().__init__(f"message for {agent} came after its deadline {deadline}: send it again with a later one")


class Overloaded(RookeryError):
    """The target takes no more work now; try again after `retry_after` seconds."""

    reason = "overloaded"
    retriable = True

    def __init__(self, target: str, retry_after: float) -> None:
        self.target, self.retry_after = target, retry_after
        super().__init__(f"{target} is overloaded: try again in {retry_after:g} s")


class NotOwned(RookeryError, AttributeError):
    """An attribute was read from the handle of an agent that lives in another process."""

    reason = "not-owned"

    def __init__(self, agent: str, attribute: str = "") -> None:
        self.agent, self.attribute = agent, attribute
        what = f"attribute {attribute!r} of agent {agent}" if attribute else f"agent {agent}"
        super().__init__(f"{what} is not in this process: use `await handle.state()`")


def _known(what: str, names: tuple[str, ...]) -> str:
    if not names:
        return f"there are no {what}"
    return f"{what} are {', '.join(names[:20])}" + (" ..." if len(names) > 20 else "")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
