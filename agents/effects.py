"""What a turn leaves: the messages it sends, encoded when they are sent and in the order written.

Nothing here talks to a network. The engine opens the context before each turn, takes the sends after it, and commits
them with the state, or drops them when the handler raised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from msgspec import Struct

from rookery.agents.errors import OutsideTurn
from rookery.agents.steps import is_in_step
from rookery.schemas import native
from rookery.schemas import payload as codecs
from rookery.schemas.address import check
from rookery.schemas.envelope import FRAME_BYTES_MAX, JSON, SEAL_BYTES, Priority, Received, check_frame, encode_body
from rookery.schemas.errors import MessageTooLarge
from rookery.schemas.system import ASK_PREFIX, ERROR_HEADER, FAILURE, REPLY, Failure

if TYPE_CHECKING:
    from rookery.agents.steps import StepLog

_TRACE = "traceparent"
_PRIORITIES = tuple(Priority)
# The text of an error reply; a traceback belongs in the dead letter.
_FAILURE_CHARS_MAX = 4_000


class HasId(Protocol):
    """Whatever has an address: an agent, a handle."""

    @property
    def id(self) -> str:
        """The address."""


class Outgoing(Struct, gc=False, eq=False):
    """One message that a turn sends: `body` is an envelope that is not sealed yet. A reply knows its conversation."""

    target: str
    priority: int
    body: bytes
    correlation_id: str = ""


def address_of(target: str | HasId) -> str:
    """The address of a target, checked; raises InvalidAddress."""
    return check(target if isinstance(target, str) else getattr(target, "id", repr(target)))


def priority_of(envelope: Received) -> Priority:
    """The priority of a message, NORMAL for numbers that are none: another language's client may have written any."""
    number: int = envelope.priority
    return _PRIORITIES[number] if 0 <= number < len(_PRIORITIES) else Priority.NORMAL


class TurnFields:
    """What a TurnContext holds."""

    __slots__ = (
        "_lineage",
        "address",
        "attempt",
        "envelope",
        "message_bytes_max",
        "new_id",
        "now_ns",
        "open_steps",
        "sends",
        "steps",
    )

    def __init__(
        self,
        address: str,
        new_id: Callable[[], str],
        message_bytes_max: int,
        open_steps: Callable[[TurnContext], StepLog] | None = None,
    ) -> None:
        """Serve the agent at `address`; `new_id` makes message ids, `message_bytes_max` bounds a sealed envelope, and
        `open_steps` begins the log of the turn in hand at its first step."""
        self.address = address
        self.open_steps = open_steps
        self.steps: StepLog | None = None  # of the turn in hand
        self.attempt = 0  # turns that have failed on the message in hand
        self.new_id = new_id
        self.message_bytes_max = message_bytes_max
        self.envelope: Received | None = None
        self.now_ns = 0
        self.sends: list[Outgoing] | None = None
        self._lineage: tuple[str, str, dict[str, str] | None] | None = None

    def begin(self, envelope: Received | None, now_ns: int) -> None:
        """Open a turn on this message at this instant (nanoseconds since the epoch)."""
        self.envelope = envelope
        self.now_ns = now_ns
        self.sends = []
        self.steps = None
        self._lineage = None

    def end(self) -> None:
        """Let go of the message: what the agent keeps of it until its next turn would be memory of each agent."""
        self.envelope = self._lineage = None


if (_compiled := native.load("rookery.agents._effects")) is not None:
    TurnFields = _compiled.TurnFields  # type: ignore[misc]


class TurnContext(TurnFields):
    """What the turns of one activation see and leave; made once per activation, opened and emptied for each turn.

    `sends` is None while no turn is open. `envelope` is the message in hand, None in a hook that no message caused.
    """

    __slots__ = ()

    def take(self) -> list[Outgoing]:
        """Close the turn and return what it sent, in order; the message stays readable for the reply."""
        sends, self.sends = self.sends, None
        return sends or []

    def open(self) -> StepLog:
        """The steps of the turn in hand; raises OutsideTurn."""
        if self.steps is None:
            if self.sends is None or self.open_steps is None:
                raise OutsideTurn(self.address, "a step or ask")
            self.steps = self.open_steps(self)
        elif is_in_step():
            raise OutsideTurn(self.address, "a step or ask inside a step, whose function does not run again,")
        return self.steps

    def request(
        self,
        target: str,
        message: tuple[str, str, bytes],
        priority: Priority,
        headers: dict[str, str],
        deadline_ns: int,
        request_id: str,
    ) -> Outgoing:
        """The request of an ask, which leaves before the turn ends; raises MessageTooLarge."""
        correlation_id, causation_id, trace = self._lineage or self._trace()
        type_name, content_type, payload = message
        body = encode_body(
            self.address,
            target,
            payload,
            self.now_ns,
            priority,
            request_id,
            type_name,
            content_type,
            correlation_id=correlation_id,
            causation_id=causation_id,
            reply_to=self.address,
            deadline=deadline_ns,
            headers={**(trace or {}), **headers},
        )
        self.bound(body, target, payload)
        return Outgoing(target, priority, body)

    def send(
        self,
        target: str | HasId,
        message: Any,
        priority: Priority,
        headers: dict[str, str] | None,
        deadline: float | None,
    ) -> None:
        """Record one send; see Agent.send."""
        type_name, content_type, payload = codecs.encode(message)
        self.send_encoded(target, type_name, content_type, payload, priority, headers, deadline)

    def send_encoded(
        self,
        target: str | HasId,
        type_name: str,
        content_type: str,
        payload: bytes,
        priority: Priority,
        headers: dict[str, str] | None = None,
        deadline: float | None = None,
    ) -> None:
        """Record one send of bytes that are encoded; raises OutsideTurn, InvalidAddress, MessageTooLarge."""
        sends = self.sends
        if sends is None:
            raise OutsideTurn(self.address, "send()")
        if self.steps is not None and is_in_step():
            raise OutsideTurn(self.address, "send() inside a step, whose function does not run again,")
        address = address_of(target)
        correlation_id, causation_id, trace = self._lineage or self._trace()
        if trace is not None:
            headers = trace if headers is None else trace | headers
        body = encode_body(
            self.address,
            address,
            payload,
            self.now_ns,
            priority,
            self.new_id(),
            type_name,
            content_type,
            correlation_id=correlation_id,
            causation_id=causation_id,
            deadline=0 if deadline is None else self.now_ns + int(deadline * 1e9),
            headers=headers,
        )
        self.bound(body, address, payload)
        sends.append(Outgoing(address, priority, body))

    def _trace(self) -> tuple[str, str, dict[str, str] | None]:
        """(correlation id, causation id, trace headers) for what this turn sends; read from the message once a turn."""
        envelope = self.envelope
        if envelope is None:
            self._lineage = ("", "", None)
        else:
            headers = envelope.headers
            trace = {_TRACE: headers[_TRACE]} if _TRACE in headers else None
            self._lineage = (envelope.correlation_id or envelope.id, envelope.id, trace)
        return self._lineage

    def bound(self, body: bytes, target: str, payload: bytes | None = None) -> None:
        """Raise MessageTooLarge for a body that no inbox takes, FrameTooLarge for one that no agent reads."""
        size = len(body) + SEAL_BYTES
        if size > self.message_bytes_max:
            raise MessageTooLarge(size, self.message_bytes_max, target)
        if size > FRAME_BYTES_MAX and payload is not None:
            check_frame(body, payload)


def reply_body(context: TurnContext, result: Any) -> Outgoing | None:
    """The reply to the message in hand, or None if none was asked for; None as a result travels as JSON null.

    The target is whatever `reply_to` says: a client or an agent. Raises PayloadError, MessageTooLarge.
    """
    envelope = context.envelope
    if envelope is None or not (target := envelope.reply_to):
        return None
    outgoing = answer_body(envelope, context.address, target, codecs.encode(result), context.now_ns, context.new_id())
    if len(outgoing.body) + SEAL_BYTES > context.message_bytes_max:
        context.bound(outgoing.body, target)
    return outgoing


def error_body(envelope: Received, error: str, text: str, *, now_ns: int, message_id: str) -> Outgoing | None:
    """The reply that says that the message was not handled, or None if no reply was asked for.

    `error` is the `reason` of a typed error; `text` is cut to 4,000 characters.
    """
    if not (target := envelope.reply_to):
        return None
    failure = (FAILURE, JSON, msgspec.json.encode(Failure(error, text[:_FAILURE_CHARS_MAX])))
    return answer_body(envelope, envelope.target, target, failure, now_ns, message_id, {ERROR_HEADER: error})


def answer_body(
    envelope: Received,
    sender: str,
    target: str,
    message: tuple[str, str, bytes],
    now_ns: int,
    message_id: str,
    headers: dict[str, str] | None = None,
) -> Outgoing:
    """The reply of `sender` to a message, for `target`; `message` is type, content type and payload."""
    type_name, content_type, payload = message
    priority = priority_of(envelope)
    message_headers = envelope.headers
    if _TRACE in message_headers:
        headers = {_TRACE: message_headers[_TRACE], **(headers or {})}
    cause = envelope.id
    if cause.startswith(ASK_PREFIX):
        type_name = REPLY
    correlation_id = envelope.correlation_id or cause
    body = encode_body(
        sender,
        target,
        payload,
        now_ns,
        priority,
        message_id,
        type_name,
        content_type,
        correlation_id,
        cause,
        headers=headers,
    )
    return Outgoing(target, priority, body, correlation_id)
