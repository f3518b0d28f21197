"""Helpers of the tests of agents: messages, an agent in an open turn, a connection that records and answers."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rookery.agents.agent import Agent
from rookery.agents.binding import Reply
from rookery.agents.effects import Outgoing, TurnContext
from rookery.agents.types import AgentType, Registry
from rookery.schemas.envelope import JSON, Envelope, Priority, Received, decode, frame_of, seal

A = TypeVar("A", bound=Agent)

NOW_NS = 1_700_000_000_123_456_789


@dataclass
class Add:
    n: int


@dataclass
class Total:
    count: int


def a_context(address: str = "Counter/a", message_bytes_max: int = 1_000_000) -> TurnContext:
    numbers = itertools.count(1)
    return TurnContext(address, lambda: f"new-{next(numbers)}", message_bytes_max)


def an_envelope(**fields: Any) -> Received:
    fields = {"sender": "Sender/s", "target": "Counter/a", "id": "m1", "content_type": JSON} | fields
    return frame_of(Envelope(**fields))


def in_turn(cls: type[A], envelope: Received | None = None, address: str = "Counter/a") -> tuple[A, TurnContext]:
    """A fresh agent with a turn opened on a message."""
    context = a_context(address)
    agent = AgentType.of(cls).create(context)
    context.begin(envelope if envelope is not None else an_envelope(), NOW_NS)
    assert isinstance(agent, cls)
    return agent, context


def read(outgoing: Outgoing) -> Received:
    """What the receiver of a message will see."""
    return decode(seal(outgoing.body, 0, 1))


@dataclass
class Call:
    kind: str
    target: str
    type: str
    content_type: str
    payload: bytes
    priority: Priority
    timeout: float | None = None
    deadline_ns: int = 0

    @property
    def body(self) -> Any:
        return json.loads(self.payload)


@dataclass
class FakeConnection:
    """Answers every ask with `reply` and records everything; `states` holds what is committed here."""

    reply: Reply = field(default_factory=lambda: Reply("x", JSON, b"null"))
    calls: list[Call] = field(default_factory=list)
    states: dict[str, tuple[AgentType, bytes | None]] = field(default_factory=dict)
    registry: Registry = field(default_factory=Registry)
    away: Exception | None = None

    async def tell(
        self,
        target: str,
        message_type: str,
        content_type: str,
        payload: bytes,
        *,
        priority: Priority,
        sender: str | None = None,
        deadline_ns: int = 0,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.calls.append(Call("tell", target, message_type, content_type, payload, priority, deadline_ns=deadline_ns))

    async def ask(
        self,
        target: str,
        message_type: str,
        content_type: str,
        payload: bytes,
        *,
        priority: Priority,
        timeout: float | None,
        sender: str | None = None,
        deadline_ns: int = 0,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        self.calls.append(Call("ask", target, message_type, content_type, payload, priority, timeout))
        return self.reply

    def committed(self, address: str) -> tuple[AgentType, bytes | None]:
        if self.away is not None:
            raise self.away
        return self.states[address]

    def register(self, cls: type[Agent]) -> None:
        self.registry.add(cls)

    def new_agent_id(self) -> str:
        return "0" * 12 + "4000" + "8" + "0" * 15

    def now_ns(self) -> int:
        return NOW_NS
