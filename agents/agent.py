"""Agent: the class that users write.

    class Counter(Agent):
        count: int = 0

        @handler
        async def add(self, msg: Add) -> Total:
            self.count += msg.n
            await self.send("Log/audit", Added(self.id, msg.n), priority=HIGH)
            return Total(self.count)

Annotated public attributes with a default are the agent's private, durable state. One message is handled at a time;
what a handler changes and sends is committed together when it returns, and dropped when it raises.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Generator, MutableMapping
from typing import Any, ClassVar, TypeVar, cast, overload

from rookery.agents.effects import HasId, TurnContext, address_of, priority_of
from rookery.agents.errors import OutsideTurn, SpawnRefused
from rookery.agents.guard import guard as _guard
from rookery.agents.steps import Call, Question
from rookery.agents.steps import ask as _ask
from rookery.agents.steps import step as _step
from rookery.agents.supervision import Supervision
from rookery.agents.types import AgentType
from rookery.schemas.envelope import Envelope, Priority, Received, envelope_of
from rookery.schemas.payload import encode

T = TypeVar("T")

# An iterator that is at its end stays there, so one serves all.
_NOTHING = cast("Generator[Any, Any, None]", iter(()))


class _Sent:
    """What send() returns: awaiting it is allowed, costs next to nothing and never waits."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, None]:
        return _NOTHING


_SENT = _Sent()


class Agent:
    """Base of all agent classes; see the head of this module. Make agents by writing to them, never by calling."""

    # Attributes that users declare and invent live in __dict__, so the framework's can't be mistaken for state.
    __slots__ = ("__context", "__dict__", "__log", "__weakref__", "id")
    __rookery_type__: ClassVar[AgentType]

    agent_type: ClassVar[str] = ""
    """The name of the type in addresses, if it is not the name of the class; not inherited."""
    supervision: ClassVar[Supervision] = Supervision()
    """What happens to messages whose turns fail."""
    state_version: ClassVar[int] = 0
    """Stored beside the state, 0 to 65,535; raise it when the meaning of a field changes."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Check and compile the class; raises InvalidAgent naming what is wrong and what to write."""
        super().__init_subclass__(**kwargs)
        cls.__rookery_type__ = AgentType(cls, Agent)

    def __init__(self, context: TurnContext) -> None:
        """Made by AgentType.create only."""
        self.id = context.address
        self.__context = context
        self.__log: logging.LoggerAdapter[logging.Logger] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    @property
    def message(self) -> Envelope:
        """The envelope of the message in hand; read it, don't change it. Raises OutsideTurn."""
        return envelope_of(self.__received())

    def __received(self) -> Received:
        envelope = self.__context.envelope
        if envelope is None:
            raise OutsideTurn(self.id, "message")
        return envelope

    @property
    def sender(self) -> str:
        """The address of the agent or client that sent the message in hand. Raises OutsideTurn."""
        return self.__received().sender

    @property
    def priority(self) -> Priority:
        """The priority that the sender gave the message in hand, NORMAL if it is none of ours. Raises OutsideTurn."""
        return priority_of(self.__received())

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that names this agent; records carry `agent_type`, `agent_id` and `message_id`."""
        if self.__log is None:
            self.__log = TurnLogger(self.__rookery_type__.name, self.__context)
        return self.__log

    def send(
        self,
        target: str | HasId,
        message: Any,
        *,
        priority: Priority = Priority.NORMAL,
        headers: dict[str, str] | None = None,
        deadline: float | None = None,
    ) -> Awaitable[None]:
        """Send a message when this turn commits: never waits for the receiver, and is dropped if the handler raises.

        Messages leave in the order of the calls. The message is encoded now; changing it later changes nothing.
        `deadline` is seconds from now, after which nobody handles the message any more. Awaiting is optional.
        Raises PayloadError, InvalidAddress, MessageTooLarge, and OutsideTurn when no message is being handled.
        """
        self.__context.send(target, message, priority, headers, deadline)
        return _SENT

    @property
    def attempt(self) -> int:
        """How many turns have failed on the message in hand before this one."""
        return self.__context.attempt

    @overload
    def step(
        self,
        name: str,
        function: Callable[..., Awaitable[T]],
        /,
        *args: Any,
        attempts: int = 1,
        timeout: float | None = None,
        backoff: float = 0.2,
        returns: Any = None,
    ) -> Awaitable[T]: ...
    @overload
    def step(
        self,
        name: str,
        function: Callable[..., T],
        /,
        *args: Any,
        attempts: int = 1,
        timeout: float | None = None,
        backoff: float = 0.2,
        returns: Any = None,
    ) -> Awaitable[T]: ...
    def step(
        self,
        name: str,
        function: Callable[..., Any],
        /,
        *args: Any,
        attempts: int = 1,
        timeout: float | None = None,
        backoff: float = 0.2,
        returns: Any = None,
    ) -> Awaitable[Any]:
        """Run `function(*args)` once and for all: its result is committed before the turn goes on, and returned from
        the journal when the turn runs again. Await it, or several with `asyncio.gather`.

        The call itself happens at least once: `rookery.idempotency_key()` inside of it is the same each time. It gets
        `attempts` tries with a growing `backoff`, and `timeout` for each, in seconds. The result must be something that
        can be sent; it is read back as `returns`, else as the function's annotation says. The slot of the pool is free
        meanwhile. Raises StepFailed when all tries failed, StepMismatch, PayloadError, BatchTooLarge, OutsideTurn.
        """
        supervision = Supervision(attempts, backoff, max(backoff, Supervision.backoff_max), timeout=timeout)
        return _step(self.__context, name, Call(function, args, supervision, returns))

    def ask(
        self,
        target: str | HasId,
        message: Any,
        timeout: float | None = None,
        *,
        priority: Priority = Priority.NORMAL,
        headers: dict[str, str] | None = None,
        reply_type: Any = None,
    ) -> Awaitable[Any]:
        """Ask another agent and wait for its reply, as a durable step: asked once, whatever happens to this turn.

        The request leaves at once, not at the end of the turn. `timeout` is seconds (default: the application's); the
        target does not handle the request after it. The reply is read as `reply_type`, by default as builtins. Other
        messages of this agent wait meanwhile; the slot of the pool is free. Raises AskTimeout, AgentError when the
        target's handler failed, AskCycle when the target waits for this agent, and what `send` and `step` raise.
        """
        question = Question(address_of(target), encode(message), timeout, priority, headers or {})
        return _ask(self.__context, question, reply_type)

    def guard(self, name: str, fence: int) -> None:
        """Accept this token of the lock `name`, and from now on no smaller one: its holder has lost the lock.

        Call it before reading or changing what the lock protects, in each turn that does. The highest token is kept in
        this agent's state and commits with the turn; equal ones pass. Raises StaleFence (an asker gets AgentError with
        the code "stale-fence"), ValueError for what is no token, and OutsideTurn.
        """
        if self.__context.sends is None:
            raise OutsideTurn(self.id, "guard()")
        _guard(self.__dict__, name, fence)

    def on_spawn(self, *args: Any, **kwargs: Any) -> Awaitable[None] | None:
        """Called once, in the turn that spawns the agent, with the arguments of spawn_agent; the default takes none."""
        if args or kwargs:
            raise SpawnRefused(self.__rookery_type__.name, "it takes no arguments")
        return None

    def on_activate(self) -> Awaitable[None] | None:
        """Called when the agent comes to memory, in the turn of the message that brought it, before its handler.

        It takes no steps. If that turn fails, what the hook did is dropped, too, and the next turn calls it again.
        """
        return None

    def on_passivate(self) -> Awaitable[None] | None:
        """Called before an idle or stopped agent leaves memory; what it changes is not stored."""
        return None


class TurnLogger(logging.LoggerAdapter[logging.Logger]):
    """Puts the agent in front of each line, and type, id and message id in the record."""

    def __init__(self, agent_type: str, context: TurnContext) -> None:
        super().__init__(logging.getLogger(f"rookery.agents.{agent_type}"), {})
        self._agent_type = agent_type
        self._context = context
        # The line may be a format string; a percent sign in a key must not become part of it.
        self._prefix = f"[{context.address}] ".replace("%", "\\x25")

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Add prefix and fields to one record."""
        envelope = self._context.envelope
        fields = {
            "agent_type": self._agent_type,
            "agent_id": self._context.address,
            "message_id": envelope.id if envelope is not None else "",
        }
        kwargs["extra"] = fields | (kwargs.get("extra") or {})
        return f"{self._prefix}{msg}", kwargs
